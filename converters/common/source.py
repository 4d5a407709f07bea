"""The raw file as numbered lines of bytes, whatever it came as: JSONL, a JSON array, gzip of either, or stdin.

A conversion may read twice: all rows to choose, then the chosen ones, each at its place in the file. A plain JSONL
file stays where it is; the others are first put into a temporary file as plain lines.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file

BLOCK_BYTES = 8 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file: the number of the first, and where it starts in bytes."""

    line: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Source:
    """An opened raw file."""

    name: str
    """As the user gave it."""
    size: int
    """In bytes."""
    lines: Path
    """The plain file that its lines are read from."""
    _sha256: Future[str]

    @property
    def sha256(self) -> str:
        """Of its bytes; computed meanwhile."""
        return self._sha256.result()

    def blocks(self) -> Iterator[Block]:
        """Yield the file's lines, about BLOCK_BYTES at a time."""
        line, offset = 1, 0
        with self.lines.open("rb") as handle:
            while data := handle.read(BLOCK_BYTES):
                data += handle.readline()
                bom = len(_BOM) if offset == 0 and data.startswith(_BOM) else 0
                yield Block(line, offset + bom, data[bom:])
                line += data.count(b"\n")
                offset += len(data)


@contextmanager
def open_source(name: str, expected: str = "one JSON object a line", *, array: bool = True) -> Iterator[Source]:
    """Open a raw file by name, ``-`` being stdin; temporary files live as long as the context.

    Args:
        name: of the file.
        expected: what should be in it, for the error when nothing is.
        array: a file that begins with ``[`` is a JSON array, whose elements are the rows.

    Raises:
        UsageError: there is no such file, or nothing is in it.
        UserError: it starts as a JSON array but is not one, its gzip data is damaged, or it is UTF-16.
    """
    with tempfile.TemporaryDirectory(prefix="convert-") as folder, ThreadPoolExecutor(1) as hashing:
        path, shown = Path(name), name
        if name == "-":
            path, shown = Path(folder) / "stdin", "stdin"
            with path.open("wb") as handle:
                shutil.copyfileobj(sys.stdin.buffer, handle)
        elif not path.is_file():
            raise UsageError(f"{path}: no such file")
        lines = path
        if _begins_with(path, _GZIP_MAGIC):
            lines = _unpacked(path, shown, Path(folder) / "unpacked")
        if any(_begins_with(lines, mark) for mark in _UTF16):
            raise UserError(f"{shown}: UTF-16, not UTF-8; convert it first: iconv -f UTF-16 -t UTF-8")
        first = _first_byte(lines)
        if not first:
            raise UsageError(f"{shown}: empty; {expected} is expected")
        if array and first == b"[":
            lines = _array_as_lines(lines, shown, Path(folder) / "rows")
        yield Source(shown, path.stat().st_size, lines, hashing.submit(sha256_file, path))


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(magic)) == magic


def _first_byte(path: Path) -> bytes:
    """The first byte that is neither white space nor a byte-order mark; empty if there is none."""
    with path.open("rb") as handle:
        while data := handle.read(4096):
            if text := data.removeprefix(_BOM).lstrip():
                return text[:1]
    return b""


def _unpacked(path: Path, shown: str, plain: Path) -> Path:
    with gzip.open(path) as packed, plain.open("wb") as handle:
        try:
            shutil.copyfileobj(packed, handle)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{shown}: damaged gzip data ({error})") from error
    return plain


def _array_as_lines(path: Path, shown: str, rows: Path) -> Path:
    """Write each element of a JSON array as one line, so that line numbers are element numbers."""
    try:
        elements = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown}: starts as a JSON array but is not one ({error})") from error
    with rows.open("w", encoding="utf-8", errors="surrogatepass") as out:
        for element in elements:
            out.write(json.dumps(element, ensure_ascii=False) + "\n")
    return rows
