"""From graded rows to figures: counts by kind, intervals, the contest's score, the table, ``results.json``."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from converters.arithmetic.problems import KINDS
from converters.common.console import format_table
from converters.common.errors import UserError
from eval.math.rules import RULES
from eval.results import environment, git_hash, percent, wilson

TOTAL = "total"
DIRECT = "direct computation"
_OPERATION = re.compile(r"\S+ ([-+*/]) ")
LLAMA3_8B = 8_030_261_248
CONTEST_DENOMINATOR = 8_030_000_000


@dataclass
class Tally:
    """Counts of one kind: rows, rows without an answer, rows cut at the limit, right answers by rule.

    ``parts`` has the same of direct computation's operators, which are learned one by one.
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
        self.cut += row.get("finish_reason") == "length"
        for rule in RULES:
            self.correct[rule] += bool(row["correct"][rule])

    def share(self, rule: str) -> float:
        """Accuracy under a rule, 0 to 1."""
        return self.correct[rule] / self.n if self.n else 0.0


def tally(rows: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Count rows by kind, in the kinds' own order, others after them, ``total`` last."""
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
    """Return the contest's score ``(1 − ratio)·0.3 + accuracy·0.7``; None when what was trained is not known.

    The ratio of trainable parameters is taken to the contest's fixed 8,030,000,000 for Llama-3-8B, otherwise to the
    base's own size; ``denominator_is`` says which.
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


def _parts(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Operators of direct computation with their names in a table, in the usual order."""
    return [(operator, f"  {operator}") for operator in "+-*/" if operator in parts]


def math_table(tallies: Mapping[str, Tally]) -> str:
    """Lay out accuracy by kind under every rule, in percent; ``unparsed`` and ``cut`` are rows."""
    rows = [
        [name, one.n, one.unparsed, one.cut, *(percent(one.share(rule)) for rule in RULES)]
        for kind, whole in tallies.items()
        for name, one in [(kind, whole), *((name, whole.parts[part]) for part, name in _parts(whole.parts))]
    ]
    return format_table(["kind", "n", "unparsed", "cut", *RULES], rows)


def summary_lines(tallies: Mapping[str, Tally], contest: Mapping[str, Any] | None, rule: str) -> list[str]:
    """Say the totals with their intervals, and the contest's score under ``rule``."""
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


def results_json(
    tallies: Mapping[str, Tally], *, contest: Mapping[str, Any] | None, rule: str, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``results.json`` in the shape of lm-eval's, with counts and hashes added.

    Args:
        tallies: counts by kind and in total.
        contest: the contest's score, if known.
        rule: the rule of the contest's accuracy.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.
    """
    tasks = {"math" if kind == TOTAL else f"math_{kind.replace(' ', '_')}": kind for kind in tallies}
    identity = dict(meta.get("identity", {}))
    results: dict[str, dict[str, Any]] = {}
    for task, kind in tasks.items():
        one = tallies[kind]
        entry: dict[str, Any] = {"alias": "math" if kind == TOTAL else f" - {kind}"}
        for name in RULES:
            share = one.share(name)
            entry[f"{name},none"] = share
            entry[f"{name}_stderr,none"] = math.sqrt(share * (1 - share) / (one.n - 1)) if one.n > 1 else None
            entry[f"{name}_wilson95,none"] = list(wilson(one.correct[name], one.n))
        entry["unparsed,none"] = one.unparsed / one.n if one.n else 0.0
        results[task] = entry
    return {
        "results": results,
        "group_subtasks": {"math": [task for task in tasks if task != "math"]},
        "configs": {
            "math": {
                "task": "math",
                "output_type": "generate_until",
                "rule": rule,
                "rules": RULES,
                "generation_kwargs": {
                    key: identity[key] for key in ("max_new_tokens", "min_new_tokens", "dtype") if key in identity
                },
                "template": identity.get("template"),
                "metadata": {"version": 1.0},
            }
        },
        "versions": {"math": 1.0},
        "n-shot": {"math": 0},
        "higher_is_better": {"math": dict.fromkeys(RULES, True)},
        "n-samples": {
            task: {"original": tallies[kind].n, "effective": tallies[kind].n} for task, kind in tasks.items()
        },
        "counts": {kind: asdict(one) for kind, one in tallies.items()},
        "contest": contest,
        "config": {key: value for key, value in meta.items() if key not in ("identity", "complete", "rows")},
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": git_hash(),
        "date": time.time(),
        "environment": environment(),
    }


def compare_table(before: Mapping[str, Any], after: Mapping[str, Any], rule: str) -> list[str]:
    """Lay out two ``results.json`` as accuracy by kind, before → after, in percent.

    Raises:
        UserError: they are not of the same rows, so that their difference would mean nothing.
    """
    for key in ("data", "rows"):
        old, new = before["hashes"].get(key), after["hashes"].get(key)
        if old != new:
            raise UserError(f"the results are of different data: {key} is {old} before and {new} after")
    rows: list[Sequence[Any]] = []
    for kind, now in after["counts"].items():
        then = before["counts"].get(kind)
        if then is None or then["n"] != now["n"]:
            raise UserError(f"the results are of different rows: {now['n']} of kind {kind} after, not so before")
        rows.append(_change(kind, then, now, rule))
        parts = now.get("parts", {})
        if parts.keys() == then.get("parts", {}).keys():
            rows += [_change(name, then["parts"][part], parts[part], rule) for part, name in _parts(parts)]
    lines = [format_table(["kind", "n", "before", "", "after", "change", "unparsed"], rows), ""]
    lines += [_total_line("before", before, rule), _total_line("after", after, rule)]
    for key in ("template", "max_new_tokens", "min_new_tokens", "backend", "dtype"):
        old, new = before["hashes"].get(key), after["hashes"].get(key)
        if old != new:
            lines.append(f"note: {key} was {old} before and {new} after")
    return lines


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any], rule: str) -> list[Any]:
    """One row of :func:`compare_table`."""
    old, new = then["correct"][rule] / now["n"], now["correct"][rule] / now["n"]
    unparsed = f"{then['unparsed']} → {now['unparsed']}"
    return [name, now["n"], percent(old), "→", percent(new), f"{100 * (new - old):+.1f}", unparsed]


def _total_line(when: str, results: Mapping[str, Any], rule: str) -> str:
    total = results["counts"][TOTAL]
    right, n = total["correct"][rule], total["n"]
    low, high = wilson(right, n)
    line = f"{when}: {percent(right / n)} % {rule} (95 %: {percent(low)} to {percent(high)})"
    if template := results["hashes"].get("template"):
        line += f", template {template.split()[0]}"
    if contest := contest_score(results.get("config", {}).get("parameters", {}), right / n):
        line += (
            f", {contest['trainable']:,} of {contest['denominator']:,} parameters trained ({contest['ratio']:.6f}), "
            f"contest score {contest['score']:.6f}"
        )
    if training := results.get("config", {}).get("training"):
        line += f", {training['rows']:,} rows in {training['minutes']} minutes"
    return line
