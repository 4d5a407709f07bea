"""Records into a file: one a line, or one JSON array with a record a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converters.arithmetic.records import record_head
from converters.files import atomic


def write_records(path: str | Path, layout: str, tails: Iterable[str], *, multiple: int = 1) -> tuple[int, int]:
    """Write records atomically, numbered from 1.

    Args:
        path: the output.
        layout: one of ``records.FORMATS``.
        tails: the records without their heads.
        multiple: only whole groups of this many are written.

    Returns:
        Records written, and records left over at the end.
    """
    opening, between, closing = ("[\n", ",\n", "\n]\n") if layout == "array" else ("", "\n", "\n")
    written, group = 0, []
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.write(opening)
        for tail in tails:
            group.append(tail)
            if len(group) == multiple:
                for record in group:
                    written += 1
                    handle.write((between if written > 1 else "") + record_head(layout, written) + record)
                group.clear()
        handle.write(closing if written or opening else "")
    return written, len(group)
