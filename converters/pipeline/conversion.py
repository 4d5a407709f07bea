"""From converted rows to files: choose by kind, hold out, write, report.

Every converter ends here but the arithmetic one, whose millions of rows need their own pipeline. Rows are
laid out as they come and kept as bytes until it is known which of them are written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.common.console import format_table, say
from converters.common.errors import UserError
from converters.common.files import atomic, write_json
from converters.common.rejected import Rejected, RowError
from converters.common.source import Source
from converters.pipeline import sampling as sample
from converters.pipeline.options import PROPORTIONAL, OutputOptions, file_facts
from converters.pipeline.row_writer import object_tail, write_records
from converters.text.conversation import Conversation, Turn, to_sharegpt

Counts = dict[str, int]
Plan = Callable[[Mapping[str, int], int | None, int], Counts]
"""Rows there are by kind, rows wanted, and a multiple, to rows of each kind."""


@dataclass(frozen=True)
class Row:
    """One converted row in Alpaca's parts; ``answer`` None waits for a prediction.

    Rows of one ``group`` share text: they are held out together or not at all.
    """

    kind: str
    id: str
    instruction: str
    answer: str | None
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    group: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The same as turns: the instruction and the input make one question, a line each."""
        turns = [Turn("system", self.system)] if self.system else []
        for question, answer in self.history:
            turns += [Turn("user", question), Turn("assistant", answer)]
        turns.append(Turn("user", f"{self.instruction}\n{self.input}" if self.input else self.instruction))
        if self.answer is not None:
            turns.append(Turn("assistant", self.answer))
        return Conversation(self.id, tuple(turns))

    def alpaca(self, id_key: str) -> dict[str, Any]:
        """The same in Alpaca's keys, with what is not empty."""
        row: dict[str, Any] = {"instruction": self.instruction, "input": self.input}
        if self.answer is not None:
            row["output"] = self.answer
        if self.system:
            row["system"] = self.system
        if self.history:
            row["history"] = [list(pair) for pair in self.history]
        return {**row, id_key: int(self.id) if id_key == "idx" and self.id.isdecimal() else self.id}


@dataclass
class Tally:
    """What a converter counts on its way through the input."""

    rejected: Rejected = field(default_factory=Rejected)
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out on purpose, by reason."""
    figures: dict[str, Any] = field(default_factory=dict)
    """More for the report."""
    notes: list[str] = field(default_factory=list)
    """Lines to show under the table."""


@dataclass
class _Laid:
    """All rows that came out: UTF-8 tails, kinds as indices, groups or None."""

    tails: list[bytes] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)


def json_rows(source: Source, tally: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line, object)``; what is not UTF-8, not JSON or no object is rejected."""
    for number, text in text_lines(source, tally):
        try:
            row = json.loads(text)
            text.encode()
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            tally.rejected.add(number, RowError("broken line", "half of a surrogate pair", text))
        except (ValueError, RecursionError) as error:
            tally.rejected.add(number, RowError("broken line", f"not JSON: {error}", text))
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                tally.rejected.add(number, RowError("not an object", f"found {type(row).__name__}", text))


def text_lines(source: Source, tally: Tally) -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, text)`` of the lines that are not blank; those that are not UTF-8 are rejected."""
    for block in source.blocks():
        # only \n ends a row: str.splitlines would also cut at the odd separators that texts may hold
        for number, data in enumerate(block.data.split(b"\n"), start=block.line):
            if not data.strip():
                continue
            tally.rows_in += 1
            try:
                yield number, data.decode().removesuffix("\r")
            except UnicodeDecodeError as error:
                shown = data.decode(errors="replace")
                detail = f"not UTF-8 ({error.reason} at byte {error.start}); convert it with iconv first"
                tally.rejected.add(number, RowError("broken line", detail, shown))


def convert(
    source: Source,
    options: OutputOptions,
    names: Sequence[str],
    rows: Iterable[Row],
    tally: Tally,
    *,
    asked: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    id_key: str = "id",
) -> dict[str, Any]:
    """Write the output, the held-out rows if any, the rejected rows and the report; show the report.

    Args:
        source: the input, for the report.
        options: how rows are chosen and written.
        names: the kinds, in the order of the table.
        rows: the converted rows, in the order of the input.
        tally: counts that ``rows`` keeps while it is read.
        asked: the converter's own options, for the report.
        plan: how many rows of each kind; by default ``options.balance``, and the held-out rows in proportion.
        id_key: what the id is called in Alpaca's layouts.

    Returns:
        The report.

    Raises:
        UserError: too many rows are rejected, or there are fewer than asked for; only the rejected rows are written.
    """
    try:
        laid = _lay_out(rows, options.layout, names, id_key)
        tally.rejected.refuse_if_too_many(source.name, tally.rows_in, options.max_rejected, options.rejected_out)
        if not laid.tails:
            raise UserError(f"{source.name}: no row to convert is left{_why(tally)}")
        held, train = _choose(laid, options, names, plan, tally)
        with ExitStack() as files:
            out = files.enter_context(atomic(options.out))
            if options.holdout_out:
                held_out = files.enter_context(atomic(options.holdout_out))
                write_records(held_out, options.layout, (laid.tails[i] for i in held), head=b"{")
            written, left_over = write_records(
                out, options.layout, (laid.tails[i] for i in train), multiple=options.multiple_of, head=b"{"
            )
    finally:
        tally.rejected.save(options.rejected_out)
    report = _report(source, options, names, laid, held, train[:written], tally)
    report["options"] = {**(asked or {}), **options.as_json()}
    report["left_over"] = left_over
    write_json(options.report_out, report)
    say(table(report))
    return report


def _lay_out(rows: Iterable[Row], layout: str, names: Sequence[str], id_key: str) -> _Laid:
    laid = _Laid()
    numbers = {name: number for number, name in enumerate(names)}
    conversations = layout in ("jsonl", "array")
    for row in rows:
        laid.tails.append(object_tail(to_sharegpt(row.conversation) if conversations else row.alpaca(id_key)))
        laid.kinds.append(numbers[row.kind])
        laid.groups.append(row.group)
    return laid


def _why(tally: Tally) -> str:
    counts = {**tally.dropped, **tally.rejected.reasons}
    return f" ({', '.join(f'{reason} {count}' for reason, count in counts.items())})" if counts else ""


def _count(kinds: np.ndarray, names: Sequence[str]) -> Counts:
    return dict(zip(names, np.bincount(kinds, minlength=len(names)).tolist(), strict=True))


def _choose(
    laid: _Laid, options: OutputOptions, names: Sequence[str], plan: Plan | None, tally: Tally
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to hold out and of those to write, in the order of the files (int64 [rows])."""
    kinds = np.array(laid.kinds, np.uint8)
    keys = sample.random_keys(len(kinds), options.seed)
    rest, held = np.ones(len(kinds), bool), np.empty(0, np.int64)
    if options.holdout:
        available = _count(kinds, names)
        if plan is None:
            aside = sample.plan(available, options.holdout, PROPORTIONAL, options.multiple_of)
        else:
            aside = plan(available, options.holdout, options.multiple_of)
        rest = ~_whole_groups(laid.groups, kinds, names, aside, options.seed)
        (held,) = sample.pick(kinds, names, np.where(rest, np.inf, keys), [aside])
        beside = int((~rest).sum()) - len(held)
        if laid.groups[0] is None:
            rest = np.ones(len(kinds), bool)
            rest[held] = False
        elif beside:
            tally.dropped["shares text with a held-out row"] += beside
        held = held[sample.shuffled(len(held), options.seed)]
    if options.rows is None and options.balance == PROPORTIONAL and plan is None:
        return held, np.flatnonzero(rest)
    available = _count(kinds[rest], names)
    if plan is None:
        quota = sample.plan(available, options.rows, options.balance, options.multiple_of)
    else:
        quota = plan(available, options.rows, options.multiple_of)
    (train,) = sample.pick(kinds, names, np.where(rest, keys, np.inf), [quota])
    return held, train[sample.shuffled(len(train), options.seed)]


def _whole_groups(
    groups: Sequence[str | None], kinds: np.ndarray, names: Sequence[str], aside: Counts, seed: int
) -> np.ndarray:
    """Rows of so many whole groups, in random order, that the quota ``aside`` can be met from them (bool [rows]).

    Raises:
        UserError: that takes all groups, so that nothing is left to train on.
    """
    if groups[0] is None:
        return np.ones(len(kinds), bool)
    numbers: dict[str | None, int] = {}
    of_row = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    order = sample.shuffled(len(numbers), seed)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    last = -1
    for number, name in enumerate(names):
        if aside.get(name, 0):
            last = max(last, int(np.sort(place[of_row[kinds == number]])[aside[name] - 1]))
    if last + 1 >= len(order):
        raise UserError(
            f"--holdout {sum(aside.values())}: rows that share text are held out together, and that takes all "
            f"{len(order)} groups of them; lower --holdout"
        )
    return place[of_row] <= last


def _report(
    source: Source,
    options: OutputOptions,
    names: Sequence[str],
    laid: _Laid,
    held: np.ndarray,
    written: np.ndarray,
    tally: Tally,
) -> dict[str, Any]:
    kinds = np.array(laid.kinds, np.uint8)
    every, aside, out = (_count(some, names) for some in (kinds, kinds[held], kinds[written]))
    report: dict[str, Any] = {
        "input": {"file": source.name, "bytes": source.size, "sha256": source.sha256},
        "rows": {"in": tally.rows_in, "rejected": tally.rejected.reasons.total(), "converted": len(kinds)},
        "rejected": dict(tally.rejected.reasons.most_common()),
        "dropped": dict(tally.dropped),
        "kinds": {
            name: {
                "rows": every[name],
                "share": every[name] / len(kinds),
                "held_out": aside[name],
                "written": out[name],
                "written_share": out[name] / len(written) if len(written) else 0.0,
            }
            for name in names
        },
        **tally.figures,
        "notes": tally.notes,
        "output": file_facts(options.out, len(written)),
    }
    if options.holdout_out:
        report["holdout"] = file_facts(options.holdout_out, len(held))
    return report


def table(report: dict[str, Any]) -> str:
    """Lay a report out for reading."""
    rows = report["rows"]
    lines = [
        f"{report['input']['file']}: {rows['in']:,} rows in, {rows['rejected']:,} rejected, "
        f"{rows['converted']:,} rows converted",
        *(f"  rejected, {reason}: {count:,}" for reason, count in report["rejected"].items()),
        *(f"  dropped, {reason}: {count:,}" for reason, count in report["dropped"].items()),
    ]
    body = [
        [name, f"{one['rows']:,}", f"{one['share']:.4f}", f"{one['held_out']:,}", f"{one['written']:,}"]
        for name, one in report["kinds"].items()
        if one["rows"]
    ]
    held = report.get("holdout", {"rows": 0})["rows"]
    total = ["total", f"{rows['converted']:,}", "", f"{held:,}", f"{report['output']['rows']:,}"]
    lines.append(format_table(["kind", "rows", "share", "held out", "written"], [*body, total]))
    lines += report["notes"]
    if report["left_over"]:
        lines.append(f"{report['left_over']} rows left over, so that the total is a multiple")
    for key in ("output", "holdout"):
        if key in report:
            one = report[key]
            lines.append(f"{key}: {one['rows']:,} rows in {one['file']} (sha256 {one['sha256'][:12]}…)")
    return "\n".join(lines)
