"""A model is asked from a text, its answers are graded, and a run goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.common.errors import UserError
from converters.webqa import __main__ as converter
from eval.webqa import __main__ as webqa

pytestmark = pytest.mark.backend


def test_a_model_is_asked_and_graded(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {}
    for i in range(4):
        evidence = {"answer": ["no_answer"] if i % 2 else [f"{i}号"], "evidence": f"这里是{i}号。"}
        data[f"Q{i}"] = {"question": f"第{i}个？", "evidences": {f"Q{i}#00": evidence}}
    (tmp_path / "webqa.json").write_text(json.dumps(data))
    converter.main([str(tmp_path / "webqa.json"), "-o", str(tmp_path / "test.jsonl")])
    command = ["--ckpt", str(tiny_llama), "--template", "llama3", "--data", str(tmp_path / "test.jsonl")]
    command += ["--out", str(tmp_path / "out"), "--max-new-tokens", "4", "--device", "cpu"]
    assert webqa.main(command) == 0
    first = (tmp_path / "out/predictions.jsonl").read_text()
    rows = [json.loads(line) for line in first.splitlines()]
    assert sorted(row["id"] for row in rows) == [f"Q{i}#00" for i in range(4)]
    assert [row["wanted"] for row in sorted(rows, key=lambda row: row["id"])] == ["answered", "refused"] * 2
    assert all(row["n_tokens"] <= 4 for row in rows)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["n-samples"]["webqa_test"]["effective"] == 4
    # everything is there: nothing is asked again
    capsys.readouterr()
    assert webqa.main(command) == 0
    assert (tmp_path / "out/predictions.jsonl").read_text() == first
    # one answer is lost: one is asked
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/predictions.jsonl").write_text("".join(lines[:3]))
    with pytest.raises(UserError, match="3 rows, where 4 were answered"):
        webqa.main(["--predictions", str(tmp_path / "out/predictions.jsonl")])
    assert webqa.main(command) == 0
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 4


def test_rows_without_an_answer_are_told(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"conversations": [{"from": "human", "value": "?"}]}))
    with pytest.raises(UserError, match="row 1: no answer to grade by"):
        webqa.main(["--ckpt", str(tiny_llama), "--template", "llama3", "--data", str(path)])
