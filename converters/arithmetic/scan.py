"""Read every line once: what is a problem of a known kind that its solution follows from, and what is refused.

A line is accepted by the quick check, or else looked at by itself: decoded, parsed as JSON, and checked exactly.
What is kept of a row is its place, its kind and two hashes, so that millions fit in memory; the lines that are
wanted later are read again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl

from converters.arithmetic.bulk_check import quick_check
from converters.arithmetic.problems import ENGLISH, KINDS
from converters.arithmetic.records import NOT_UTF8, checked, quoted, read_row, row_line
from converters.arithmetic.workers import in_order
from converters.common.rejected import Rejected, RowError
from converters.common.source import Block, Source

THREADS = 3
REFUSED = 255
"""In place of a kind: a row whose solution does not follow. It is rejected, but it may stand in a conflict."""
UNREAD = 254
"""In place of a kind: a line that no row came of."""


ROWS = {"line": pl.UInt32, "offset": pl.UInt64, "kind": pl.UInt8, "problem": pl.UInt64, "pair": pl.UInt64}
"""One row: its line number, where the line starts in bytes, and as in ``quick.FOUND``."""


@dataclass(frozen=True)
class Scan:
    """What the first reading found.

    ``rows`` (ROWS) are in line order, duplicates included, and the ``refused`` ones whose kind is REFUSED. ``exact`` of
    the accepted Chinese ones were checked to the last digit, and the others to ``quick.DIGITS`` digits.
    """

    rows: pl.DataFrame
    refused: int
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
    rows = pl.concat(parts, rechunk=True)
    return Scan(rows, int((rows["kind"] == REFUSED).sum()), exact)


def _scan_block(block: Block) -> tuple[pl.DataFrame, int, list[tuple[int, RowError]]]:
    """Rows, how many of the accepted were checked exactly, and refused line numbers with their errors."""
    texts, offsets = _lines(block)
    kinds = np.full(len(texts), UNREAD, np.uint8)
    problems, pairs = np.empty(len(texts), np.uint64), np.empty(len(texts), np.uint64)

    def put(found: pl.DataFrame) -> None:
        places = found["place"].to_numpy()
        kinds[places] = found["kind"].to_numpy()
        problems[places] = found["problem"].to_numpy()
        pairs[places] = found["pair"].to_numpy()

    put(quick_check(texts))
    slow: list[tuple[int, int, str, str]] = []
    exact = 0
    refused: list[tuple[int, RowError]] = []
    left = np.flatnonzero(kinds == UNREAD)
    for place, text in zip(left.tolist(), texts.gather(left), strict=True):
        if not text.strip():
            continue
        try:
            problem, solution = read_row(text)
        except RowError as error:
            refused.append((block.line + place, error))
            continue
        kind = _exact_check(problem, solution)
        if isinstance(kind, RowError):
            refused.append((block.line + place, RowError(kind.reason, kind.detail, text)))
            kind = REFUSED
        exact += kind not in (REFUSED, KINDS.index(ENGLISH))
        slow.append((place, kind, quoted(problem)[1:-1], row_line(problem, solution)))
    if slow:
        columns = [("place", pl.UInt32), ("kind", pl.UInt8), "problem", "pair"]
        put(pl.DataFrame(slow, columns, orient="row").with_columns(pl.col("problem", "pair").hash()))
    lines = np.arange(block.line, block.line + len(texts), dtype=np.uint32)
    rows = pl.DataFrame([lines, offsets, kinds, problems, pairs], ROWS).filter(kinds != UNREAD)
    return rows, exact, refused


@lru_cache(maxsize=4096)  # small files hold the same few rows again and again
def _exact_check(problem: str, solution: str) -> int | RowError:
    """The index of the row's kind, or why it is refused."""
    try:
        return KINDS.index(checked(problem, solution).kind)
    except RowError as error:
        return error


def _lines(block: Block) -> tuple[pl.Series, np.ndarray]:
    """The lines' texts, and where they start in the file; lines that are not UTF-8 are marked as such."""
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends + 1])
    if block.data.endswith(b"\n"):
        starts = starts[:-1]
    try:
        texts = pl.read_lines(block.data)
    except pl.exceptions.ComputeError:
        texts = pl.read_lines(b"\n".join(map(_marked, block.data.split(b"\n"))))
    return texts.to_series(), (starts + block.offset).astype(np.uint64)


def _marked(line: bytes) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError:
        return NOT_UTF8.encode() + line.decode(errors="replace").encode()
    return line
