"""What a raw file holds: its different problems by kind, its duplicates and its conflicts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from converters.arithmetic.problems import KINDS
from converters.arithmetic.records import read_lines, read_row
from converters.arithmetic.scan import REFUSED, scan
from converters.common.rejected import Rejected
from converters.common.source import Source

CONFLICTS_SHOWN = 10

Counts = dict[str, int]


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
    """Accepted Chinese rows that the scan checked to the last digit; the others, to ``quick.DIGITS`` digits."""
    conflicts: int
    """Problems that stand in the file with more than one solution."""
    examples: list[Conflict]
    """The first of them."""

    def without(self, failed: np.ndarray) -> Survey:
        """The same file less the rows that turned out wrong afterwards (bool [rows])."""
        lost = by_kind(self.kinds[failed])
        return replace(
            self,
            lines=self.lines[~failed],
            offsets=self.offsets[~failed],
            kinds=self.kinds[~failed],
            accepted={kind: count - lost[kind] for kind, count in self.accepted.items()},
        )


def survey(source: Source, rejected: Rejected) -> Survey:
    """Scan a raw file and deduplicate it by problem, keeping the first accepted row of each."""
    found = scan(source, rejected)
    first = found.rows.select(pl.col("problem", "pair").is_first_distinct())
    conflicts = found.rows.filter(first["pair"] & ~first["problem"])
    accepted, is_first = found.rows, first["problem"]
    if found.refused:
        accepted = found.rows.filter(pl.col("kind") != REFUSED)
        is_first = accepted["problem"].is_first_distinct()
    unique = accepted.select("line", "offset", "kind").filter(is_first)
    return Survey(
        lines=unique["line"].to_numpy(),
        offsets=unique["offset"].to_numpy(),
        kinds=unique["kind"].to_numpy(),
        accepted=by_kind(accepted["kind"].to_numpy()),
        exact=found.exact,
        conflicts=conflicts["problem"].n_unique(),
        examples=_examples(source, conflicts, found.rows),
    )


def by_kind(kinds: np.ndarray) -> Counts:
    """Rows of each kind; ``kinds`` are indices into KINDS."""
    return dict(zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True))


def _examples(source: Source, conflicts: pl.DataFrame, rows: pl.DataFrame) -> list[Conflict]:
    """The first few conflicts with their texts, read again."""
    second = conflicts.unique("problem", keep="first", maintain_order=True).head(CONFLICTS_SHOWN)
    first = rows.join(second, on="problem", how="semi").unique("problem", keep="first", maintain_order=True)
    examples = []
    for row in first.join(second, on="problem", suffix="_second", maintain_order="left").iter_rows(named=True):
        (problem, one), (_, other) = map(read_row, read_lines(source.lines, [row["offset"], row["offset_second"]]))
        examples.append(Conflict(problem, (one, other), (row["line"], row["line_second"])))
    return examples
