"""Read every line once: what is a problem of a known kind that its solution follows from, and what is refused.

A line is accepted by the quick check, or else looked at by itself: decoded, parsed as JSON, and checked exactly.
What is kept of a row is its place, its kind and two hashes, so that millions fit in memory; the lines that are
wanted later are read again.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import polars as pl

from converters.arithmetic.kinds import KINDS
from converters.arithmetic.quick import ROWS, hashes, quick_check
from converters.arithmetic.records import NOT_UTF8, RowError, checked, read_row
from converters.arithmetic.source import Block, Source
from converters.arithmetic.workers import in_order
from converters.files import atomic

THREADS = 2
SHOWN_CHARACTERS = 2_000
REFUSED = 255
"""In place of a kind: a row whose solution does not follow. It is rejected, but it may stand in a conflict."""


class Rejected:
    """The refused rows: counted by reason, and kept on disk until they are written beside the output."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._rows = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the object

    def add(self, line: int, error: RowError) -> None:
        """Note one refused row: its line number, why, and what stands there."""
        self.reasons[error.reason] += 1
        row = {"line": line, "reason": error.reason, "detail": error.detail[:SHOWN_CHARACTERS], "row": error.text}
        self._rows.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n")

    def save(self, path: Path) -> None:
        """Write the rows as JSONL; where none were refused, a file of an earlier run goes away."""
        if not self.reasons.total():
            path.unlink(missing_ok=True)
            return
        self._rows.seek(0)
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(self._rows)


@dataclass(frozen=True)
class Scan:
    """What the first reading found.

    ``rows`` (``quick.ROWS``) are in line order, duplicates included, REFUSED ones too. ``exact`` of the accepted were
    checked to the last digit, and the others to ``quick.DIGITS`` digits.
    """

    rows: pl.DataFrame
    exact: int


def scan(source: Source, rejected: Rejected) -> Scan:
    """Read all lines of ``source``; refused ones go to ``rejected``."""
    parts, exact = [pl.DataFrame(schema=ROWS)], 0
    with ThreadPoolExecutor(THREADS) as executor:
        jobs = (partial(executor.submit, _scan_block, block) for block in source.blocks())
        # one block more than are at work waits, so that few are in memory
        for rows, slow, refused in in_order(jobs, THREADS + 1):
            parts.append(rows)
            exact += slow
            for line, error in refused:
                rejected.add(line, error)
    return Scan(pl.concat(parts, rechunk=True), exact)


def _scan_block(block: Block) -> tuple[pl.DataFrame, int, list[tuple[int, RowError]]]:
    """Rows, how many of the accepted were checked exactly, and refused line numbers with their errors."""
    lines = _lines(block)
    quick = quick_check(lines)
    passed = np.zeros(lines.height, dtype=bool)
    passed[quick["line"].to_numpy() - block.line] = True
    slow: list[tuple[int, int, int, str, str]] = []
    refused: list[tuple[int, RowError]] = []
    for line, offset, text in lines.filter(~pl.Series(passed)).iter_rows():
        if not text.strip():
            continue
        try:
            problem, solution = read_row(text)
        except RowError as error:
            refused.append((line, error))
            continue
        verdict = _exact_check(problem, solution)
        if isinstance(verdict, RowError):
            refused.append((line, RowError(verdict.reason, verdict.detail, text)))
        slow.append((line, offset, REFUSED if isinstance(verdict, RowError) else verdict, problem, solution))
    if slow:
        columns = [("line", pl.UInt32), ("offset", pl.UInt64), ("kind", pl.UInt8), "problem", "solution"]
        rows = pl.DataFrame(slow, columns, orient="row").select("line", "offset", "kind", *hashes())
        quick = pl.concat([quick, rows])
    return quick.sort("line"), sum(row[2] != REFUSED for row in slow), refused


@lru_cache(maxsize=4096)  # small files hold the same few rows again and again
def _exact_check(problem: str, solution: str) -> int | RowError:
    """The index of the row's kind, or why it is refused."""
    try:
        return KINDS.index(checked(problem, solution).kind)
    except RowError as error:
        return error


def _lines(block: Block) -> pl.DataFrame:
    """Columns ``line``, ``offset`` and ``text``; a line that is not UTF-8 is marked, with replacement characters."""
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends + 1])
    if block.data.endswith(b"\n"):
        starts = starts[:-1]
    try:
        text = pl.read_lines(block.data, name="text")
    except pl.exceptions.ComputeError:
        text = pl.read_lines(b"\n".join(map(_marked, block.data.split(b"\n"))), name="text")
    return text.select(
        pl.int_range(block.line, block.line + pl.len(), dtype=pl.UInt32).alias("line"),
        pl.Series("offset", starts + block.offset, dtype=pl.UInt64),
        "text",
    )


def _marked(line: bytes) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError:
        return NOT_UTF8.encode() + line.decode(errors="replace").encode()
    return line
