"""The output of a conversion: which rows and how many, their layout, and how they are written.

A record is written in two parts: the head, which may number it, and the tail, which can be made before the order of
the records is known. Nothing here imports more than the standard library: worker processes do this work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

from converters.common.console import say
from converters.common.errors import UsageError
from converters.common.files import sha256_file

FORMATS = ("jsonl", "array", "alpaca", "alpaca-array")
"""ShareGPT one a line, ShareGPT in one array, Alpaca's keys one a line, Alpaca's keys in one array."""
CONVERSATIONS = ("jsonl", "array")
_ARRAYS = ("array", "alpaca-array")
_RECORDS_AT_A_TIME = 8_192

PROPORTIONAL, UNIFORM, SQUARE_ROOT = BALANCES = ("proportional", "uniform", "square-root")
"""Rows of each kind: as in the input, as many of each, or between the two, in proportion to the square roots."""


@dataclass(frozen=True)
class OutputOptions:
    """How a converter's rows are chosen and written.

    Attributes:
        out: the file to write; beside it go OUT.report.json and OUT.rejected.jsonl.
        layout: one of FORMATS; None takes ``alpaca-array`` for a name that ends in .json, else ``jsonl``.
        rows: rows to sample; None for all, in the order of the input.
        multiple_of: the rows are rounded down to a multiple of this.
        balance: one of BALANCES, or rows by kind; kinds that are not named share the rest in proportion.
        seed: the same seed gives the same bytes.
        holdout: rows to hold out.
        holdout_out: where they go.
        max_rejected: the share of rows that may be rejected before the conversion fails.

    Raises:
        UsageError: the options contradict themselves.
    """

    out: Path
    layout: str | None = None
    rows: int | None = None
    multiple_of: int = 1
    balance: str | Mapping[str, int] = PROPORTIONAL
    seed: int = 0
    holdout: int = 0
    holdout_out: Path | None = None
    max_rejected: float = 0.01

    def __post_init__(self) -> None:
        # a frozen dataclass is filled in this way
        object.__setattr__(self, "out", Path(self.out))
        if self.layout is None:
            object.__setattr__(self, "layout", "alpaca-array" if self.out.suffix == ".json" else "jsonl")
        if self.holdout_out is not None:
            object.__setattr__(self, "holdout_out", Path(self.holdout_out))
        for name in ("rows", "holdout"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"--{name} must not be negative")
        if self.multiple_of < 1 or self.seed < 0 or not 0 <= self.max_rejected <= 1:
            raise UsageError("--multiple-of must be at least 1, --seed at least 0, --max-rejected between 0 and 1")
        if bool(self.holdout) != bool(self.holdout_out):
            raise UsageError("--holdout and --holdout-out belong together: how many rows, and where they go")

    def check_input(self, source: str) -> None:
        """Make sure that ``source`` is not overwritten, and say which numbers of rows are rounded down.

        Raises:
            UsageError: two of the files are the same.
        """
        for name in ("rows", "holdout"):
            wanted = getattr(self, name)
            if wanted and wanted % self.multiple_of:
                rounded = wanted - wanted % self.multiple_of
                say(f"--{name} {wanted} rounded down to {rounded}, a multiple of {self.multiple_of}")
        files = [file.resolve() for file in (Path(source), self.out, self.holdout_out) if file]
        if len(set(files)) < len(files):
            raise UsageError("the input, OUT and --holdout-out must be different files")

    @property
    def everything(self) -> bool:
        """Whether all rows are written, in the order of the input."""
        return self.rows is None and self.balance == PROPORTIONAL

    @property
    def rejected_out(self) -> Path:
        """Where the rejected rows go."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl")

    @property
    def report_out(self) -> Path:
        """Where the report goes."""
        return self.out.with_name(f"{self.out.name}.report.json")

    def as_json(self) -> dict[str, Any]:
        """The options for a report, under the names of the command line."""
        return {
            "format": self.layout,
            "rows": self.rows,
            "multiple_of": self.multiple_of,
            "balance": self.balance,
            "seed": self.seed,
            "holdout": self.holdout,
            "max_rejected": self.max_rejected,
        }


def record_head(layout: str) -> bytes:
    """What comes before a record's tail; in conversations ``%d`` is the place of the id."""
    return b'{"id": "%d", ' if layout in CONVERSATIONS else b"{"


def record_tail(layout: str, question: str, answer: str) -> str:
    """Lay out a record of one question and its answer as ``json.dumps`` would, without its head.

    Args:
        layout: one of FORMATS.
        question: the question's text.
        answer: the answer's text.
    """
    # quoted as json.dumps(…, ensure_ascii=False) does, without the cost of building and walking an object
    question, answer = quoted(question), quoted(answer)
    if layout in CONVERSATIONS:
        return f'"conversations": [{{"from": "human", "value": {question}}}, {{"from": "gpt", "value": {answer}}}]}}'
    return f'"instruction": {question}, "input": "", "output": {answer}}}'


def object_tail(value: dict[str, Any]) -> bytes:
    """A whole JSON object without its opening brace."""
    return json.dumps(value, ensure_ascii=False)[1:].encode()


def write_records(
    path: str | Path, layout: str, tails: Iterable[bytes], *, multiple: int = 1, numbered: bool = True
) -> tuple[int, int]:
    """Write records, numbered from 1 where their layout has an id.

    Args:
        path: the output.
        layout: one of FORMATS, or a converter's own, which is one a line.
        tails: the records without their heads.
        multiple: only whole groups of this many are written.
        numbered: False where the tails are whole objects with an id of their own.

    Returns:
        Records written, and records left over at the end.
    """
    opening, between, closing = (b"[\n", b",\n", b"\n]\n") if layout in _ARRAYS else (b"", b"\n", b"\n")
    head = record_head(layout) if numbered else b"{"
    has_number = b"%d" in head
    # whole groups of ``multiple`` at a time, so that only the last portion can have some left over
    size = multiple * -(-_RECORDS_AT_A_TIME // multiple)
    written, left_over, rest = 0, 0, iter(tails)
    with open(path, "wb") as handle:
        handle.write(opening)
        while True:
            some = list(islice(rest, size))
            if has_number:
                records = [head % number + tail for number, tail in enumerate(some, start=written + 1)]
            else:
                records = [head + tail for tail in some]
            if not records:
                break
            left_over = len(records) % multiple
            # not [-left_over:], which would take all of them where none is left over
            del records[len(records) - left_over :]
            handle.write(between if written and records else b"")
            handle.write(between.join(records))
            written += len(records)
        # an empty JSONL file has no byte, but an empty array still has its brackets
        handle.write(closing if written or opening else b"")
    return written, left_over


def file_facts(path: Path, rows: int) -> dict[str, Any]:
    """What a report says of a file that was written."""
    return {"file": str(path), "rows": rows, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
