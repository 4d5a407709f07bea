"""The conversion: which rows are written, to what, and that each of them is right.

Rows are chosen by kind and number alone; only the chosen ones are read again, checked exactly and given their steps,
in the order of the output. When one fails there, it is rejected and the choice is made again without it: so the
totals hold, and no record has to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from converters.arithmetic.problems import ENGLISH, KINDS
from converters.arithmetic.records import TOO_LONG, MakeRecords, Writing
from converters.arithmetic.reports import Report, conversion_report, only_some, survey_report
from converters.arithmetic.steps import Style
from converters.arithmetic.survey import survey
from converters.common.console import progress
from converters.common.errors import UserError
from converters.pipeline.conversion import Choice, choose, count_kinds, write_files
from converters.pipeline.output import OutputOptions, file_facts
from converters.pipeline.rows import Rejected
from converters.pipeline.source import Source

if TYPE_CHECKING:
    from converters.tokenizers.segments import TokenLimit

CHUNK = 1_000
"""Rows that a worker process makes at a time."""
LONG = 500_000
"""From this many rows on, writing shows its progress."""


class _ChooseAgainError(Exception):
    """Some of the chosen rows did not hold."""


class Conversion:
    """One conversion of one raw file.

    ``wanted`` marks the rows that may be chosen, ``failed`` those that did not hold (bool [rows]). ``shortened`` is 0
    for rows in the style asked for, else the place of theirs in ``Style.shortened()``, or TOO_LONG (uint8 [rows]).

    Args:
        source: the raw file.
        output: how rows are chosen and written.
        style: how answers are written.
        limit: the longest row that is written; longer ones are shortened, or else left out.
        keep_english: whether English rows are written too.
        make: makes the records, in worker processes or here.
    """

    def __init__(
        self,
        source: Source,
        output: OutputOptions,
        style: Style,
        limit: TokenLimit | None,
        keep_english: bool,
        make: MakeRecords,
    ):
        self.source, self.output, self.style, self.limit, self.make = source, output, style, limit, make
        self.keep_english = keep_english
        self.rejected = Rejected()

    def run(self) -> Report:
        """Write the output, the held-out rows if any are asked for, and the rejected rows.

        Raises:
            UserError: too many rows are rejected, or there are fewer than asked for; only the rejected rows are
                written.
            UsageError: the options contradict themselves.
        """
        with self.rejected.saved_to(self.output.rejected_out):
            self.rows = survey(self.source, self.rejected)
            self.rows_in = sum(self.rows.accepted.values()) + self.rejected.total
            self.wanted = (self.rows.kinds != KINDS.index(ENGLISH)) | self.keep_english
            self.failed = np.zeros(len(self.rows.lines), dtype=bool)
            self.shortened = np.zeros(len(self.rows.lines), dtype=np.uint8)
            # before anything is written
            self._refuse_if_too_many()
            if not self.wanted.any():
                raise UserError(f"{self.source.name}: no row to convert is left (English rows need --keep-english)")
            # ends, because a row that fails once is never chosen again
            while True:
                choice = choose(self.rows.kinds, KINDS, self.output, allowed=self.wanted & ~self.failed)
                try:
                    written, left_over = self._write(choice)
                except _ChooseAgainError:
                    continue
                return self._report(choice, written, left_over)

    def _write(self, choice: Choice) -> tuple[int, int]:
        """Write the chosen rows; returns rows written and left over."""
        return write_files(
            self.output,
            # held-out rows keep the given solution, so that they can be graded against it
            self._records(Writing(Style("raw"), "problems"), choice.held),
            self._records(
                Writing(self.style, str(self.output.layout), self.limit),
                choice.written,
                # where all rows are written, there are none to take in place of those that do not hold
                replace=not self.output.everything,
            ),
            holdout_layout="problems",
            numbered=True,
        )

    def _records(self, writing: Writing, order: np.ndarray, *, replace: bool = True) -> Iterator[bytes]:
        """Records of the rows at the positions ``order``; the ones that do not hold are rejected, too long ones noted.

        Raises:
            UserError: at the end, if too many rows are rejected.
            _ChooseAgainError: at the end, if some rows do not hold and have to be replaced.
        """
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        offsets = (self.rows.offsets[chunk].tolist() for chunk in chunks)
        bar = progress(total=len(order), desc="writing") if len(order) >= LONG else None
        for chunk, tails in zip(chunks, self.make(writing, self.source.lines, offsets), strict=True):
            yield from tails.records
            # known only now: the first reading checks to twelve digits, and a style may not fit a right row
            for index, error in tails.refused:
                self.failed[chunk[index]] = True
                self.rejected.add(int(self.rows.lines[chunk[index]]), error)
            for index, step in tails.shortened.items():
                self.shortened[chunk[index]] = step
            if bar is not None:
                bar.update(len(chunk))
        if bar is not None:
            bar.close()
        self._refuse_if_too_many()
        # only at the end, so that one pass finds every row that fails
        if replace and self.failed[order].any():
            raise _ChooseAgainError

    def _refuse_if_too_many(self) -> None:
        output = self.output
        self.rejected.refuse_if_too_many(self.source.name, self.rows_in, output.max_rejected, output.rejected_out)

    def _report(self, choice: Choice, written: int, left_over: int) -> Report:
        output, kinds, steps, train = self.output, self.rows.kinds, self.shortened, choice.written
        # left-over rows are at the end of the order, so the first ``written`` rows are those in the file
        done = train[~self.failed[train] & (steps[train] != TOO_LONG)][:written]
        too_long = shortened = None
        options = {
            "steps": self.style.name,
            "precision": self.style.precision,
            "digits": self.style.digits,
            **output.as_json(),
            "keep_english": self.keep_english,
        }
        if self.limit is not None:
            options |= {
                "max_tokens": self.limit.tokens,
                "tokenizer": str(self.limit.tokenizer),
                "template": self.limit.template,
            }
            too_long = only_some(count_kinds(kinds[train[steps[train] == TOO_LONG]], KINDS))
            shortened = {
                str(style.precision): only_some(count_kinds(kinds[done[steps[done] == step]], KINDS))
                for step, style in enumerate(self.style.shortened())
                # step 0 is the precision asked for, which shortens nothing
                if step
            }
        return conversion_report(
            survey_report(self.source, self.rows.without(self.failed), self.rejected),
            count_kinds(kinds[done], KINDS),
            count_kinds(kinds[choice.held], KINDS),
            keep_english=self.keep_english,
            options=options,
            too_long=too_long,
            shortened=shortened,
            left_over=left_over,
            output=file_facts(output.out, written),
            holdout=file_facts(output.holdout_out, len(choice.held)) if output.holdout_out else None,
        )
