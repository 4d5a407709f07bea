"""What a converter's input may be: every form is read, and what is broken is refused row by row with its reason."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters import alpaca, arithmetic, glue, webqa
from converters.common.errors import UsageError, UserError
from converters.pipeline.output import OutputOptions
from converters.pipeline.source import open_source

RIGHT = b'{"instruction": "q", "output": "a"}\n'


def convert(tmp_path: Path, data: bytes) -> tuple[alpaca.rows.Report, list[dict[str, Any]]]:
    """Convert rows in Alpaca's keys; returns the report and the rejected rows."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    report = alpaca.convert(path, OutputOptions(tmp_path / "out.jsonl", max_rejected=0.9))
    rejected = tmp_path / "out.jsonl.rejected.jsonl"
    lines = rejected.read_text(encoding="utf-8").split("\n")[:-1] if rejected.exists() else []
    return report, [json.loads(line) for line in lines]


def texts(tmp_path: Path) -> list[str]:
    rows = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [turn["value"] for row in rows for turn in json.loads(row)["conversations"]]


@pytest.mark.parametrize(
    "data",
    [
        RIGHT,
        b"\xef\xbb\xbf" + RIGHT[:-1],
        RIGHT.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf[" + RIGHT + b"]",
        gzip.compress(RIGHT),
        gzip.compress(b"\xef\xbb\xbf \n[" + RIGHT + b"]"),
    ],
    ids=["lines", "bom", "crlf", "array", "gzip by its bytes", "packed array with bom"],
)
def test_forms(tmp_path: Path, data: bytes) -> None:
    report, _ = convert(tmp_path, data)
    assert texts(tmp_path) == ["q", "a"]
    assert report.input["bytes"] == len(data)
    assert report.rows == {"in": 1, "rejected": 0, "converted": 1}


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\u0085d"
    convert(tmp_path, json.dumps({"instruction": odd, "output": odd}, ensure_ascii=False).encode())
    assert texts(tmp_path) == [odd, odd]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"instruction": "\xd6\xd0", "output": "a"}', "iconv -f GBK"),
        (b'{"instruction": "q", "output": "a \\ud83d"}', r"half of a surrogate pair (\ud83d)"),
        (b'{"instruction": "q", "output": ' + b"1" * 5000 + b"}", "5000 digits"),
        (b'{"instruction": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"instruction": "q", "output": "a", "output": "b"}', "the key 'output' stands twice"),
        (b'{"instruction": "q", ', "not JSON"),
        (b'{\x00"\x00i\x00', "zero bytes"),
    ],
    ids=["gbk", "surrogate", "digits", "depth", "twice", "cut", "utf-16 without a mark"],
)
def test_a_broken_line_is_rejected_alone(tmp_path: Path, line: bytes, detail: str) -> None:
    report, rejected = convert(tmp_path, RIGHT + line + b"\n" + RIGHT)
    assert report.rows == {"in": 3, "rejected": 1, "converted": 2}
    assert [(row["line"], row["reason"]) for row in rejected] == [(2, "broken line")]
    assert detail in rejected[0]["detail"]


@pytest.mark.parametrize(
    ("element", "detail"),
    [
        (b'{"instruction": "q", "output": "a \\ud83d"}', r"half of a surrogate pair (\ud83d)"),
        (b'{"instruction": "q",\n "instruction": "q", "output": "a"}', "the key 'instruction' stands twice"),
        (b'{"instruction": "q", "output": ' + b"1" * 5000 + b"}", "5000 digits"),
    ],
    ids=["surrogate", "twice", "digits"],
)
def test_a_broken_element_of_an_array_is_rejected_alone(tmp_path: Path, element: bytes, detail: str) -> None:
    report, rejected = convert(tmp_path, b"[" + RIGHT + b", " + element + b",\n" + RIGHT + b"]")
    assert report.rows == {"in": 3, "rejected": 1, "converted": 2}
    assert [(row["line"], row["reason"]) for row in rejected] == [(2, "broken line")]
    assert detail in rejected[0]["detail"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(RIGHT * 100)[:40], "damaged gzip"),
        ("{}".encode("utf-16"), "UTF-16, not UTF-8; convert it first: iconv"),
        (b"[1, 2", "starts as a JSON array but is not one"),
        (b"[1, 2] 3", "starts as a JSON array but is not one"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught, open_source(str(path)):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_rows_are_wrong_use(tmp_path: Path) -> None:
    for data in (b"", b"\xef\xbb\xbf \n\n", gzip.compress(b"")):
        (tmp_path / "rows.jsonl").write_bytes(data)
        with (
            pytest.raises(UsageError, match="empty; one JSON object a line is expected"),
            open_source(str(tmp_path / "rows.jsonl")),
        ):
            pass


def test_a_table_s_texts_keep_their_odd_separators(tmp_path: Path) -> None:
    path = tmp_path / "CoLA_dev.tsv"
    path.write_bytes("sentence\tlabel\r\nHe\u2028came\rin.\u0085\t1\r\n".encode())
    glue.convert("cola", path, OutputOptions(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_bytes())[0]["input"] == "He\u2028came\rin.\u0085"


def test_half_a_surrogate_pair_in_webqa_rejects_its_evidence_alone(tmp_path: Path) -> None:
    half = "\ud800"
    evidences = {
        "Q#0": {"answer": ["甲"], "evidence": "甲来了"},
        "Q#1": {"answer": [f"乙{half}"], "evidence": "乙"},
        "Q#2": {"answer": ["丙"], "evidence": f"丙{half}"},
        f"Q#{half}": {"answer": ["丁"], "evidence": "丁"},
    }
    path = tmp_path / "webqa.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"Q": {"question": "谁？", "evidences": evidences}}).encode())
    report = webqa.convert(path, OutputOptions(tmp_path / "out.jsonl", max_rejected=0.9))
    assert report.rows == {"in": 4, "rejected": 3, "converted": 1}
    assert report.rejected == {"broken text": 3}
    rows = (tmp_path / "out.jsonl.rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(row)["detail"].split(": ")[-1] for row in rows] == [
        "answer has half of a surrogate pair",
        "evidence has half of a surrogate pair",
        "the id has half of a surrogate pair",
    ]


def test_arithmetic_rows_are_held_to_the_same(tmp_path: Path) -> None:
    right = '{"problem": "解方程 2x + 4 = 0", "solution": "方程的解为：-2.0"}\n'.encode()
    twice = '{"problem": "解方程 2x + 4 = 0", "problem": "解方程 2x + 6 = 0", "solution": "x"}\n'.encode()
    path = tmp_path / "raw.jsonl"
    path.write_bytes(right + twice + b'{"problem": "\\ud800", "solution": "x"}\n')
    report = arithmetic.convert(path, OutputOptions(tmp_path / "out.jsonl", max_rejected=0.9))
    assert report.rejected == {"broken line": 2}
    assert report.output["rows"] == 1


def test_dataset_info_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_bytes(b'\xef\xbb\xbf{"mine": {"file_name": "rows.jsonl"}}')
    (tmp_path / "rows.jsonl").write_bytes(RIGHT)
    report = alpaca.convert("mine", OutputOptions(tmp_path / "out.jsonl"), folder=tmp_path)
    assert report.output["rows"] == 1


RUNS: dict[str, Callable[[Path, OutputOptions], Any]] = {
    "alpaca": lambda folder, output: alpaca.convert(folder / "rows.jsonl", output),
    "glue": lambda folder, output: glue.convert("cola", folder / "dev.tsv", output),
    "arithmetic": lambda folder, output: arithmetic.convert(folder / "raw.jsonl", output, steps="seed"),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_report_that_is_returned_is_the_one_that_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(RIGHT * 4)
    (tmp_path / "dev.tsv").write_bytes(b"sentence\tlabel\n" + b"He came.\t1\n" * 4)
    arithmetic.synthesize(tmp_path / "raw.jsonl", rows=200, seed=1)
    output = OutputOptions(tmp_path / "out.jsonl", rows=2, holdout=2, holdout_out=tmp_path / "held.jsonl")
    report = RUNS[name](tmp_path, output)
    assert report.as_json() == json.loads((tmp_path / "out.jsonl.report.json").read_bytes())
    assert report.output["rows"] == report.holdout["rows"] == 2
    assert f"output: 2 rows in {tmp_path / 'out.jsonl'}" in report.table()
