"""What the conversion refuses: one line that says so, and no output."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from arithmetic_rows import ENGLISH, RIGHT, convert, line_of, read_jsonl, write_lines

from converters.common.errors import UsageError, UserError


def test_too_many_rejected_rows_fail_and_leave_no_output(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw.jsonl", [*RIGHT, "{", "["])
    out = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"2 of 24 rows rejected \(broken line 2\), more than --max-rejected 0.01"):
        convert(raw, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl.rejected.jsonl", "raw.jsonl"]
    assert [row["line"] for row in read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")] == [23, 24]


def test_one_in_a_hundred_is_not_too_many(tmp_path: Path) -> None:
    rows = [line_of(f"计算 {n}.00 + 1.00 等于多少？", f"{n}.00 + 1.00 = {n + 1}.00") for n in range(199)]
    report = convert(write_lines(tmp_path / "raw.jsonl", [*rows, "{"]), tmp_path / "out.jsonl")
    assert report["rows"]["rejected"] == 1
    with pytest.raises(UserError, match="2 of 201"):
        convert(write_lines(tmp_path / "raw.jsonl", [*rows, "{", "{"]), tmp_path / "out.jsonl", "--max-rejected", "0")


@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf\n", gzip.compress(b"")])
def test_empty_files_are_wrong_use(tmp_path: Path, content: bytes) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(content)
    with pytest.raises(UsageError, match=r"raw\.jsonl: empty; one JSON object a line is expected"):
        convert(raw, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2", "starts as a JSON array but is not one"),
        (b"[" * 100_000, "starts as a JSON array but is not one"),
        (gzip.compress(RIGHT[0].encode() * 99)[:-20], "damaged gzip data"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert(raw, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--holdout", "8"], "belong together"),
        (["--holdout-out", "held.jsonl"], "belong together"),
        (["--rows", "-1"], "--rows must not be negative"),
        (["--multiple-of", "0"], "at least 1"),
        (["--max-rejected", "2"], "between 0 and 1"),
        (["--balance", "eq slove=3"], "did you mean 'eq solve'"),
        (["--balance", "uniform"], "needs --rows"),
    ],
)
def test_wrong_use(tmp_path: Path, options: list[str], message: str) -> None:
    raw = write_lines(tmp_path / "raw.jsonl", RIGHT)
    with pytest.raises(UsageError, match=message):
        convert(raw, tmp_path / "out.jsonl", *options)
    assert list(tmp_path.iterdir()) == [raw]


def test_output_over_input_is_wrong_use(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw.jsonl", RIGHT)
    with pytest.raises(UsageError, match="different files"):
        convert(raw, tmp_path / "." / "raw.jsonl")


def test_nothing_to_convert(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw.jsonl", [ENGLISH])
    with pytest.raises(UserError, match="English rows need --keep-english"):
        convert(raw, tmp_path / "out.jsonl")
