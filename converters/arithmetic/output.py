"""Records into a file: one a line, or one JSON array with a record a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converters.arithmetic.records import record_head
from converters.files import atomic


def write_records(path: str | Path, layout: str, tails: Iterable[bytes], *, multiple: int = 1) -> tuple[int, int]:
    """Write records atomically, numbered from 1.

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
    written, group = 0, []
    with atomic(path) as temporary, temporary.open("wb", buffering=1 << 20) as handle:
        handle.write(opening)
        for tail in tails:
            group.append(tail)
            if len(group) < multiple:
                continue
            for record in group:
                if written:
                    handle.write(between)
                written += 1
                handle.write(head % written if b"%d" in head else head)
                handle.write(record)
            group.clear()
        handle.write(closing if written or opening else b"")
    return written, len(group)
