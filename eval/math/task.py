"""Arithmetic problems: accuracy by kind and under every rule, and the contest's score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.arithmetic.problems import KINDS
from converters.arithmetic.problems import parse as parse_problem
from converters.common.console import say
from converters.common.contest import CONTEST_DENOMINATOR, LLAMA3_8B
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_rows
from converters.text.conversation import Turn
from eval.math.rules import RULES, grade, parse
from eval.results import Figures, percent, share_figures, wilson
from eval.task import Row, Task

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

TOTAL = "total"
OTHER = "other"
DIRECT = "direct computation"
# a label of direct computation begins "a + b"; spaces tell the operator from the sign of a number
_OPERATION = re.compile(r"\S+ ([-+*/]) ")


class MathTask(Task):
    """Problems and their solutions, one ``{"problem", "solution"}`` per line.

    Args:
        rule: the rule of the contest's score.
    """

    name = "math"
    asks_the_data = True

    def __init__(self, rule: str = "close") -> None:
        if rule not in RULES:
            raise UsageError(f"--rule {rule}: {', '.join(RULES)} are expected")
        self.rule = rule

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read problems and find their kinds; rows whose solution has no answer are left out, with a message."""
        found: list[Row] = []
        without: list[int] = []
        # idx counts the rows left out as well, so that it names the same row in every result of this file
        for idx, (number, row) in enumerate(read_rows(path)):
            if limit is not None and idx >= limit:
                break
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("problem", "solution")):
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise UserError(
                    f"{path}: row {number}: texts under 'problem' and 'solution' are expected; found {keys}"
                )
            problem, solution = row["problem"], row["solution"]
            if parse(solution) is None:
                without.append(number)
            else:
                kind = {"kind": kind_of(problem, solution)}
                found.append(Row(idx, (Turn("user", problem),), solution, kind))
        if without:
            left_out = f"{len(without)} rows have no answer in their solution and are left out (row {without[0]} first)"
            say(f"{path}: {left_out}")
        if not found:
            raise UsageError(f"{path}: no problem with an answer in it")
        return found

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parsed``, the answer found in the text (None if none), and ``correct``, the verdict by rule."""
        label = parse(row["label"])
        if label is None:
            raise UserError(f"row {row['idx']}: there is no answer in the label {row['label'][:60]!r}")
        answer = parse(row["predict"])
        return {"parsed": answer.text if answer else None, "correct": grade(answer, label)}

    def read_predictions(
        self, path: Path, *, data: Path | None, limit: int | None, meta: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Read predictions and grade them anew; rows without ``kind`` get it from their ``prompt``."""
        rows = super().read_predictions(path, data=data, limit=limit, meta=meta)
        return [{**row, "kind": row.get("kind") or kind_of(str(row.get("prompt", "")), row["label"])} for row in rows]

    def about(self, files: CheckpointFiles) -> dict[str, Any]:
        """Return what the run was trained on; :mod:`eval.math.compare` prints it."""
        return {"training": files.training}

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures:
        """Return accuracy by kind and in total under every rule, and the contest's score."""
        tallies = tally(rows)
        contest = contest_score(meta.get("parameters", {}), tallies[TOTAL].share(self.rule))
        header, table = table_rows(tallies)
        # a lm-eval group with its subtasks: math is the whole, math_KIND a part
        parts = {"math" if kind == TOTAL else f"math_{kind.replace(' ', '_')}": kind for kind in tallies}
        return Figures(
            header=header,
            table=table,
            lines=summary_lines(tallies, contest, self.rule),
            results={part: _entry(kind, tallies[kind]) for part, kind in parts.items()},
            configs={"math": {"rule": self.rule, "rules": RULES}},
            higher_is_better={"math": dict.fromkeys(RULES, True)},
            samples={part: (tallies[kind].n, tallies[kind].n) for part, kind in parts.items()},
            extra={
                "group_subtasks": {"math": [part for part in parts if part != "math"]},
                "counts": {kind: asdict(one) for kind, one in tallies.items()},
                "contest": contest,
            },
        )


def kind_of(problem: str, solution: str) -> str:
    """Return the kind of a problem as ``converters.arithmetic`` names it; ``other`` if it is none of these.

    Args:
        problem: the text of the problem.
        solution: its raw solution, which some kinds are recognised by.
    """
    known = parse_problem(problem, solution)
    return known.kind if known else OTHER


@dataclass
class Tally:
    """Counts of one kind: rows, rows without an answer, rows cut at the limit, right answers by rule.

    ``parts`` holds a tally for each operator of direct computation, since a model learns them at different speeds.
    """

    n: int = 0
    unparsed: int = 0
    cut: int = 0
    correct: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    parts: dict[str, Tally] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one graded row."""
        self.n += 1
        self.unparsed += row["parsed"] is None
        # another tool's rows do not say how they ended and count as not cut
        self.cut += row.get("finish_reason") == "length"
        for rule in RULES:
            self.correct[rule] += bool(row["correct"][rule])

    def share(self, rule: str) -> float:
        """Accuracy under a rule, 0 to 1."""
        return self.correct[rule] / self.n if self.n else 0.0


def tally(rows: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Count rows by kind.

    Args:
        rows: graded rows with ``kind``.

    Returns:
        Tallies by kind in the order of ``KINDS``, unknown kinds after them, ``total`` last.
    """
    found: dict[str, Tally] = {}
    total = Tally()
    for row in rows:
        of_kind = found.setdefault(row["kind"], Tally())
        of_kind.add(row)
        total.add(row)
        if row["kind"] == DIRECT and (operation := _OPERATION.match(row["label"])):
            of_kind.parts.setdefault(operation[1], Tally()).add(row)
    order = {kind: place for place, kind in enumerate(KINDS)}
    kinds = sorted(found, key=lambda kind: (order.get(kind, len(order)), kind))
    return {**{kind: found[kind] for kind in kinds}, TOTAL: total}


def contest_score(parameters: Mapping[str, int | None], accuracy: float) -> dict[str, Any] | None:
    """Return the contest's score ``(1 − ratio)·0.3 + accuracy·0.7`` (Ascend AI Innovation Contest 2024, stage 1).

    The ratio is that of trainable parameters to the contest's fixed 8,030,000,000 for Llama-3-8B, and to the base's
    own size for every other model.

    Args:
        parameters: numbers of parameters: ``trainable``, and ``base`` for the whole base model.
        accuracy: share of right answers, 0 to 1.

    Returns:
        ``score`` with the terms it was computed from; ``denominator_is`` says in words which denominator was taken.
        None if the numbers of parameters are not known.
    """
    trainable, base = parameters.get("trainable"), parameters.get("base")
    if trainable is None or not base:
        return None
    fixed = base == LLAMA3_8B
    denominator = CONTEST_DENOMINATOR if fixed else base
    ratio = trainable / denominator
    return {
        "score": (1 - ratio) * 0.3 + accuracy * 0.7,
        "ratio": ratio,
        "trainable": trainable,
        "denominator": denominator,
        "denominator_is": "the contest's for Llama-3-8B" if fixed else "the base's own size",
    }


def operators(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the operators of direct computation in the order ``+-*/``, each with its label in a table."""
    return [(operator, f"  {operator}") for operator in "+-*/" if operator in parts]


def table_rows(tallies: Mapping[str, Tally]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table: accuracy by kind and rule in percent, ``unparsed`` and ``cut`` as rows."""
    return ["kind", "n", "unparsed", "cut", *RULES], [
        [name, one.n, one.unparsed, one.cut, *(percent(one.share(rule)) for rule in RULES)]
        for kind, whole in tallies.items()
        for name, one in [(kind, whole), *((name, whole.parts[part]) for part, name in operators(whole.parts))]
    ]


def summary_lines(tallies: Mapping[str, Tally], contest: Mapping[str, Any] | None, rule: str) -> list[str]:
    """Return the lines under the table: totals with their intervals, and the contest's score.

    Args:
        tallies: counts by kind, with the total.
        contest: what :func:`contest_score` returned for the accuracy under ``rule``.
        rule: the rule of the contest's score.
    """
    total = tallies[TOTAL]
    lines = []
    for name, meaning in RULES.items():
        low, high = wilson(total.correct[name], total.n)
        lines.append(f"{name}: {percent(total.share(name))} % (95 %: {percent(low)} to {percent(high)}); {meaning}")
    if contest is None:
        lines.append("contest score: not known, since nothing says how many parameters were trained")
    else:
        lines.append(
            f"contest score ({rule}): (1 - {contest['ratio']:.6f}) * 0.3 + {total.share(rule):.4f} * 0.7 = "
            f"{contest['score']:.6f}; {contest['trainable']:,} trainable of {contest['denominator']:,}, "
            f"{contest['denominator_is']}"
        )
    return lines


def _entry(kind: str, one: Tally) -> dict[str, Any]:
    """The figures of one kind, as ``results.json`` has them."""
    entry: dict[str, Any] = {"alias": "math" if kind == TOTAL else f" - {kind}"}
    for rule in RULES:
        entry |= share_figures(rule, one.correct[rule], one.n)
    entry["unparsed,none"] = one.unparsed / one.n if one.n else 0.0
    return entry
