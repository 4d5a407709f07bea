"""From converted rows to files: choose by kind, hold out, write, report.

``convert`` is the whole way of the converters whose rows fit in memory: rows are laid out as they come and kept as
bytes until it is known which of them are written. The arithmetic one, with its millions of rows, takes ``choose`` and
``write_files`` from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.common.console import format_table
from converters.common.errors import UserError
from converters.common.files import atomic, write_json
from converters.pipeline import sampling
from converters.pipeline.output import (
    CONVERSATIONS,
    PROPORTIONAL,
    OutputOptions,
    file_facts,
    object_tail,
    write_records,
)
from converters.pipeline.rows import Intake, Row
from converters.pipeline.source import Source, open_source
from converters.text.conversation import to_sharegpt

Counts = dict[str, int]
QuotaRule = Callable[[Mapping[str, int], int | None, int], Counts]
"""Maps available rows per kind, rows wanted and a multiple to the number of rows to take per kind."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion read, refused, held out and wrote.

    Attributes:
        input: file, bytes, sha256.
        rows: rows that were ``in`` the input, ``rejected`` and ``converted``.
        rejected: rejected rows by reason.
        dropped: rows left out on purpose, by reason.
        kinds: for each kind its rows and share, and how many of them were held out and written.
        figures: what only this converter counts.
        notes: lines that the table shows.
        output: file, rows, bytes, sha256.
        holdout: the same of the held-out rows.
        options: everything that was asked for.
        left_over: rows at the end that were not written, so that the total is a multiple.
    """

    input: dict[str, Any]
    rows: Counts
    rejected: Counts
    dropped: Counts
    kinds: dict[str, dict[str, Any]]
    figures: dict[str, Any]
    notes: list[str]
    output: dict[str, Any]
    holdout: dict[str, Any] | None
    options: dict[str, Any]
    left_over: int

    def as_json(self) -> dict[str, Any]:
        """The report as it is written beside the output."""
        report: dict[str, Any] = {}
        for key, value in vars(self).items():
            # the converter's own figures stand among the others
            report |= value if key == "figures" else {} if value is None else {key: value}
        return report

    def table(self) -> str:
        """The report laid out for reading."""
        rows = self.rows
        lines = [
            f"{self.input['file']}: {rows['in']:,} rows in, {rows['rejected']:,} rejected, "
            f"{rows['converted']:,} rows converted",
            *(f"  rejected, {reason}: {count:,}" for reason, count in self.rejected.items()),
            *(f"  dropped, {reason}: {count:,}" for reason, count in self.dropped.items()),
        ]
        body = [
            [name, f"{one['rows']:,}", f"{one['share']:.4f}", f"{one['held_out']:,}", f"{one['written']:,}"]
            for name, one in self.kinds.items()
            if one["rows"]
        ]
        held = self.holdout["rows"] if self.holdout else 0
        total = ["total", f"{rows['converted']:,}", "", f"{held:,}", f"{self.output['rows']:,}"]
        lines.append(format_table(["kind", "rows", "share", "held out", "written"], [*body, total]))
        return "\n".join([*lines, *self.notes, *written_files(self.left_over, self.output, self.holdout)])


def written_files(left_over: int, output: Mapping[str, Any], holdout: Mapping[str, Any] | None) -> list[str]:
    """Return the lines that end a report's table.

    Args:
        left_over: rows at the end that were not written.
        output: the written file, as ``file_facts`` describes it.
        holdout: the same of the held-out rows; None if there are none.
    """
    lines = [f"{left_over} rows left over, so that the total is a multiple"] if left_over else []
    for name, one in (("output", output), ("holdout", holdout)):
        if one:
            lines.append(f"{name}: {one['rows']:,} rows in {one['file']} (sha256 {one['sha256'][:12]}…)")
    return lines


@dataclass(frozen=True)
class Choice:
    """Positions of the rows to hold out and of those to write, in the order of the files (int64 [rows])."""

    held: np.ndarray
    written: np.ndarray
    beside: int = 0
    """Rows that are neither, because they share text with a held-out row."""


def choose(
    kinds: np.ndarray,
    names: Sequence[str],
    options: OutputOptions,
    *,
    allowed: np.ndarray | None = None,
    groups: Sequence[str | None] | None = None,
    quota_rule: QuotaRule | None = None,
) -> Choice:
    """Choose the rows to hold out, and from the others those to write.

    Args:
        kinds: uint8 [rows], indices into ``names``.
        names: the kinds.
        options: how many rows, which, and the seed.
        allowed: bool [rows], the rows that may be chosen; by default all.
        groups: for each row its group, whose rows are held out together or not at all; by default each row is alone.
        quota_rule: how many rows of each kind; by default as ``options.balance`` says, held-out rows in proportion.

    Raises:
        UsageError: the options contradict themselves.
        UserError: there are fewer rows than asked for.
    """
    multiple, seed = options.multiple_of, options.seed
    rest = np.ones(len(kinds), bool) if allowed is None else allowed.copy()
    keys = sampling.random_keys(len(kinds), seed)
    held, beside = np.empty(0, np.int64), 0
    if options.holdout:
        available = count_kinds(kinds[rest], names)
        if quota_rule is None:
            quota = sampling.plan(available, options.holdout, PROPORTIONAL, multiple)
        else:
            quota = quota_rule(available, options.holdout, multiple)
        # from what rows may be held out: all of them, or the fewest whole groups that have enough
        drawn = rest if groups is None else _whole_groups(groups, kinds, names, quota, seed)
        # an infinite key puts rows that must not be drawn behind all others; the quota never reaches them
        (held,) = sampling.pick(kinds, names, np.where(drawn, keys, np.inf), [quota])
        if groups is None:
            rest[held] = False
        else:
            # a row that shares text with a held-out one would give its answer away, so that it is not trained on either
            rest &= ~drawn
            beside = int(drawn.sum()) - len(held)
        # pick returns ascending positions, and the file is to be in random order
        held = held[sampling.shuffled(len(held), seed)]
    if options.everything and quota_rule is None:
        # the order of the input; write_records leaves over what exceeds the multiple
        return Choice(held, np.flatnonzero(rest), beside)
    available = count_kinds(kinds[rest], names)
    if quota_rule is None:
        quota = sampling.plan(available, options.rows, options.balance, multiple)
    else:
        quota = quota_rule(available, options.rows, multiple)
    (written,) = sampling.pick(kinds, names, np.where(rest, keys, np.inf), [quota])
    return Choice(held, written[sampling.shuffled(len(written), seed)], beside)


def count_kinds(kinds: np.ndarray, names: Sequence[str]) -> Counts:
    """Count the rows of each kind; ``kinds`` (uint8 [rows]) are indices into ``names``."""
    return dict(zip(names, np.bincount(kinds, minlength=len(names)).tolist(), strict=True))


def _whole_groups(
    groups: Sequence[str | None], kinds: np.ndarray, names: Sequence[str], quota: Counts, seed: int
) -> np.ndarray:
    """Rows of so many whole groups, in random order, that the quota can be met from them (bool [rows]).

    Raises:
        UserError: that takes all groups, so that nothing is left to train on.
    """
    numbers: dict[str | None, int] = {}
    of_row = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    order = sampling.shuffled(len(numbers), seed)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    # groups are taken in their random order up to the one with which every kind has enough rows
    last = -1
    for number, name in enumerate(names):
        if quota.get(name, 0):
            # the group that brings this kind its last row of the quota
            last = max(last, int(np.sort(place[of_row[kinds == number]])[quota[name] - 1]))
    if last + 1 >= len(order):
        raise UserError(
            f"--holdout {sum(quota.values())}: rows that share text are held out together, and that takes all "
            f"{len(order)} groups of them; lower --holdout"
        )
    return place[of_row] <= last


def write_files(
    options: OutputOptions,
    held: Iterable[bytes],
    rows: Iterable[bytes],
    *,
    holdout_layout: str | None = None,
    numbered: bool = False,
) -> tuple[int, int]:
    """Write the held-out rows and the others; both files appear together, each whole, or not at all.

    Args:
        options: where and how.
        held: tails of the held-out records, read before ``rows``.
        rows: tails of the records.
        holdout_layout: by default that of the output.
        numbered: whether records are numbered as they are written, where their layout has an id.

    Returns:
        Records written, and records left over at the end.
    """
    layout = str(options.layout)
    with ExitStack() as files:
        out = files.enter_context(atomic(options.out))
        if options.holdout_out:
            held_out = files.enter_context(atomic(options.holdout_out))
            write_records(held_out, holdout_layout or layout, held, numbered=numbered)
        return write_records(out, layout, rows, multiple=options.multiple_of, numbered=numbered)


@dataclass
class _Converted:
    """All rows that were converted: their records as UTF-8, kinds as indices, groups or None."""

    tails: list[bytes] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)


def convert(
    data: str | Path,
    options: OutputOptions,
    kinds: Sequence[str],
    read: Callable[[Source, Intake], Iterable[Row]],
    *,
    expected: str = "one JSON object a line",
    array: bool = True,
    settings: Mapping[str, Any] | None = None,
    quota_rule: QuotaRule | None = None,
    id_key: str = "id",
) -> Report:
    """Read a file and write the output, the held-out rows if any, the rejected rows and the report.

    Args:
        data: the input; ``-`` is stdin.
        options: how rows are chosen and written.
        kinds: the kinds, in the order of the table.
        read: the converter itself: yields the rows of the opened input in its order, and counts what it leaves out.
        expected: what should be in the input, for the error when nothing is.
        array: an input that begins with ``[`` is a JSON array, whose elements are the rows.
        settings: the converter's own options, for the report.
        quota_rule: how many rows of each kind; by default as ``options.balance`` says.
        id_key: what the id is called in Alpaca's layouts.

    Raises:
        UsageError: there is no input, nothing is in it, or the options contradict themselves.
        UserError: too many rows are rejected, or there are fewer than asked for; only the rejected rows are written.
    """
    options.check_input(str(data))
    intake = Intake()
    with open_source(str(data), expected, array=array) as source:
        with intake.rejected.saved_to(options.rejected_out):
            rows = _lay_out(read(source, intake), str(options.layout), kinds, id_key)
            # counted only now: the rows are read, and refused, while they are laid out
            intake.rejected.refuse_if_too_many(source.name, intake.rows_in, options.max_rejected, options.rejected_out)
            if not rows.tails:
                raise UserError(f"{source.name}: no row to convert is left{_reasons(intake)}")
            numbers = np.array(rows.kinds, np.uint8)
            # a converter gives all of its rows a group, or none
            groups = rows.groups if rows.groups[0] is not None else None
            choice = choose(numbers, kinds, options, groups=groups, quota_rule=quota_rule)
            if choice.beside:
                intake.dropped["shares text with a held-out row"] += choice.beside
            written, left_over = write_files(
                options, (rows.tails[i] for i in choice.held), (rows.tails[i] for i in choice.written)
            )
        every, held, out = (
            count_kinds(some, kinds) for some in (numbers, numbers[choice.held], numbers[choice.written[:written]])
        )
        report = Report(
            input=source.facts(),
            rows={"in": intake.rows_in, "rejected": intake.rejected.total, "converted": len(numbers)},
            rejected=dict(intake.rejected.reasons.most_common()),
            dropped=dict(intake.dropped),
            kinds={
                name: {
                    "rows": every[name],
                    "share": every[name] / len(numbers),
                    "held_out": held[name],
                    "written": out[name],
                    "written_share": out[name] / written if written else 0.0,
                }
                for name in kinds
            },
            figures=intake.figures,
            notes=intake.notes,
            output=file_facts(options.out, written),
            holdout=file_facts(options.holdout_out, len(choice.held)) if options.holdout_out else None,
            options={**(settings or {}), **options.as_json()},
            left_over=left_over,
        )
    write_json(options.report_out, report.as_json())
    return report


def _lay_out(rows: Iterable[Row], layout: str, kinds: Sequence[str], id_key: str) -> _Converted:
    found = _Converted()
    numbers = {name: number for number, name in enumerate(kinds)}
    for row in rows:
        record = to_sharegpt(row.conversation) if layout in CONVERSATIONS else row.alpaca(id_key)
        found.tails.append(object_tail(record))
        found.kinds.append(numbers[row.kind])
        found.groups.append(row.group)
    return found


def _reasons(intake: Intake) -> str:
    counts = {**intake.dropped, **intake.rejected.reasons}
    return f" ({', '.join(f'{reason} {count}' for reason, count in counts.items())})" if counts else ""
