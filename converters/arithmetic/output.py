"""Records into a file: one a line, or one JSON array with a record a line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from converters.arithmetic.records import record_head

FEW = 8_192
"""About as many records are laid out at a time."""


def write_records(path: str | Path, layout: str, tails: Iterable[bytes], *, multiple: int = 1) -> tuple[int, int]:
    """Write records, numbered from 1.

    Args:
        path: the output.
        layout: one of ``records.FORMATS``.
        tails: the records without their heads.
        multiple: only whole groups of this many are written.

    Returns:
        Records written, and records left over at the end.
    """
    opening, between, closing = (b"[\n", b",\n", b"\n]\n") if layout == "array" else (b"", b"\n", b"\n")
    head = record_head(layout)
    numbered = b"%d" in head
    size = multiple * -(-FEW // multiple)
    written, left_over, rest = 0, 0, iter(tails)
    with open(path, "wb") as handle:
        handle.write(opening)
        while True:
            few = enumerate(islice(rest, size), start=written + 1)
            records = [head % number + tail for number, tail in few] if numbered else [head + tail for _, tail in few]
            if not records:
                break
            left_over = len(records) % multiple
            del records[len(records) - left_over :]
            handle.write(between if written and records else b"")
            handle.write(between.join(records))
            written += len(records)
        handle.write(closing if written or opening else b"")
    return written, left_over
