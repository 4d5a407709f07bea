"""What tuning cost: the same measures before and after, their ratio, and a verdict.

Two ``results.json`` of the same evaluation are compared, for instance ``eval.squad`` on the base and on the tuned run.
After tuning, every measure must be at least the threshold (0.9 by default) times its value before.

The interval of a ratio comes from the delta method (van der Vaart 1998, chapter 3): for means a after and b before,
with r = a / b,

    var r = (var a + r² var b - 2 r cov(a, b)) / b²

The covariance needs both models' scores of the same rows, read from the ``predictions.jsonl`` beside each
``results.json``. If one is missing, the covariance is taken as 0 and the output says so. The interval is then too wide
rather than too narrow, because a model and its tuned self tend to be right on the same rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.common.console import format_table
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file, write_json, write_text
from converters.common.reader import read_rows
from eval.results import Z95, markdown_page, read_results_json

# the contest's rule: a tuned model that loses more than a tenth of F1 or EM is void
THRESHOLD = 0.9
# keys of ``hashes`` that must be equal for a ratio to mean anything, and their names in the error message
SAME = {
    "data": "data",
    "rows": "limits: rows",
    "template": "template",
    "max_new_tokens": "limits: max_new_tokens",
    "min_new_tokens": "limits: min_new_tokens",
    "labels": "questions",
}


@dataclass(frozen=True, slots=True)
class SavedResults:
    """One ``results.json`` with the scores of its rows, where they are at hand.

    Attributes:
        value: the file's content.
        rows: ``{task: {measure: score}}`` by the row's id; None without a matching ``predictions.jsonl``.
        path: the file.
    """

    value: dict[str, Any]
    rows: dict[str, dict[str, dict[str, float]]] | None
    path: Path

    @property
    def source(self) -> dict[str, Any]:
        """Where the results came from, as ``retention.json`` records it."""
        return {"path": str(self.path), "sha256": sha256_file(self.path), "hashes": self.value["hashes"]}


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of one measure is left.

    Attributes:
        task: task of the results, for instance ``squad_mindformers``.
        measure: ``f1``, ``em``, …
        n: rows.
        before: the mean before.
        after: the mean after.
        low: lower end of the ratio's 95 % interval; None if it is not known.
        high: its upper end.
        paired: whether the interval uses the scores of the same rows on both sides.
    """

    task: str
    measure: str
    n: int
    before: float
    after: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def ratio(self) -> float | None:
        """``after / before``; None if the measure was 0 before."""
        return self.after / self.before if self.before > 0 else None

    def passed(self, threshold: float) -> bool:
        """Whether the measure after is at least ``threshold`` times the one before."""
        # a product and no quotient: a published gate such as 0.9 · 59.87 is met exactly at its own figure
        return self.before <= 0 or self.after >= threshold * self.before

    def certain(self, threshold: float) -> bool:
        """Whether the interval is known and does not contain the threshold."""
        if self.low is None or self.high is None:
            return False
        return self.low >= threshold or self.high < threshold


@dataclass(frozen=True)
class Retention:
    """Two results side by side.

    Attributes:
        kept: how much of every measure is left.
        threshold: the share that must be left.
        before: the results before.
        after: the results after.
    """

    kept: list[Kept]
    threshold: float
    before: SavedResults
    after: SavedResults

    @property
    def passed(self) -> bool:
        """Whether every measure is at least ``threshold`` times its value before."""
        return all(one.passed(self.threshold) for one in self.kept)

    @property
    def certain(self) -> bool:
        """Whether no interval contains the threshold."""
        return all(one.certain(self.threshold) for one in self.kept)

    @property
    def doubts(self) -> list[str]:
        """Notes on differences that make the comparison less reliable without forbidding it."""
        old, new = self.before.value["hashes"], self.after.value["hashes"]
        lines = [
            f"note: {key} was {old.get(key)} before and {new.get(key)} after"
            # these may move an answer here or there; they do not change what is measured
            for key in ("backend", "dtype", "tokenizer")
            if old.get(key) != new.get(key)
        ]
        if new.get("base") and not old.get("base") and old.get("checkpoint") not in (None, new["base"]):
            lines.append(f"note: the weights of {self.before.path} are not the base of {self.after.path}")
        return lines

    @property
    def lines(self) -> list[str]:
        """The method of the intervals, what is uncertain, and the verdict last."""
        pairing = "rows paired" if all(one.paired for one in self.kept) else "rows not paired, so wider than need be"
        lines = [f"intervals: delta method, {pairing}"]
        for one in self.kept:
            if one.ratio is None:
                lines.append(f"{one.task} {one.measure}: {one.before:g} before, so there was nothing to lose")
            elif one.low is not None and not one.certain(self.threshold):
                undecided = f"{self.threshold:g} lies in the interval; more rows would settle it"
                lines.append(f"{one.task} {one.measure}: {undecided}")
        failed = [
            f"{one.task} {one.measure} {one.after:.4f} < {self.threshold * one.before:.4f}"
            for one in self.kept
            if not one.passed(self.threshold)
        ]
        verdict = f"NOT passed: {', '.join(failed)}" if failed else "passed"
        return [*lines, f"retention at {self.threshold:g}: {verdict}"]

    @property
    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows: before, after, ratio with interval, and whether each measure passed."""
        rows: list[list[Any]] = []
        for one in self.kept:
            ratio = "-" if one.ratio is None else f"{one.ratio:.4f}"
            interval = "-" if one.low is None else f"{one.low:.4f} to {one.high:.4f}"
            said = "passed" if one.passed(self.threshold) else "NOT passed"
            rows.append([one.task, one.measure, one.n, f"{one.before:.4g}", f"{one.after:.4g}", ratio, interval, said])
        return ["task", "measure", "n", "before", "after", "ratio", "95 %", f"at {self.threshold:g}"], rows

    @property
    def text(self) -> str:
        """Table and lines as plain text."""
        return "\n".join([format_table(*self.table, left=2), "", *self.lines])

    @property
    def value(self) -> dict[str, Any]:
        """What ``retention.json`` holds."""
        return {
            "threshold": self.threshold,
            "passed": self.passed,
            "method": "delta method",
            "measures": [
                {**asdict(one), "ratio": one.ratio, "passed": one.passed(self.threshold)} for one in self.kept
            ],
            "before": self.before.source,
            "after": self.after.source,
        }


def retention(
    before: str | Path | SavedResults,
    after: str | Path | SavedResults,
    threshold: float = THRESHOLD,
    *,
    out: str | Path | None = None,
) -> Retention:
    """Compare every measure of two results.

    Args:
        before: ``results.json`` of the base, or its directory.
        after: the same of the tuned model.
        threshold: smallest ratio of after to before that passes.
        out: folder for ``retention.json`` and ``retention.md``; None writes nothing.

    Returns:
        The ratio of every measure with its interval, and the verdict.

    Raises:
        UsageError: a file is missing, or the threshold is not above 0.
        UserError: the results were not measured alike, or a measure is missing.
    """
    if not threshold > 0:
        raise UsageError(f"--threshold {threshold:g}: more than 0 is expected")
    old, new = (one if isinstance(one, SavedResults) else read_results(one) for one in (before, after))
    found = Retention(measures_kept(old, new), threshold, old, new)
    if out is not None:
        write_text(Path(out) / "retention.md", markdown_page("Retention", *found.table, found.lines, left=2))
        write_json(Path(out) / "retention.json", found.value)
    return found


def read_results(path: str | Path) -> SavedResults:
    """Read a ``results.json``, or the one in a directory.

    Raises:
        UsageError: there is none.
        UserError: it was not written by an evaluation of this project.
    """
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    value = read_results_json(file)
    predictions = file.parent / "predictions.jsonl"
    # rows that were answered or edited after the figures would pair with the wrong scores
    whole = predictions.is_file() and sha256_file(predictions) == value["hashes"].get("predictions")
    rows = None
    if whole:
        found = {str(row.get("id")): row["scores"] for _, row in read_rows(predictions) if "scores" in row}
        # rows of other tasks hold verdicts instead of scores, and cannot be paired
        rows = found or None
    return SavedResults(value, rows, file)


def check_same(before: SavedResults, after: SavedResults) -> None:
    """Check that two results were measured in the same way.

    Raises:
        UserError: protocols, data, template or limits differ; the message names both values.
    """
    tasks = [sorted(one.value["higher_is_better"]) for one in (before, after)]
    if tasks[0] != tasks[1]:
        raise UserError(f"the results are of different protocols: {' + '.join(tasks[0])} and {' + '.join(tasks[1])}")
    old, new = before.value["hashes"], after.value["hashes"]
    for key, name in SAME.items():
        if old.get(key) != new.get(key):
            raise UserError(
                f"the results differ in {name}: {old.get(key)} in {before.path}, {new.get(key)} in {after.path}"
            )


def measures_kept(before: SavedResults, after: SavedResults) -> list[Kept]:
    """Compare every measure for which a higher value is better.

    Args:
        before: results of the base.
        after: results of the tuned model.

    Returns:
        Both values of each measure, with the 95 % interval of their ratio.

    Raises:
        UserError: they were not measured alike, or a measure is missing.
    """
    check_same(before, after)
    found = []
    for task, measures in after.value["higher_is_better"].items():
        # of a measure where less is better, a high ratio would be a loss
        for measure in (name for name, higher in measures.items() if higher):
            (old, old_error), (new, new_error) = (_figure(one, task, measure) for one in (before, after))
            covariance = _covariance(before, after, task, measure)
            spread = None
            if old > 0 and old_error is not None and new_error is not None:
                spread = Z95 * ratio_error(old, new, old_error, new_error, covariance or 0.0)
            ratio = new / old if old > 0 else 0.0
            # the normal interval may reach below 0, a ratio of shares cannot
            low, high = (None, None) if spread is None else (max(0.0, ratio - spread), ratio + spread)
            n = after.value["n-samples"][task]["effective"]
            found.append(Kept(task, measure, n, old, new, low, high, covariance is not None))
    return found


def _figure(one: SavedResults, task: str, measure: str) -> tuple[float, float | None]:
    """Return a measure and its standard error."""
    entry = one.value["results"].get(task, {})
    value = entry.get(f"{measure},none")
    if not isinstance(value, int | float):
        raise UserError(f"{one.path}: results.{task} has no figure under '{measure},none'")
    return value, entry.get(f"{measure}_stderr,none")


def ratio_error(before: float, after: float, before_error: float, after_error: float, covariance: float) -> float:
    """Return the standard error of ``after / before`` by the delta method (formula in the module's docstring).

    Args:
        before: mean before, not 0.
        after: mean after.
        before_error: standard error of the mean before.
        after_error: standard error of the mean after.
        covariance: covariance of the two means.
    """
    ratio = after / before
    variance = after_error**2 + ratio**2 * before_error**2 - 2 * ratio * covariance
    return math.sqrt(max(0.0, variance)) / before  # a perfect correlation may round below 0


def _covariance(before: SavedResults, after: SavedResults, task: str, measure: str) -> float | None:
    """Return the covariance of the two means; None unless both sides have the scores of all rows."""
    if before.rows is None or after.rows is None:
        return None
    pairs = [
        (before.rows[name][task][measure], scores[task][measure])
        for name, scores in after.rows.items()
        if task in scores and task in before.rows.get(name, {})
    ]
    n = len(pairs)
    # a part of the rows would give the covariance of other means than those compared
    if n != after.value["n-samples"][task]["effective"] or n < 2:
        return None
    old_mean, new_mean = (sum(column) / n for column in zip(*pairs, strict=True))
    # the sample covariance (n - 1) of the rows; that of two means over n rows is an n-th of it
    return sum((old - old_mean) * (new - new_mean) for old, new in pairs) / (n - 1) / n
