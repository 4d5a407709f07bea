"""The conversion: which rows are written, to what, and that each of them is right.

Rows are chosen by kind and number alone; only the chosen ones are read again, checked exactly and given their steps.
One that fails there is rejected, and the choice is made again without it, so that the totals hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.arithmetic import sample
from converters.arithmetic.kinds import ENGLISH, KINDS
from converters.arithmetic.output import write_records
from converters.arithmetic.records import RowError
from converters.arithmetic.scan import Rejected
from converters.arithmetic.source import Source
from converters.arithmetic.survey import Counts, Survey, by_kind, survey
from converters.arithmetic.workers import MakeRecords
from converters.cli import UserError, progress

CHUNK = 4_000
LONG = 500_000
"""From this many rows on, writing shows its progress."""


@dataclass(frozen=True)
class Options:
    """What ``convert`` is asked for."""

    out: Path
    steps: str = "seed"
    layout: str = "jsonl"
    rows: int | None = None
    multiple_of: int = 1
    balance: str | Counts = sample.PROPORTIONAL
    seed: int = 0
    holdout: int = 0
    holdout_out: Path | None = None
    keep_english: bool = False
    max_rejected: float = 0.01

    @property
    def rejected_out(self) -> Path:
        """Where the rejected rows go."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl")

    @property
    def report_out(self) -> Path:
        """Where the report goes."""
        return self.out.with_name(f"{self.out.name}.report.json")


@dataclass(frozen=True)
class Converted:
    """What came of a conversion: the survey of the raw file, and the rows of each kind that were written."""

    survey: Survey
    rejected: Rejected
    written: Counts
    held_out: Counts
    left_over: int
    """Rows at the end that were not written, so that the total is a multiple."""


def convert(source: Source, options: Options, make: MakeRecords) -> Converted:
    """Write the output, the held-out rows if any are asked for, and the rejected rows.

    Raises:
        UserError: too many rows are rejected, or there are fewer than asked for; only the rejected rows are written.
        UsageError: the options contradict themselves.
    """
    rejected = Rejected()
    try:
        rows = survey(source, rejected)
        run = _Conversion(source, options, make, rows, rejected)
        run.refuse_if_too_many()
        return run.write()
    finally:
        rejected.save(options.rejected_out)


class _Conversion:
    """One run; ``wanted`` marks the rows that may be chosen, ``failed`` those that did not hold (bool [rows])."""

    def __init__(self, source: Source, options: Options, make: MakeRecords, rows: Survey, rejected: Rejected):
        self.source, self.options, self.make, self.rows, self.rejected = source, options, make, rows, rejected
        self.rows_in = sum(rows.accepted.values()) + rejected.reasons.total()
        self.wanted = (rows.kinds != KINDS.index(ENGLISH)) | options.keep_english
        self.failed = np.zeros(len(rows.lines), dtype=bool)

    def write(self) -> Converted:
        """Choose and write; the files appear one after the other, each whole."""
        options = self.options
        if not self.wanted.any():
            raise UserError(f"{self.source.name}: no row to convert is left (English rows need --keep-english)")
        everything = options.rows is None and options.balance == sample.PROPORTIONAL
        held, train, held_tails, train_tails = self._choose(everything)
        if everything:
            tails = self._all_but(held)
        else:
            order = train[sample.shuffled(len(train), options.seed)]
            tails = ((position, train_tails[position]) for position in order.tolist())
        counted: list[int] = []

        def counting() -> Iterator[bytes]:
            for position, tail in tails:
                counted.append(position)
                yield tail
            self.refuse_if_too_many()

        written, left_over = write_records(options.out, options.layout, counting(), multiple=options.multiple_of)
        if options.holdout_out:
            order = held[sample.shuffled(len(held), options.seed)]
            write_records(options.holdout_out, "problems", (held_tails[position] for position in order.tolist()))
        return Converted(
            self.rows.without(self.failed),
            self.rejected,
            written=by_kind(self.rows.kinds[counted[:written]]),
            held_out=by_kind(self.rows.kinds[held]),
            left_over=left_over,
        )

    def _choose(self, everything: bool) -> tuple[np.ndarray, np.ndarray, dict[int, bytes], dict[int, bytes]]:
        """Positions and records of the held-out and of the sampled rows; with ``everything``, none are sampled."""
        options, kinds = self.options, self.rows.kinds
        keys = sample.random_keys(len(kinds), options.seed)
        held_tails: dict[int, bytes] = {}
        train_tails: dict[int, bytes] = {}
        while True:
            alive = self.wanted & ~self.failed
            available = by_kind(kinds[alive])
            aside = dict.fromkeys(available, 0)
            if options.holdout:
                aside = sample.plan(available, options.holdout, sample.PROPORTIONAL, options.multiple_of)
            rest = {kind: count - aside[kind] for kind, count in available.items()}
            quota = {} if everything else sample.plan(rest, options.rows, options.balance, options.multiple_of)
            held, train = sample.pick(kinds, np.where(alive, keys, np.inf), [aside, quota])
            failed = self._make("raw", "problems", held, held_tails)
            failed += self._make(options.steps, options.layout, train, train_tails)
            if not failed:
                return held, train, held_tails, train_tails
            self.refuse_if_too_many()

    def _make(self, style: str, layout: str, positions: np.ndarray, tails: dict[int, bytes]) -> int:
        """Make the records that ``tails`` lacks; returns how many rows were rejected on the way."""
        missing = np.array([position for position in positions.tolist() if position not in tails], dtype=np.int64)
        made = dict(self._records(style, layout, missing))
        tails.update(made)
        return len(missing) - len(made)

    def _all_but(self, held: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Records of every row that is not held out, in input order."""
        chosen = self.wanted & ~self.failed
        chosen[held] = False
        positions = np.flatnonzero(chosen)
        records = self._records(self.options.steps, self.options.layout, positions)
        return progress(records, total=len(positions), desc="writing") if len(positions) >= LONG else records

    def _records(self, style: str, layout: str, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Position and record of the rows at ``positions`` (ascending) that hold; the others are rejected."""
        chunks = [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]
        offsets = (self.rows.offsets[chunk].tolist() for chunk in chunks)
        for chunk, tails in zip(chunks, self.make(style, layout, self.source.lines, offsets), strict=True):
            for position, tail in zip(chunk.tolist(), tails, strict=True):
                if isinstance(tail, RowError):
                    self.failed[position] = True
                    self.rejected.add(int(self.rows.lines[position]), tail)
                else:
                    yield position, tail

    def refuse_if_too_many(self) -> None:
        """Stop when more than the allowed share of rows is rejected.

        Raises:
            UserError: it is.
        """
        reasons, allowed = self.rejected.reasons, self.options.max_rejected
        if reasons.total() > allowed * self.rows_in:
            listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            raise UserError(
                f"{self.source.name}: {reasons.total()} of {self.rows_in} rows rejected ({listed}), more than "
                f"--max-rejected {allowed:g}; nothing was converted\nsee {self.options.rejected_out}"
            )
