r"""The one way from somebody's file to rows: bytes to lines to values, with row numbers and one-line errors.

A file may be UTF-8 with or without a byte-order mark, gzip whatever its name, JSONL or one JSON array, with LF or
CR LF. Lines end at ``\n`` alone: U+2028, U+2029, U+0085 and a lone CR are text that answers and books hold, so that
``str.splitlines`` and text mode, which cut there, are used nowhere.

Every entry point reads through here: converters, training data, evaluations, predictions and logs.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from converters.common.errors import UsageError, UserError

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_SHOWN = 80
_SPACE = re.compile(r"\s*")


class MalformedRow(UserError):
    """One line or element that is not what it should be; the message has no file and no row yet."""


def decode_line(data: bytes) -> str:
    r"""Decode one line as UTF-8, without its ``\r\n`` or ``\n``.

    Raises:
        MalformedRow: it is not UTF-8; the message guesses the encoding and says how to convert it.
    """
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if b"\x00" in data:  # no text has it, and every ASCII character of UTF-16 does
        raise MalformedRow("holds zero bytes, as UTF-16 does; convert the file first: iconv -f UTF-16LE -t UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} of the line is 0x{data[error.start]:02x}"
        raise MalformedRow(f"not UTF-8 ({byte}); convert the file first: iconv -f {_guess(data)} -t UTF-8") from None


def decode_text(data: bytes) -> str:
    r"""Decode a whole file as UTF-8; line ends become ``\n``.

    Raises:
        MalformedRow: a line is not UTF-8.
    """
    return "\n".join(decode_line(line) for line in data.split(b"\n"))


def parse_json(text: str, *, allow_surrogates: bool = False) -> Any:
    """Parse one JSON value and refuse what other programs would read differently.

    Args:
        text: the value as JSON.
        allow_surrogates: let halves of surrogate pairs pass, for a caller that refuses them text by text.

    Returns:
        The value.

    Raises:
        MalformedRow: it is not JSON, a key stands twice in one object, a number has too many digits, it is nested too
            deeply, or a text holds half of a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise MalformedRow(f"not JSON ({error.msg} at {place}): {_shown(text)}") from None
    except RecursionError:
        raise MalformedRow("not JSON that can be read: brackets are nested too deeply") from None
    except ValueError as error:  # int() of thousands of digits
        # Python's message goes on with how to raise the limit, which is of no use here
        raise MalformedRow(f"not JSON that can be read ({error})".split(";")[0].rstrip(")") + ")") from None
    # only an escape can bring half of a pair in, since the text itself was decoded from UTF-8
    if not allow_surrogates and ("\\ud" in text or "\\uD" in text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise MalformedRow(f"half of a surrogate pair (\\u{half:04x}), which no encoding can write") from None
    return value


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    r"""Yield ``(line number from 1, text)`` of every line, blank ones too, without line ends.

    Raises:
        UsageError: there is no such file.
        UserError: the gzip data is damaged, or a line is not UTF-8; the message has file and line.
    """
    with open_bytes(path) as handle:
        for number, data in enumerate(handle, start=1):
            with _at(path, number):
                yield number, decode_line(data)


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Read a whole text file; line ends become ``\n``.

    Raises:
        UsageError: there is no such file.
        UserError: as :func:`read_lines`.
    """
    return "\n".join(text for _, text in read_lines(path))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a file that is one JSON value.

    Raises:
        UsageError: the file is missing or empty.
        UserError: it is not JSON; the message has file, and line and column where they are known.
    """
    text = read_text(path)
    if not text.strip():
        raise UsageError(f"{path}: empty, not JSON")
    with _at(path):
        return parse_json(text)


def read_rows(path: str | os.PathLike[str], *, torn: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield ``(row number from 1, value)`` of a JSONL file, or of a file that is one JSON array.

    In JSONL the row number is the line number; blank lines are passed over. ``-`` is stdin.

    Args:
        path: the file.
        torn: leave out a last line without a line end that does not parse, as a kill leaves it, and say so; without
            this it is an error like any other.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row is not JSON or not UTF-8, or gzip data are damaged; the message has file and row.
    """
    number = 0
    found = 0
    with open_bytes(path) as handle:
        for number, data in enumerate(handle, start=1):
            if not data.strip():
                continue
            # an array may spread one element over several lines, so the rest is read at once
            if found == 0 and data.lstrip().startswith(b"["):
                yield from _array_rows(path, data + handle.read())
                return
            try:
                value = parse_json(decode_line(data))
            except MalformedRow as error:
                cut = not data.endswith(b"\n")
                # a file whose only line does not parse is no torn log but a wrong file
                if torn and cut and found:
                    print(f"{path}: left out a torn last line; {found} rows are whole", file=sys.stderr, flush=True)
                    return
                hint = "; the last line is cut off" if cut and found else ""
                raise UserError(f"{path}:{number}: {error}{hint}") from None
            found += 1
            yield number, value
    if not found:
        raise UsageError(f"{path}: empty; one JSON object a line is expected")


def read_log(path: Path) -> tuple[list[tuple[int, Any]], int]:
    """Read a JSONL file of ours that is appended to, and find where its whole lines end.

    Returns:
        ``(line number, value)`` of the whole lines, and the bytes that they take: what lies behind is a line that a
        kill cut short.

    Raises:
        UserError: a whole line is not JSON; the message has file and line.
    """
    rows: list[tuple[int, Any]] = []
    whole = 0
    # opened as it is, without unpacking: callers truncate the file at the offset returned
    with path.open("rb") as handle:
        for number, data in enumerate(handle, start=1):
            if not data.endswith(b"\n"):
                break
            with _at(path, number):
                rows.append((number, parse_json(decode_line(data))))
            whole += len(data)
    return rows, whole


@contextmanager
def open_bytes(path: str | os.PathLike[str], shown: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file as bytes: gzip is unpacked, a byte-order mark is taken off, ``-`` is stdin.

    Args:
        path: the file.
        shown: what errors call it; by default its path.

    Raises:
        UsageError: there is no such file.
        UserError: it cannot be read, its gzip data are damaged (said when they are met), or it is UTF-16.
    """
    shown = shown or str(path)
    if str(path) != "-" and not Path(path).is_file():
        raise UsageError(f"{shown}: {'a directory, not a file' if Path(path).is_dir() else 'no such file'}")
    try:
        # the try also catches what the caller meets while it reads inside its ``with`` block
        source: Any = nullcontext(sys.stdin.buffer) if str(path) == "-" else open(path, "rb")  # noqa: SIM115
        with source as raw:
            packed = raw.peek(2)[:2] == GZIP_MAGIC
            handle: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
            head = handle.peek(len(BOM))[: len(BOM)]
            if head.startswith(UTF16_MARKS):
                raise UserError(f"{shown}: UTF-16, not UTF-8; convert it first: iconv -f UTF-16 -t UTF-8")
            if head == BOM:
                handle.read(len(BOM))
            yield handle
    # BadGzipFile is an OSError, so it has to come first
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{shown}: damaged gzip data ({error}); fetch or pack it again") from error
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror or error})") from error


def array_elements(text: str) -> Iterator[str]:
    """Yield each element of a JSON array as JSON on one line; whoever parses the element judges it.

    This is for arrays that cannot be parsed as a whole: only the faulty elements are then refused.

    Args:
        text: the array.

    Raises:
        MalformedRow: where one element ends cannot be told.
    """
    decoder = json.JSONDecoder(parse_int=str)  # too many digits are the element's fault, not the array's
    place, separator = text.index("["), ","
    try:
        while separator == ",":
            start = _after_space(text, place + 1)
            _, end = decoder.raw_decode(text, start)
            # such line breaks are between tokens: JSON allows none inside a string
            yield text[start:end].replace("\n", " ")
            place = _after_space(text, end)
            separator = text[place : place + 1]
        if separator != "]" or text[place + 1 :].strip():
            raise ValueError(f"',' or ']' is expected after {_shown(text[start:end])}")
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error.msg} at line {error.lineno} column {error.colno})"
    except RecursionError:
        reason = "brackets are nested too deeply"
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise MalformedRow(f"starts as a JSON array but is not one: {reason}")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _array_rows(path: str | os.PathLike[str], data: bytes) -> Iterator[tuple[int, Any]]:
    with _at(path):
        text = decode_text(data)
    try:
        values = parse_json(text)
    except MalformedRow:
        with _at(path):
            # all of them before the first is yielded: an array that is cut off gives no rows
            elements = list(array_elements(text))
        for number, element in enumerate(elements, start=1):
            with _at(path, number):
                value = parse_json(element)
            yield number, value
    else:
        yield from enumerate(values, start=1)


@contextmanager
def _at(path: str | os.PathLike[str], number: int | None = None) -> Iterator[None]:
    """Put file and line before the message of a malformed row."""
    try:
        yield
    except MalformedRow as error:
        raise UserError(f"{path}{'' if number is None else f':{number}'}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # json would silently keep the last value
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedRow(f"the key {_shown(twice)} stands twice in one object; which of them counts is not clear")
    return found


def _guess(data: bytes) -> str:
    try:
        # GB18030 contains GBK, the usual other encoding of Chinese text
        data.decode("gb18030")
    except UnicodeDecodeError:
        return "ENCODING"
    return "GBK"


def _shown(text: str) -> str:
    """The beginning of a text, escaped, for an error."""
    return repr(text[:_LONGEST_SHOWN] + ("…" if len(text) > _LONGEST_SHOWN else ""))
