"""Two results of ``eval.math`` side by side: accuracy by kind, before → after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.console import format_table
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json
from eval.math.rules import RULES
from eval.math.task import TOTAL, contest_score, operators
from eval.results import percent, wilson
from eval.run import Results

HEADER = ["kind", "n", "before", "", "after", "change", "unparsed"]


@dataclass(frozen=True)
class Comparison:
    """Accuracy before and after.

    Attributes:
        rows: one per kind: kind, rows, percent before, an arrow, percent after, change in points, unparsed rows.
        lines: the totals with their intervals, and the settings that differ.
    """

    rows: list[Sequence[Any]]
    lines: list[str]

    @property
    def text(self) -> str:
        """The comparison as plain text."""
        return "\n".join([format_table(HEADER, self.rows), "", *self.lines])


def compare(before: str | Path | Results, after: str | Path | Results, rule: str = "close") -> Comparison:
    """Compare two results of ``eval.math`` by kind; :mod:`eval.retention` compares two results of any task.

    Args:
        before: what ``evaluate`` returned, a ``results.json``, or the directory that holds it.
        after: the same, of the tuned model.
        rule: the rule to compare under.

    Returns:
        The table and the lines under it.

    Raises:
        UsageError: a file is missing, or there is no such rule.
        UserError: the results are not of the same rows, so that their difference would mean nothing.
    """
    if rule not in RULES:
        raise UsageError(f"--rule {rule}: {', '.join(RULES)} are expected")
    return compare_results(_read(before), _read(after), rule)


def _read(path: str | Path | Results) -> dict[str, Any]:
    if isinstance(path, Results):
        if path.task != "math":
            raise UserError(f"results of {path.task}: kinds are compared for math; eval.retention compares any task")
        file, value = path.predictions, path.value
    else:
        file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
        value = read_json(file)
    if not isinstance(value, dict) or "counts" not in value or "hashes" not in value:
        raise UserError(f"{file}: not a results.json of eval.math (no 'counts' and 'hashes')")
    return value


def compare_results(before: Mapping[str, Any], after: Mapping[str, Any], rule: str) -> Comparison:
    """Compare the contents of two ``results.json``.

    Args:
        before: the content before training.
        after: the content after training.
        rule: the rule to compare under.

    Raises:
        UserError: they are not of the same rows.
    """
    # accuracies of other questions differ whatever the model learned, so this is an error
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
        # the same rows have the same operators; a file without parts is still compared by kind
        if parts.keys() == then.get("parts", {}).keys():
            rows += [_change(name, then["parts"][part], parts[part], rule) for part, name in operators(parts)]
    lines = [_total_line("before", before, rule), _total_line("after", after, rule)]
    # other conditions still answer a question, for instance what a template is worth: a note is enough
    for key in ("template", "max_new_tokens", "min_new_tokens", "backend", "dtype"):
        old, new = before["hashes"].get(key), after["hashes"].get(key)
        if old != new:
            lines.append(f"note: {key} was {old} before and {new} after")
    return Comparison(rows, lines)


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any], rule: str) -> list[Any]:
    """One row of :class:`Comparison`."""
    old, new = then["correct"][rule] / now["n"], now["correct"][rule] / now["n"]
    unparsed = f"{then['unparsed']} → {now['unparsed']}"
    return [name, now["n"], percent(old), "→", percent(new), f"{100 * (new - old):+.1f}", unparsed]


def _total_line(when: str, results: Mapping[str, Any], rule: str) -> str:
    total = results["counts"][TOTAL]
    right, n = total["correct"][rule], total["n"]
    low, high = wilson(right, n)
    line = f"{when}: {percent(right / n)} % {rule} (95 %: {percent(low)} to {percent(high)})"
    # "NAME HASH": the name is enough for people
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
