"""WebQA becomes questions with a text, refusals in the report's words, in the share that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.webqa import __main__ as webqa
from converters.webqa.rows import REFUSALS, contains, share_rule

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data")) / "webqa/me_test.ann.json"

NEWSPAPER = {
    "question": "世界上最早的报纸诞生于",
    "evidences": {
        "Q_TRN_005637#00": {"answer": ["no_answer"], "evidence": "1、十月革命胜利<e>2、二战结束后"},
        "Q_TRN_005637#03": {"answer": ["中国"], "evidence": "中国新闻史上最早的印刷报纸"},
        "Q_TRN_005637#04": {"answer": ["罗马"], "evidence": "一般认为，诞生在罗马。"},
        "Q_TRN_005637#05": {"answer": ["中国"], "evidence": "中国在7世纪，唐朝"},
    },
}


def data_file(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "webqa.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def many(questions: int, *, unanswered: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for i in range(questions):
        evidence = {"answer": ["no_answer"] if i < unanswered else [f"城市{i}号"], "evidence": f"这里是城市{i}号。"}
        data[f"Q{i}"] = {"question": f"第{i}个城市叫什么？", "evidences": {f"Q{i}#00": evidence}}
    return data


def run(tmp_path: Path, data: Any, *options: str) -> list[dict[str, Any]]:
    webqa.main([data_file(tmp_path, data), "-o", str(tmp_path / "out.json"), *options])
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def report(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out.json.report.json").read_text(encoding="utf-8"))


def test_the_report_s_own_row(tmp_path: Path) -> None:
    rows = run(tmp_path, {"Q_TRN_005637": NEWSPAPER})
    assert [row["id"] for row in rows] == list(NEWSPAPER["evidences"])
    assert rows[0]["instruction"] == "请根据给定下文：1、十月革命胜利<e>2、二战结束后\n告诉我世界上最早的报纸诞生于\n"
    assert rows[0]["input"] == ""
    assert rows[0]["output"] in REFUSALS
    assert [row["output"] for row in rows[1:]] == ["中国", "罗马", "中国"]
    seeds = {run(tmp_path, {"Q_TRN_005637": NEWSPAPER}, "--seed", str(seed))[0]["output"] for seed in range(40)}
    assert len(seeds) > 5


def test_refusals_are_all_used_about_equally(tmp_path: Path) -> None:
    rows = run(tmp_path, many(500, unanswered=500))
    counts = [sum(row["output"] == refusal for row in rows) for refusal in REFUSALS]
    assert sum(counts) == 500
    assert min(counts) > 25


def test_voted_evidence(tmp_path: Path) -> None:
    [row] = run(tmp_path, {"Q": NEWSPAPER}, "--evidences", "voted")
    assert (row["id"], row["output"]) == ("Q_TRN_005637#03", "中国")
    assert report(tmp_path)["dropped"] == {"another evidence of the same question was taken": 3}
    nothing = {"question": "谁？", "evidences": {"a": {"answer": ["no_answer"], "evidence": "无"}}}
    [row] = run(tmp_path, {"Q": nothing}, "--evidences", "voted")
    assert row["output"] in REFUSALS


def test_the_refusal_share_is_exact(tmp_path: Path) -> None:
    data = many(200, unanswered=150)
    for share, expected in (("0.3", (50, 21)), ("0.5", (50, 50)), ("0", (50, 0)), ("1", (0, 150))):
        rows = run(tmp_path, data, "--refusal-share", share)
        refused = sum(row["output"] in REFUSALS for row in rows)
        assert (len(rows) - refused, refused) == expected
    rows = run(tmp_path, data, "--refusal-share", "0.25", "--rows", "43", "--multiple-of", "8")
    assert (len(rows), sum(row["output"] in REFUSALS for row in rows)) == (40, 10)
    with pytest.raises(UserError, match=r"70 answered rows wanted for --refusal-share 0\.3, 50 there are"):
        run(tmp_path, data, "--refusal-share", "0.3", "--rows", "100")


@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 100).map(lambda percent: percent / 100),
    st.integers(1, 16),
)
def test_a_share_takes_as_many_rows_as_there_are(answered: int, refused: int, share: float, multiple: int) -> None:
    available = {"answered": answered, "refused": refused}
    # with the exact share no more can be had
    most = min(answered / (1 - share) if share < 1 else refused, refused / share if share else answered)
    try:
        quota = share_rule(share)(available, None, multiple)
    except UserError:
        assert most < 2 * multiple
        return
    total = sum(quota.values())
    assert most - 2 * multiple < total <= most + 1e-6
    assert total % multiple == 0
    assert all(quota[kind] <= available[kind] for kind in quota)
    assert abs(quota["refused"] - share * total) <= 0.5 + 1e-9


def test_a_lopsided_file_warns(tmp_path: Path) -> None:
    run(tmp_path, many(10))
    assert "100.0% of the rows are answered" in report(tmp_path)["notes"][0]
    assert "--make-unanswerable makes refusals" in report(tmp_path)["notes"][0]
    run(tmp_path, many(10, unanswered=7))
    assert "70.0% of the rows are refused" in report(tmp_path)["notes"][0]
    for data, options in ((many(10, unanswered=6), []), (many(10, unanswered=9), ["--refusal-share", "0.5"])):
        run(tmp_path, data, *options)
        assert report(tmp_path)["notes"] == []


def test_made_unanswerable_texts_lack_the_answer(tmp_path: Path) -> None:
    data = many(60)
    rows = run(tmp_path, data, "--make-unanswerable")
    made = [row for row in rows if "+" in row["id"]]
    assert len(rows) == 120
    assert len(made) == 60
    assert report(tmp_path)["evidence"]["made_unanswerable"] == 60
    for row in made:
        own, other = row["id"].split("+")
        answer = data[own.split("#")[0]]["evidences"][own]["answer"][0]
        assert own != other
        assert row["output"] in REFUSALS
        assert answer not in row["instruction"]
        assert data[own.split("#")[0]]["question"] in row["instruction"]
    assert run(tmp_path, data, "--make-unanswerable") == rows
    # every text holds the answer: nothing can be made, and that is said
    same = {
        f"Q{i}": {"question": f"{i}？", "evidences": {f"Q{i}#0": {"answer": ["京"], "evidence": "京"}}}
        for i in range(3)
    }
    assert len(run(tmp_path, same, "--make-unanswerable")) == 3
    assert report(tmp_path)["dropped"] == {"made unanswerable: no text without the answer was drawn": 3}


def test_held_out_questions_are_not_trained_on(tmp_path: Path) -> None:
    held = tmp_path / "held.json"
    options = ["--make-unanswerable", "--refusal-share", "0.3", "--holdout", "20", "--holdout-out", str(held)]
    rows = run(tmp_path, many(100), *options)
    aside = json.loads(held.read_text())
    assert len(aside) == 20
    assert sum(row["output"] in REFUSALS for row in aside) == 6
    assert not {row["id"].split("#")[0] for row in rows} & {row["id"].split("#")[0] for row in aside}
    with pytest.raises(UserError, match="takes all 100 groups"):
        run(tmp_path, many(100), "--holdout", "100", "--holdout-out", str(held))


def test_answers_are_looked_for_without_punctuation() -> None:
    assert contains("他著有《红楼梦》。", "红楼梦")
    assert contains("The Ｂ－２ bomber", "b-2")
    assert not contains("红楼", "红楼梦")
    assert contains("a → b", "→")


def test_broken_evidences_are_rejected(tmp_path: Path) -> None:
    data = many(3)
    data["Q0"]["evidences"]["Q0#00"]["answer"] = []
    data["Q1"]["evidences"]["Q1#00"]["answer"] = ["no_answer", "x"]
    data["Q3"] = {"question": "?"}
    data["Q4"] = {"question": "?", "evidences": {"Q4#0": {"answer": ["x"], "evidence": " "}, "Q4#1": 3}}
    rows = run(tmp_path, data, "--max-rejected", "1")
    assert [row["id"] for row in rows] == ["Q2#00"]
    assert report(tmp_path)["rejected"] == {
        "no answer": 1,
        "answer and no answer": 1,
        "missing key": 1,
        "empty text": 1,
        "not an object": 1,
    }
    with pytest.raises(UserError, match="5 of 6 rows rejected"):
        run(tmp_path, data)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UsageError, "empty; WebQA's JSON, such as"),
        (b"{", UserError, "not JSON"),
        (b'{"a": 1}', UserError, "found the keys 'a'; expected question ids, such as"),
        (b"[]", UserError, "found list"),
        ('{"问": 1}'.encode("gb18030"), UserError, "not UTF-8 .*iconv -f GBK"),
    ],
)
def test_bad_files(content: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "webqa.json"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        webqa.main([str(path), "-o", str(tmp_path / "out.jsonl")])
    assert not (tmp_path / "out.jsonl").exists()


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--refusal-share is 1\.5"):
        webqa.main(["x", "-o", str(tmp_path / "out.jsonl"), "--refusal-share", "1.5"])
    with pytest.raises(UsageError, match="no such file"):
        webqa.main([str(tmp_path / "x"), "-o", str(tmp_path / "out.jsonl")])


def test_the_real_file(tmp_path: Path) -> None:
    if not REAL.is_file():
        pytest.skip(f"no {REAL}")
    out = tmp_path / "out.json"
    webqa.main([str(REAL), "-o", str(out), "--make-unanswerable", "--refusal-share", "0.3"])
    rows = json.loads(out.read_text())
    assert len(rows) == 4320
    assert sum(row["output"] in REFUSALS for row in rows) == 1296
    assert report(tmp_path)["rows"] == {"in": 3024, "rejected": 0, "converted": 6048}


def test_help_is_there_at_once() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "converters.webqa", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert " numpy\n" not in done.stderr
