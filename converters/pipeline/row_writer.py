"""Rows into a file: one a line or one JSON array with a row a line, as ShareGPT conversations or in Alpaca's keys.

A record is written in two parts: the head, which may number it, and the tail, which can be made before the order of
the records is known. Nothing here imports more than the standard library: worker processes do this work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

FORMATS = ("jsonl", "array", "alpaca", "alpaca-array")
"""ShareGPT one a line, ShareGPT in one array, Alpaca's keys one a line, Alpaca's keys in one array."""
_ARRAYS = ("array", "alpaca-array")
_NUMBERED = ("jsonl", "array")
FEW = 8_192
"""About as many records are laid out at a time."""


def record_head(layout: str) -> bytes:
    """What comes before a record's tail; in conversations ``%d`` is the place of the id."""
    return b'{"id": "%d", ' if layout in _NUMBERED else b"{"


def record_tail(layout: str, question: str, answer: str) -> str:
    """A record of one question and its answer without its head, laid out as ``json.dumps`` would."""
    asked, reply = quoted(question), quoted(answer)
    if layout in _NUMBERED:
        return f'"conversations": [{{"from": "human", "value": {asked}}}, {{"from": "gpt", "value": {reply}}}]}}'
    return f'"instruction": {asked}, "input": "", "output": {reply}}}'


def object_tail(value: dict[str, Any]) -> bytes:
    """A whole JSON object without its opening brace."""
    return json.dumps(value, ensure_ascii=False)[1:].encode()


def write_records(
    path: str | Path, layout: str, tails: Iterable[bytes], *, multiple: int = 1, head: bytes | None = None
) -> tuple[int, int]:
    """Write records, numbered from 1 where their head is.

    Args:
        path: the output.
        layout: one of FORMATS, or a converter's own, which is one a line.
        tails: the records without their heads.
        multiple: only whole groups of this many are written.
        head: the records' head; by default the layout's.

    Returns:
        Records written, and records left over at the end.
    """
    opening, between, closing = (b"[\n", b",\n", b"\n]\n") if layout in _ARRAYS else (b"", b"\n", b"\n")
    head = record_head(layout) if head is None else head
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
