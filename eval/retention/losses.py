"""How much the loss on held-out text rose: the difference before and after, paired by passage.

The rise is m = Σ dᵢ / Σ nᵢ over k passages, dᵢ being the nats that passage i costs more after than before and nᵢ its
tokens. Its standard error is that of the ratio estimator (:func:`eval.results.mean_per_unit`), and the 95 % interval is
m ± t · error with Student's t of k − 1 degrees of freedom. Most of what makes one passage harder than another is the
same before and after, so pairing makes the interval many times narrower than those of the two losses. Where the rows of
one side are not at hand, the errors of both means are added as independent ones, and the output says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.results import mean_per_unit, t_quantile
from eval.retention.saved import SavedResults, check_same, figure_of

MEASURE = "nats"


@dataclass(frozen=True, slots=True)
class Rise:
    """The change of a loss; all in nats a token.

    Attributes:
        task: task of the results, ``loss``.
        n: passages.
        before: the mean before.
        after: the mean after.
        low: lower end of the 95 % interval of ``after − before``; None if it is not known.
        high: its upper end.
        paired: whether the interval uses the losses of the same passages on both sides.
    """

    task: str
    n: int
    before: float
    after: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def change(self) -> float:
        """``after − before``; above 0, something was forgotten."""
        return self.after - self.before

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity after divided by perplexity before."""
        return math.exp(self.change)

    def passed(self, gate: float | None) -> bool:
        """Whether the loss rose by ``gate`` at most; without a gate always."""
        # a sum and no difference: a loss that is given as 2.75 meets a gate of 0.05 over 2.7 exactly
        return gate is None or self.after <= self.before + gate

    def certain(self, gate: float | None) -> bool:
        """Whether the interval is known and does not contain the gate; without a gate nothing is in doubt."""
        if gate is None:
            return True
        return self.low is not None and self.high is not None and not self.low <= gate < self.high


def rises(before: SavedResults, after: SavedResults) -> list[Rise]:
    """Compare every loss that both results hold; none for results of other measures.

    Args:
        before: results of the base.
        after: results of the tuned model.

    Raises:
        UserError: they were not measured alike, or a figure is missing.
    """
    check_same(before, after)
    found = []
    for task, measures in after.value["higher_is_better"].items():
        if measures.get(MEASURE) is not False:
            continue
        (old, old_error), (new, new_error) = (figure_of(one, task, MEASURE) for one in (before, after))
        n = after.value["n-samples"][task]["effective"]
        error = _paired_error(before, after, task, n)
        paired = error is not None
        if error is None and old_error is not None and new_error is not None:
            error = math.hypot(old_error, new_error)
        spread = None if error is None else t_quantile(n - 1) * error
        low, high = (None, None) if spread is None else (new - old - spread, new - old + spread)
        found.append(Rise(task, n, old, new, low, high, paired))
    return found


def _paired_error(before: SavedResults, after: SavedResults, task: str, n: int) -> float | None:
    """Return the standard error of the rise; None unless both sides have the losses of all passages."""
    if before.rows is None or after.rows is None:
        return None
    old, new = before.rows, after.rows
    names = [name for name, scores in new.items() if task in scores and task in old.get(name, {})]
    # a part of the passages would give the error of another rise than the one shown
    if len(names) != n:
        return None
    changes = [new[name][task][MEASURE] - old[name][task][MEASURE] for name in names]
    return mean_per_unit(changes, [new[name][task]["tokens"] for name in names])[1]
