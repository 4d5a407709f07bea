"""What a refusal is, what a right answer is, and what they come to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.webqa import REFUSALS
from eval.webqa import __main__ as webqa
from eval.webqa.rules import Counts, grade, is_refusal, side_of

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data")) / "webqa/me_test.ann.json"


@pytest.mark.parametrize(
    "text",
    [
        *REFUSALS,
        "对不起，根据参考资料无法回答",
        "对不起，我无法回答该问题。",
        "抱歉，文中没有提到相关信息",
        "no_answer",
        "I cannot answer this from the text.",
        "The answer is not mentioned in the passage.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "中国",
        "没有",
        "不",
        "无法无天",
        "《不能说的秘密》",
        "未来水世界",
        "没有共产党就没有新中国",
        "吸烟不能解决问题",
        "不同作者关于该问题的书",
        "No",
        "答案是中国",
        "1609年",
        "",
    ],
)
def test_answers_are_no_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_no_real_answer_looks_like_a_refusal() -> None:
    if not REAL.is_file():
        pytest.skip(f"no {REAL}")
    data = json.loads(REAL.read_text(encoding="utf-8"))
    answers = [a for q in data.values() for e in q["evidences"].values() for a in e["answer"]]
    assert len(answers) == 3024
    assert [answer for answer in answers if is_refusal(answer)] == []


@pytest.mark.parametrize(
    ("predict", "label", "wanted", "given", "exact", "contained"),
    [
        ("中国", "中国", "answered", "answered", True, True),
        ("中国。", "中国", "answered", "answered", True, True),
        ("《红楼梦》", "红楼梦", "answered", "answered", True, True),
        ("Ｂ－２", "b2", "answered", "answered", True, True),
        ("是中国", "中国", "answered", "answered", False, True),
        ("日本", "中国", "answered", "answered", False, False),
        (REFUSALS[0], "中国", "answered", "refused", False, False),
        # the answer inside a refusal is none
        ("无法回答中国的问题", "中国", "answered", "refused", False, False),
        ("", "中国", "answered", "empty", False, False),
        (REFUSALS[1], REFUSALS[2], "refused", "refused", True, True),
        ("中国", REFUSALS[2], "refused", "answered", False, False),
        ("", REFUSALS[2], "refused", "empty", False, False),
        ("！", "？", "answered", "answered", False, False),
    ],
)
def test_grades(predict: str, label: str, wanted: str, given: str, exact: bool, contained: bool) -> None:
    assert grade(predict, label) == {
        "wanted": wanted,
        "given": given,
        "correct": {"exact": exact, "contained": contained},
    }


@given(st.text(max_size=20), st.text(min_size=1, max_size=20).filter(lambda text: text.strip() != ""))
def test_exact_is_contained_and_nothing_is_on_two_sides(predict: str, label: str) -> None:
    one = grade(predict, label)
    assert one["correct"]["contained"] or not one["correct"]["exact"]
    assert one["given"] == side_of(predict)
    counts = Counts.of([one])
    assert counts.n == 1
    for right, whole in counts.measures().values():
        assert 0 <= right <= whole


def rows() -> list[dict[str, Any]]:
    pairs = [
        *[("中国", "中国")] * 5,
        *[("是中国", "中国")] * 2,
        ("日本", "中国"),
        *[(REFUSALS[3], "中国")] * 3,
        ("", "中国"),
        *[(REFUSALS[3], REFUSALS[4])] * 4,
        *[("中国", REFUSALS[4])] * 2,
    ]
    return [{"idx": i, "predict": predict, "label": label} for i, (predict, label) in enumerate(pairs)]


def test_predictions_are_graded_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    webqa.main(["--predictions", str(path), "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "answered  12" in text
    assert "refused    6" in text
    assert "refused needlessly: 25.0 % (95 %: 8.9 to 53.2), 3 of 12 rows" in text
    results = json.loads((tmp_path / "out/results.json").read_text())
    [entry] = results["results"].values()
    assert entry["side,none"] == 12 / 18
    assert entry["right,none"] == 9 / 18
    assert entry["exact,none"] == 5 / 8
    assert entry["contained,none"] == 7 / 8
    assert entry["answered_without_evidence,none"] == 2 / 6
    assert results["counts"]["confusion"] == {
        "answered": {"answered": 8, "refused": 3, "empty": 1},
        "refused": {"answered": 2, "refused": 4, "empty": 0},
    }
    assert (tmp_path / "out/table.md").read_text().startswith("# webqa_predictions\n")


def test_a_side_without_rows_has_no_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"predict": "a", "label": "b"}))
    webqa.main(["--predictions", str(path)])
    assert "answered without evidence: –, no such row" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", UsageError, "empty"),
        ('{"predict": "a"}', UserError, "row 1: a text under label or .* is expected; found predict"),
        ('{"predict": "a", "label": ""}', UserError, "found predict, label"),
        ('{"idx": 1, "predict": "a", "label": "b"}\n' * 2, UserError, "idx 1 is there twice"),
        ("[1]", UserError, "found int"),
        ("{\n", UserError, "not JSON"),
    ],
)
def test_bad_predictions(content: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(error, match=message):
        webqa.main(["--predictions", str(path)])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--ckpt", "x", "--predictions", "y"],
        ["--predictions", "y", "--data", "z"],
        ["--ckpt", "x"],
        ["--predictions", "y", "--limit", "0"],
    ],
)
def test_wrong_use(options: list[str]) -> None:
    with pytest.raises(UsageError):
        webqa.main(options)
