"""The conversion: which rows are written, to what, and that each of them is right.

Rows are chosen by kind and number alone; only the chosen ones are read again, checked exactly and given their steps,
in the order of the output. When one fails there, it is rejected and the choice is made again without it: so the
totals hold, and no record has to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from converters.arithmetic.problems import ENGLISH, KINDS
from converters.arithmetic.records import TOO_LONG, Writing
from converters.arithmetic.steps import DEFAULT, Style, choose_style
from converters.arithmetic.survey import Counts, Survey, by_kind, survey
from converters.arithmetic.workers import MakeRecords
from converters.common.console import progress
from converters.common.errors import UserError
from converters.common.files import atomic
from converters.common.rejected import Rejected
from converters.common.source import Source
from converters.pipeline import sampling as sample
from converters.pipeline.options import PROPORTIONAL, OutputOptions
from converters.pipeline.row_writer import write_records
from converters.tokenizers.segments import TokenLimit

CHUNK = 1_000
LONG = 500_000
"""From this many rows on, writing shows its progress."""


@dataclass(frozen=True)
class Options(OutputOptions):
    """What ``convert`` is asked for."""

    style: Style = field(default_factory=lambda: choose_style(DEFAULT))
    limit: TokenLimit | None = None
    """The longest row that is written; longer ones are shortened, or else left out."""
    keep_english: bool = False


@dataclass(frozen=True)
class Converted:
    """What came of a conversion: the survey of the raw file, and the rows of each kind that were written."""

    survey: Survey
    rejected: Rejected
    written: Counts
    held_out: Counts
    left_over: int
    """Rows at the end that were not written, so that the total is a multiple."""
    too_long: Counts
    """Rows that were chosen and left out, since they are too long in every precision."""
    shortened: dict[str, Counts]
    """Rows that are written to a shorter precision than was asked for, by that precision."""


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


class _ChooseAgainError(Exception):
    """Some of the chosen rows did not hold."""


class _Conversion:
    """One run.

    ``wanted`` marks the rows that may be chosen, ``failed`` those that did not hold (bool [rows]). ``shortened`` is 0
    for rows in the style asked for, else the place of theirs in ``Style.shortened()``, or TOO_LONG (uint8 [rows]).
    """

    def __init__(self, source: Source, options: Options, make: MakeRecords, rows: Survey, rejected: Rejected):
        self.source, self.options, self.make, self.rows, self.rejected = source, options, make, rows, rejected
        self.rows_in = sum(rows.accepted.values()) + rejected.reasons.total()
        self.wanted = (rows.kinds != KINDS.index(ENGLISH)) | options.keep_english
        self.failed = np.zeros(len(rows.lines), dtype=bool)
        self.shortened = np.zeros(len(rows.lines), dtype=np.uint8)
        self.everything = options.rows is None and options.balance == PROPORTIONAL

    def write(self) -> Converted:
        """Choose and write until every chosen row holds."""
        if not self.wanted.any():
            raise UserError(f"{self.source.name}: no row to convert is left (English rows need --keep-english)")
        while True:
            try:
                return self._write_chosen(*self._choose())
            except _ChooseAgainError:
                self.refuse_if_too_many()

    def _choose(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the rows to hold out and of those to write, in the order of the files (int64 [rows])."""
        options, kinds = self.options, self.rows.kinds
        alive = self.wanted & ~self.failed
        available = by_kind(kinds[alive])
        aside = dict.fromkeys(available, 0)
        if options.holdout:
            aside = sample.plan(available, options.holdout, PROPORTIONAL, options.multiple_of)
        rest = {kind: count - aside[kind] for kind, count in available.items()}
        quota = {} if self.everything else sample.plan(rest, options.rows, options.balance, options.multiple_of)
        keys = np.where(alive, sample.random_keys(len(kinds), options.seed), np.inf)
        held, train = sample.pick(kinds, KINDS, keys, [aside, quota])
        held_order = held[sample.shuffled(len(held), options.seed)]
        if self.everything:
            alive[held] = False
            return held_order, np.flatnonzero(alive)
        return held_order, train[sample.shuffled(len(train), options.seed)]

    def _write_chosen(self, held: np.ndarray, train: np.ndarray) -> Converted:
        """Write both files; they appear together, each whole."""
        options = self.options
        with ExitStack() as files:
            out = files.enter_context(atomic(options.out))
            if options.holdout_out:
                held_out = files.enter_context(atomic(options.holdout_out))
                write_records(held_out, "problems", self._records(Writing(Style("raw"), "problems"), held))
            writing = Writing(options.style, options.layout, options.limit)
            records = self._records(writing, train, replace=not self.everything)
            written, left_over = write_records(out, options.layout, records, multiple=options.multiple_of)
            self.refuse_if_too_many()
        kinds, steps = self.rows.kinds, self.shortened
        done = train[~self.failed[train] & (steps[train] != TOO_LONG)][:written]
        return Converted(
            self.rows.without(self.failed),
            self.rejected,
            written=by_kind(kinds[done]),
            held_out=by_kind(kinds[held]),
            left_over=left_over,
            too_long=by_kind(kinds[train[steps[train] == TOO_LONG]]),
            shortened={
                str(style.precision): by_kind(kinds[done[steps[done] == step]])
                for step, style in enumerate(options.style.shortened())
                if step
            },
        )

    def _records(self, writing: Writing, order: np.ndarray, *, replace: bool = True) -> Iterator[bytes]:
        """Records of the rows at the positions ``order``; the ones that do not hold are rejected, too long ones noted.

        Raises:
            _ChooseAgainError: at the end, if there were some and they have to be replaced.
        """
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        offsets = (self.rows.offsets[chunk].tolist() for chunk in chunks)
        bar = progress(total=len(order), desc="writing") if len(order) >= LONG else None
        for chunk, tails in zip(chunks, self.make(writing, self.source.lines, offsets), strict=True):
            yield from tails.records
            for index, error in tails.refused:
                self.failed[chunk[index]] = True
                self.rejected.add(int(self.rows.lines[chunk[index]]), error)
            for index, step in tails.shortened.items():
                self.shortened[chunk[index]] = step
            if bar is not None:
                bar.update(len(chunk))
        if bar is not None:
            bar.close()
        if replace and self.failed[order].any():
            raise _ChooseAgainError

    def refuse_if_too_many(self) -> None:
        """Stop when more than the allowed share of rows is rejected."""
        options = self.options
        self.rejected.refuse_if_too_many(self.source.name, self.rows_in, options.max_rejected, options.rejected_out)
