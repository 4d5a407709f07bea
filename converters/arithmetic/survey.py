"""The first reading of a raw file: its different problems by kind, its duplicates, its conflicts, and what is refused.

A line is accepted by the bulk check, or else looked at by itself: decoded, parsed as JSON, and checked exactly.
What is kept of a row is its place, its kind and two hashes, so that millions fit in memory; the lines that are
wanted later are read again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import polars as pl

from converters.arithmetic.bulk_check import accepted_lines
from converters.arithmetic.problems import ENGLISH, KINDS
from converters.arithmetic.records import NOT_UTF8, checked, in_order, quoted, read_lines, read_row, row_line
from converters.common.reader import MalformedRow, decode_line
from converters.pipeline.conversion import Counts, count_kinds
from converters.pipeline.rows import Rejected, RowError
from converters.pipeline.source import Block, Source

THREADS = 3
CONFLICTS_SHOWN = 10
REFUSED = 255
"""In place of a kind: a row whose solution does not follow. It is rejected, but it may stand in a conflict."""
UNREAD = 254
"""In place of a kind: a line that no row came of."""

ROWS = {"line": pl.UInt32, "offset": pl.UInt64, "kind": pl.UInt8, "problem": pl.UInt64, "pair": pl.UInt64}
"""One row: its line number, where the line starts in bytes, and as in ``bulk_check.FOUND``."""


@dataclass(frozen=True)
class Conflict:
    """One problem with two solutions, and the lines on which they stand first."""

    problem: str
    solutions: tuple[str, str]
    lines: tuple[int, int]


@dataclass(frozen=True)
class Survey:
    """The different problems of a raw file, in line order, and what was counted on the way to them."""

    lines: np.ndarray
    """uint32 [rows]: line numbers, from 1."""
    offsets: np.ndarray
    """uint64 [rows]: where the lines start, in bytes."""
    kinds: np.ndarray
    """uint8 [rows]: indices into KINDS."""
    accepted: Counts
    """Accepted rows by kind, duplicates included."""
    exact: int
    """Accepted Chinese rows that the scan checked to the last digit; the others, to ``bulk_check.DIGITS`` digits."""
    conflicts: int
    """Problems that stand in the file with more than one solution."""
    examples: list[Conflict]
    """The first of them."""

    def without(self, failed: np.ndarray) -> Survey:
        """The same file less the rows that turned out wrong afterwards (bool [rows])."""
        lost = count_kinds(self.kinds[failed], KINDS)
        return replace(
            self,
            lines=self.lines[~failed],
            offsets=self.offsets[~failed],
            kinds=self.kinds[~failed],
            accepted={kind: count - lost[kind] for kind, count in self.accepted.items()},
        )


def survey(source: Source, rejected: Rejected) -> Survey:
    """Scan a raw file and deduplicate it by problem, keeping the first accepted row of each.

    Args:
        source: the opened raw file.
        rejected: receives the rows that are refused.
    """
    found = _scan(source, rejected)
    # a pair that is new while its problem is not: the same problem with another solution
    first = found.rows.select(pl.col("problem", "pair").is_first_distinct())
    conflicts = found.rows.filter(first["pair"] & ~first["problem"])
    accepted, is_first = found.rows, first["problem"]
    if found.refused:
        # a refused row may stand in a conflict, but it must not keep a right one of the same problem out
        accepted = found.rows.filter(pl.col("kind") != REFUSED)
        is_first = accepted["problem"].is_first_distinct()
    unique = accepted.select("line", "offset", "kind").filter(is_first)
    return Survey(
        lines=unique["line"].to_numpy(),
        offsets=unique["offset"].to_numpy(),
        kinds=unique["kind"].to_numpy(),
        accepted=count_kinds(accepted["kind"].to_numpy(), KINDS),
        exact=found.exact,
        conflicts=conflicts["problem"].n_unique(),
        examples=_examples(source, conflicts, found.rows),
    )


def _examples(source: Source, conflicts: pl.DataFrame, rows: pl.DataFrame) -> list[Conflict]:
    """The first few conflicts with their texts, read again."""
    second = conflicts.unique("problem", keep="first", maintain_order=True).head(CONFLICTS_SHOWN)
    first = rows.join(second, on="problem", how="semi").unique("problem", keep="first", maintain_order=True)
    examples = []
    for row in first.join(second, on="problem", suffix="_second", maintain_order="left").iter_rows(named=True):
        (problem, one), (_, other) = map(read_row, read_lines(source.lines, [row["offset"], row["offset_second"]]))
        examples.append(Conflict(problem, (one, other), (row["line"], row["line_second"])))
    return examples


@dataclass(frozen=True)
class _Scan:
    """What the first reading found.

    ``rows`` (ROWS) are in line order, duplicates included, and the ``refused`` ones whose kind is REFUSED. ``exact`` of
    the accepted Chinese ones were checked to the last digit, and the others to ``bulk_check.DIGITS`` digits.
    """

    rows: pl.DataFrame
    refused: int
    exact: int


def _scan(source: Source, rejected: Rejected) -> _Scan:
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
    return _Scan(rows, int((rows["kind"] == REFUSED).sum()), exact)


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

    put(accepted_lines(texts))
    slow: list[tuple[int, int, str, str]] = []
    exact = 0
    refused: list[tuple[int, RowError]] = []
    left = np.flatnonzero(kinds == UNREAD)
    for place, text in zip(left.tolist(), texts.gather(left), strict=True):
        # a blank line is no row, and is not refused
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
        # hashed as the bulk check does, in the canonical form, so that other spellings are found to be the same row
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
        # a line end at the end of the block begins no further line
        starts = starts[:-1]
    try:
        texts = pl.read_lines(block.data)
    except pl.exceptions.ComputeError:
        # one bad byte refuses the whole block: look at its lines one by one
        texts = pl.read_lines(b"\n".join(map(_marked, block.data.split(b"\n"))))
    return texts.to_series(), (starts + block.offset).astype(np.uint64)


def _marked(line: bytes) -> bytes:
    try:
        decode_line(line)
    except MalformedRow:
        return NOT_UTF8.encode() + line.decode(errors="replace").encode()
    return line
