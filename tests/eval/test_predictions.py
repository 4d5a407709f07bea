import json

import pytest
from graded_rows import prediction_row

from converters.common.errors import UsageError, UserError
from eval.math.task import MathTask, kind_of


def read_predictions(path):
    return MathTask().read_predictions(path, data=None, limit=None, meta={})


def write(path, *values, end="\n"):
    path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values) + end)
    return path


def test_a_row_has_all_fields_in_order():
    row = prediction_row(3, "eq solve", "<s>解方程 2x + -4 = 0", "计算过程：x = 2", "方程的解为：2.0", "stop", 9)
    assert list(row) == [
        *("idx", "kind", "prompt", "predict", "label", "parsed", "correct", "finish_reason", "n_tokens"),
    ]
    assert row["parsed"] == "2"
    assert row["correct"] == {"exact": True, "close": True, "sig4": True}


def test_rows_are_graded_anew_whatever_they_say(tmp_path):
    row = prediction_row(0, "eq solve", "p", "x = 3", "方程的解为：2.0", "stop", 9)
    row["correct"] = {"exact": True, "close": True, "sig4": True}
    row["parsed"] = "2"
    (read,) = read_predictions(write(tmp_path / "p.jsonl", row))
    assert read["parsed"] == "3"
    assert not any(read["correct"].values())


def test_predictions_of_other_tools_are_read(tmp_path):
    rows = [
        {"prompt": "解方程 2x + -4 = 0", "predict": "2", "label": "方程的解为：2.0"},
        {"prompt": "User: how many?", "predict": "", "label": "3"},
    ]
    for path in (write(tmp_path / "lines.jsonl", *rows), tmp_path / "array.json"):
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        first, second = read_predictions(path)
        assert (first["idx"], first["kind"], first["correct"]["exact"]) == (0, "eq solve", True)
        assert (second["idx"], second["kind"], second["parsed"]) == (1, "other", None)


def test_a_torn_last_line_is_left_out_and_said(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", {"predict": "1", "label": "1"})
    with path.open("a") as handle:
        handle.write('{"predict": "2", "la')
    assert len(read_predictions(path)) == 1
    assert "torn last line; 1 rows are whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UsageError, "empty"),
        ("\n \n", UsageError, "empty"),
        ("nonsense\n", UserError, r"p.jsonl:1: not JSON"),
        ("nonsense", UserError, r"p.jsonl:1: not JSON"),
        ('{"predict": "1", "label": "1"}\nnonsense\n', UserError, r"p.jsonl:2: not JSON"),
        ("[1, 2", UserError, "JSON array"),
        ("[1, 2]", UserError, "row 1: a text under predict or model_output or pred is expected; found int"),
        (
            '{"predict": "1"}\n',
            UserError,
            "row 1: a text under label or .* is expected; found predict",
        ),
        (
            '{"predict": 1, "label": "1"}\n',
            UserError,
            "row 1: a text under .* found predict, label",
        ),
        ('{"idx": 1, "predict": "1", "label": "1"}\n' * 2, UserError, "row 2: idx 1 is there twice"),
        ('{"predict": "1", "label": "?"}\n', UserError, "no answer in the label '\\?'"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path, text, error, message):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_predictions(path)


def test_kinds():
    assert kind_of("计算 1.00 + 2.00 等于多少？", "1.00 + 2.00 = 3.00") == "direct computation"
    assert kind_of("What is $1+1$?", r"\boxed{2}") == "english"
    assert kind_of("天空是什么颜色？", "蓝色 1") == "other"
