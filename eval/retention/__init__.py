"""What tuning cost: the same measures before and after, and a verdict.

Two ``results.json`` of the same evaluation are compared, for instance ``eval.squad`` on the base and on the tuned run.
After tuning, every measure must be at least the threshold (0.9 by default) times its value before. A loss on held-out
text (``eval.loss``) may rise by the loss gate at most (:mod:`eval.retention.losses`).

The interval of a ratio comes from the delta method (van der Vaart 1998, chapter 3): for means a after and b before,
with r = a / b,

    var r = (var a + r² var b - 2 r cov(a, b)) / b²

The covariance needs both models' scores of the same rows, read from the ``predictions.jsonl`` beside each
``results.json``. If one is missing, the covariance is taken as 0 and the output says so. The interval is then too wide
rather than too narrow, because a model and its tuned self tend to be right on the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.common.console import format_table
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json, write_text
from eval.results import Z95, markdown_table
from eval.retention.losses import Rise, rises
from eval.retention.saved import SavedResults, check_same, figure_of, read_results

# the contest's rule: a tuned model that loses more than a tenth of F1 or EM is void
THRESHOLD = 0.9


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
    """Results before and after, side by side.

    Attributes:
        kept: how much of every measure is left.
        rises: how far every loss rose.
        threshold: the share that must be left of a measure.
        loss_gate: how far a loss may rise, in nats a token; None sets no gate on it.
        pairs: the results before and after that were compared.
    """

    kept: list[Kept]
    rises: list[Rise]
    threshold: float
    loss_gate: float | None
    pairs: list[tuple[SavedResults, SavedResults]]

    @property
    def passed(self) -> bool:
        """Whether every measure is at least ``threshold`` times its value before, and no loss rose past its gate."""
        enough = all(one.passed(self.threshold) for one in self.kept)
        return enough and all(one.passed(self.loss_gate) for one in self.rises)

    @property
    def certain(self) -> bool:
        """Whether no interval contains its threshold."""
        enough = all(one.certain(self.threshold) for one in self.kept)
        return enough and all(one.certain(self.loss_gate) for one in self.rises)

    @property
    def doubts(self) -> list[str]:
        """Notes on differences that make the comparison less reliable without forbidding it."""
        lines = []
        for before, after in self.pairs:
            old, new = before.value["hashes"], after.value["hashes"]
            lines += [
                f"note: {key} was {old.get(key)} before and {new.get(key)} after"
                # these may move an answer here or there; they do not change what is measured
                for key in ("backend", "dtype", "tokenizer")
                if old.get(key) != new.get(key)
            ]
            if new.get("base") and not old.get("base") and old.get("checkpoint") not in (None, new["base"]):
                lines.append(f"note: the weights of {before.path} are not the base of {after.path}")
        return lines

    @property
    def lines(self) -> list[str]:
        """The method of the intervals, what is uncertain, and the verdict last."""
        lines = []
        if self.kept:
            lines.append(f"intervals: delta method, {_pairing(self.kept, 'rows')}")
        for one in self.kept:
            if one.ratio is None:
                lines.append(f"{one.task} {one.measure}: {one.before:g} before, so there was nothing to lose")
            elif one.low is not None and not one.certain(self.threshold):
                undecided = f"{self.threshold:g} lies in the interval; more rows would settle it"
                lines.append(f"{one.task} {one.measure}: {undecided}")
        if self.rises:
            lines.append(
                f"rise of a loss: t interval over passages by their tokens, {_pairing(self.rises, 'passages')}"
            )
        lines += [
            f"{one.task}: {self.loss_gate:g} lies in the interval; more passages would settle it"
            for one in self.rises
            if self.loss_gate is not None and one.low is not None and not one.certain(self.loss_gate)
        ]
        return [*lines, "; ".join(self._verdicts)]

    @property
    def _verdicts(self) -> list[str]:
        """The verdict on the measures and the one on the losses, in words."""
        found = []
        if self.kept or not self.rises:
            failed = [
                f"{one.task} {one.measure} {one.after:.4f} < {self.threshold * one.before:.4f}"
                for one in self.kept
                if not one.passed(self.threshold)
            ]
            found.append(f"retention at {self.threshold:g}: {_verdict(failed)}")
        if self.rises and self.loss_gate is None:
            found.append("loss: no gate; --loss-gate NATS sets one")
        elif self.loss_gate is not None:
            failed = [
                f"{one.task} {one.after:.4f} > {one.before + self.loss_gate:.4f}"
                for one in self.rises
                if not one.passed(self.loss_gate)
            ]
            found.append(f"loss gate at {self.loss_gate:+g} nats a token: {_verdict(failed)}")
        return found

    @property
    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of the measures: before, after, ratio with interval, and whether each passed."""
        rows: list[list[Any]] = []
        for one in self.kept:
            ratio = "-" if one.ratio is None else f"{one.ratio:.4f}"
            said = "passed" if one.passed(self.threshold) else "NOT passed"
            values = [f"{one.before:.4g}", f"{one.after:.4g}", ratio, _interval(one)]
            rows.append([one.task, one.measure, one.n, *values, said])
        return ["task", "measure", "n", "before", "after", "ratio", "95 %", f"at {self.threshold:g}"], rows

    @property
    def loss_table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of the losses: before, after, rise with interval, and whether each passed."""
        rows: list[list[Any]] = []
        for one in self.rises:
            said = "-" if self.loss_gate is None else "passed" if one.passed(self.loss_gate) else "NOT passed"
            values = [f"{one.before:.4f}", f"{one.after:.4f}", f"{one.change:+.4f}", _interval(one)]
            rows.append([one.task, "nats a token", one.n, *values, said])
        gate = "gate" if self.loss_gate is None else f"at {self.loss_gate:+g}"
        return ["task", "measure", "n", "before", "after", "rise", "95 %", gate], rows

    @property
    def tables(self) -> list[tuple[list[str], list[list[Any]]]]:
        """The tables that have a row; that of the measures where neither has one."""
        return [one for one in (self.table, self.loss_table) if one[1]] or [self.table]

    @property
    def text(self) -> str:
        """Tables and lines as plain text."""
        shown = [format_table(*one, left=2) for one in self.tables]
        return "\n\n".join([*shown, "\n".join(self.lines)])

    @property
    def value(self) -> dict[str, Any]:
        """What ``retention.json`` holds."""
        sides = [[one.source for one in side] for side in zip(*self.pairs, strict=True)]
        # one source where there is one pair, a list of them where there are several
        before, after = (side[0] if len(side) == 1 else side for side in sides)
        return {
            "threshold": self.threshold,
            "loss_gate": self.loss_gate,
            "passed": self.passed,
            "method": "delta method",
            "measures": [
                {**asdict(one), "ratio": one.ratio, "passed": one.passed(self.threshold)} for one in self.kept
            ],
            "losses": [
                {
                    **asdict(one),
                    "change": one.change,
                    "perplexity_ratio": one.perplexity_ratio,
                    "passed": None if self.loss_gate is None else one.passed(self.loss_gate),
                }
                for one in self.rises
            ],
            "before": before,
            "after": after,
        }


def _verdict(failed: list[str]) -> str:
    return f"NOT passed: {', '.join(failed)}" if failed else "passed"


def _pairing(compared: Sequence[Kept | Rise], what: str) -> str:
    return f"{what} paired" if all(one.paired for one in compared) else f"{what} not paired, so wider than need be"


def _interval(one: Kept | Rise) -> str:
    return "-" if one.low is None else f"{one.low:.4f} to {one.high:.4f}"


Source = str | Path | SavedResults


def retention(
    before: Source | Sequence[Source],
    after: Source | Sequence[Source],
    threshold: float = THRESHOLD,
    *,
    loss_gate: float | None = None,
    out: str | Path | None = None,
) -> Retention:
    """Compare every measure and every loss of results before and after.

    Args:
        before: ``results.json`` of the base, or its directory; several are paired with those after by their tasks.
        after: the same of the tuned model.
        threshold: smallest ratio of after to before that passes.
        loss_gate: how far a loss may rise, in nats a token; None sets no gate.
        out: folder for ``retention.json`` and ``retention.md``; None writes nothing.

    Returns:
        The ratio of every measure and the rise of every loss with their intervals, and the verdict.

    Raises:
        UsageError: a file is missing, the threshold is not above 0, or there is a loss gate and no loss.
        UserError: the results were not measured alike, or a measure is missing.
    """
    if not threshold > 0:
        raise UsageError(f"--threshold {threshold:g}: more than 0 is expected")
    if loss_gate is not None and not math.isfinite(loss_gate):
        raise UsageError(f"--loss-gate {loss_gate:g}: a number of nats is expected")
    pairs = _pairs(*([_read(one) for one in _listed(side)] for side in (before, after)))
    kept = [one for pair in pairs for one in measures_kept(*pair)]
    losses = [one for pair in pairs for one in rises(*pair)]
    if loss_gate is not None and not losses:
        raise UsageError("--loss-gate: none of the results holds a loss; eval.loss measures it")
    found = Retention(kept, losses, threshold, loss_gate, pairs)
    if out is not None:
        parts = ["# Retention", *(markdown_table(*one, left=2).rstrip() for one in found.tables)]
        lines = "\n".join(f"- {line}" for line in found.lines)
        write_text(Path(out) / "retention.md", "\n\n".join([*parts, lines]) + "\n")
        write_json(Path(out) / "retention.json", found.value)
    return found


def _listed(side: Source | Sequence[Source]) -> list[Source]:
    return [side] if isinstance(side, str | Path | SavedResults) else list(side)


def _read(one: Source) -> SavedResults:
    return one if isinstance(one, SavedResults) else read_results(one)


def _pairs(before: list[SavedResults], after: list[SavedResults]) -> list[tuple[SavedResults, SavedResults]]:
    """Pair results by their tasks; one on each side are a pair, whose tasks are checked later.

    Raises:
        UserError: one has no counterpart, or several of one side have the same tasks.
    """
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    sides: list[dict[tuple[str, ...], SavedResults]] = []
    for side in (before, after):
        by_tasks: dict[tuple[str, ...], SavedResults] = {}
        for one in side:
            tasks = tuple(sorted(one.value["higher_is_better"]))
            if tasks in by_tasks:
                raise UserError(f"{by_tasks[tasks].path} and {one.path} are both of {' + '.join(tasks)}")
            by_tasks[tasks] = one
        sides.append(by_tasks)
    old, new = sides
    for tasks in old.keys() ^ new.keys():
        alone = (old.get(tasks) or new[tasks]).path
        raise UserError(f"{alone}: there are no results of {' + '.join(tasks)} to compare it with")
    return [(old[tasks], one) for tasks, one in new.items()]


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
            (old, old_error), (new, new_error) = (figure_of(one, task, measure) for one in (before, after))
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
