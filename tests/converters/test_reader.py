"""The one reader: what is a row, and one line about everything that is not."""

import gzip
import json

import pytest

from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json, read_lines, read_log, read_rows, read_text

PACKED = gzip.compress(b'{"a": 1}\n' * 500)


def rows(tmp_path, data, **options):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    return list(read_rows(path, **options))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n', [(1, {"a": 1}), (3, {"a": 2})]),
        ('{"a": "x\u2028y\u2029z\u0085"}'.encode(), [(1, {"a": "x\u2028y\u2029z\u0085"})]),
        (b'[{"a": 1},\r\n {"a": 2}]\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b"\xef\xbb\xbf\n [1, 2]", [(1, 1), (2, 2)]),
        (b'{"a": "\\ud83d\\ude00"}\n', [(1, {"a": "\U0001f600"})]),
        (PACKED, [(n, {"a": 1}) for n in range(1, 501)]),
        (gzip.compress(b"[1, 2]"), [(1, 1), (2, 2)]),
    ],
    ids=["lines", "bom and crlf", "separators in text", "array", "bom before array", "pair", "gzip", "packed array"],
)
def test_what_is_read(tmp_path, data, expected):
    assert rows(tmp_path, data) == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": 1}\n{"a": "中文"}\n'.encode("gbk"), ["rows.jsonl:2:", "not UTF-8", "iconv -f GBK"]),
        ('{"a": 1}\n'.encode("utf-16"), ["rows.jsonl: UTF-16", "iconv"]),
        ('{"a": 1}\n'.encode("utf-16-le"), ["rows.jsonl:1:", "zero bytes"]),
        (PACKED[:40], ["rows.jsonl: damaged gzip"]),
        (PACKED[:12] + b"x" * 40, ["rows.jsonl: damaged gzip"]),
        (b'{"a": ' + b"1" * 5000 + b"}\n", ["rows.jsonl:1:", "5000 digits"]),
        (b'{"a": ' + b"[" * 100_000 + b"\n", ["rows.jsonl:1:", "nested too deeply"]),
        (b"[" * 100_000, ["rows.jsonl: starts as a JSON array", "nested too deeply"]),
        (b'{"a": 1}\n{"b": 1, "a": 2, "b": 3}\n', ["rows.jsonl:2:", "'b' stands twice"]),
        (b'{"a": {"b": 1, "b": 1}}\n', ["rows.jsonl:1:", "'b' stands twice"]),
        (b'{"a": "\\ud800 x"}\n', ["rows.jsonl:1:", "surrogate pair (\\ud800)"]),
        (b'{"a": 1}\n{"a": \n', ["rows.jsonl:2: not JSON"]),
        (b'{"a": 1}\n{"a"', ["rows.jsonl:2: not JSON", "cut off"]),
        (b"[1, 2", ["rows.jsonl: starts as a JSON array but is not one"]),
    ],
    ids=[
        *(
            "gbk",
            "utf-16",
            "utf-16 without a mark",
            "torn gzip",
            "broken gzip",
            "digits",
            "depth",
            "deep array",
            "twice",
        ),
        *("twice inside", "surrogate", "not json", "torn", "torn array"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, data, said):
    with pytest.raises(UserError) as caught:
        rows(tmp_path, data)
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert "\n" not in message
    assert len(message) < 400


def test_a_missing_or_empty_file_is_wrong_use(tmp_path):
    for data in (b"", b"\n \n", gzip.compress(b"")):
        with pytest.raises(UsageError, match="empty"):
            rows(tmp_path, data)
    with pytest.raises(UsageError, match="no such file"):
        list(read_rows(tmp_path / "none"))
    with pytest.raises(UsageError, match="a directory"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("tail", [b'{"a": ', '{"a": "中'.encode()[:-1], b'{"a": "\xe4\xb8'])
def test_a_torn_last_line_is_left_out_where_asked_and_said(tmp_path, capsys, tail):
    assert rows(tmp_path, b'{"a": 1}\n' + tail, torn=True) == [(1, {"a": 1})]
    assert "left out a torn last line; 1 rows are whole" in capsys.readouterr().err
    with pytest.raises(UserError, match=":1: not"):
        rows(tmp_path, tail, torn=True)
    with pytest.raises(UserError, match=":2: not"):
        rows(tmp_path, b'{"a": 1}\n' + tail + b"\n", torn=True)


def test_lines_end_at_a_line_feed_alone(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_bytes("\ufeffno\u2028yes\r\nno\ryes\u0085\n\nlast".encode())
    assert list(read_lines(path)) == [(1, "no\u2028yes"), (2, "no\ryes\u0085"), (3, ""), (4, "last")]
    assert read_text(path) == "no\u2028yes\nno\ryes\u0085\n\nlast"


def test_one_value(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a":\r\n 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b'{"a":\n 1,}')
    with pytest.raises(UserError, match=r"x\.json: not JSON .* line 2 column"):
        read_json(path)
    path.write_bytes(b" ")
    with pytest.raises(UserError, match=r"x\.json: empty"):
        read_json(path)


def test_a_log_says_where_its_whole_lines_end(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = json.dumps({"idx": 0, "predict": "a\u2028b"}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(whole + b'{"idx": 1, "pre')
    assert read_log(path) == ([(1, {"idx": 0, "predict": "a\u2028b"})], len(whole))
    path.write_bytes(b"{\n" + whole)
    with pytest.raises(UserError, match=r"log\.jsonl:1: not JSON"):
        read_log(path)
