"""The raw file of a conversion as numbered lines of bytes, whatever it came as: JSONL, a JSON array, gzip, or stdin.

A conversion may read twice: all rows to choose, then the chosen ones, each at its place in the file. A plain JSONL
file stays where it is; the others are first put into a temporary file as plain lines.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file
from converters.common.reader import MalformedRow, array_elements, decode_text, open_bytes, parse_json

BLOCK_BYTES = 8 << 20


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
    start: int
    """Where the first line starts in ``lines``, in bytes: behind a byte-order mark."""
    first: bytes
    """The first byte that is no white space."""
    _sha256: Future[str]

    @property
    def sha256(self) -> str:
        """Hash of the file as it was given; computed meanwhile."""
        return self._sha256.result()

    def facts(self) -> dict[str, Any]:
        """What a report says of the input."""
        return {"file": self.name, "bytes": self.size, "sha256": self.sha256}

    def read(self) -> bytes:
        """The whole file, without a byte-order mark."""
        return self.lines.read_bytes()[self.start :]

    def blocks(self) -> Iterator[Block]:
        """Yield the file's lines, about BLOCK_BYTES at a time."""
        line, offset = 1, self.start
        with self.lines.open("rb") as handle:
            handle.seek(offset)
            while data := handle.read(BLOCK_BYTES):
                # up to the end of the line that the block would cut
                data += handle.readline()
                yield Block(line, offset, data)
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
            # it can be read but once, and a conversion comes back to the rows that it has chosen
            path, shown = Path(folder) / "stdin", "stdin"
            with path.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy)
        with open_bytes(path, shown) as handle:
            # open_bytes has read past a byte-order mark
            lines, start = path, handle.tell()
            if not isinstance(handle.raw, io.FileIO):  # type: ignore[attr-defined]
                # gzip is unpacked: rows are read again by their place, which packed bytes do not have
                lines, start = Path(folder) / "unpacked", 0
                with lines.open("wb") as plain:
                    shutil.copyfileobj(handle, plain)
        first = _first_byte(lines, start)
        if not first:
            raise UsageError(f"{shown}: empty; {expected} is expected")
        if array and first == b"[":
            rows = Path(folder) / "rows"
            _write_elements(lines.read_bytes()[start:], shown, rows)
            lines, start = rows, 0
        yield Source(shown, path.stat().st_size, lines, start, first, hashing.submit(sha256_file, path))


def _first_byte(path: Path, start: int) -> bytes:
    with path.open("rb") as handle:
        handle.seek(start)
        while data := handle.read(4096):
            if text := data.lstrip():
                return text[:1]
    return b""


def _write_elements(data: bytes, shown: str, rows: Path) -> None:
    """Write each element of a JSON array as one line, so that line numbers are element numbers.

    Raises:
        UserError: it is not an array; what is wrong with one element is left to whoever reads its line.
    """
    try:
        text = decode_text(data)
        try:
            elements = iter([json.dumps(value, ensure_ascii=False) for value in parse_json(text)])
        except MalformedRow:
            elements = array_elements(text)
        with rows.open("w", encoding="utf-8") as out:
            out.writelines(element + "\n" for element in elements)
    except MalformedRow as error:
        raise UserError(f"{shown}: {error}") from None
