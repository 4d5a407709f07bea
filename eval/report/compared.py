"""Before and after of the same rows: what became right, what became wrong, and the table of every graded row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from eval.report.data import Evaluation, GradedRow, measure_name

if TYPE_CHECKING:
    from converters.text.base import Template

# equal in two evaluations of the same rows; the settings below may differ, and the page then says so
_SAME_ROWS = ("data", "rows", "labels", "choices", "protocol")
_ASKED = ("template", "prompt", "max_new_tokens", "min_new_tokens", "way", "dtype")


@dataclass(frozen=True)
class Compared:
    """An evaluation of the run beside the same evaluation of its base.

    Attributes:
        after: the run's.
        before: the base's; None if none was found.
    """

    after: Evaluation
    before: Evaluation | None

    @property
    def sides(self) -> dict[str, Evaluation]:
        """The evaluations by ``before`` and ``after``, in this order."""
        return {"before": self.before, "after": self.after} if self.before else {"after": self.after}

    def shares(self, task: str) -> list[tuple[str, list[tuple[str, float]]]]:
        """Return the shares of a task and its parts under the measure that it is judged by.

        Returns:
            ``(name, [(side, share)])`` of every part, the whole task last.
        """
        measure = self.after.measures(task)[0]
        found = []
        for part in [*self.after.parts(task), task]:
            name = "all" if part == task else self.after.name(part)
            shares = [(side, one.share(part, measure)) for side, one in self.sides.items()]
            known = [(side, share) for side, share in shares if share is not None]
            found.append((f"{name} ({self.after.samples(part):,})", known))
        return found

    def figures(self, task: str) -> list[list[str]]:
        """Return a line for every measure of a task: name, figure of each side, 95 % interval, rows."""
        return [
            [
                measure_name(measure),
                *(side.figure(task, measure) for side in self.sides.values()),
                self.after.interval(task, measure),
                f"{self.after.samples(task):,}",
            ]
            for measure in self.after.measures(task)
        ]

    @property
    def doubts(self) -> list[str]:
        """Differences that make the two less comparable than they look, one per line."""
        if self.before is None:
            return []
        old, new = self.before.hashes, self.after.hashes
        found = [
            f"{key} was {old.get(key)} before and {new.get(key)} after"
            for key in _ASKED
            if old.get(key) != new.get(key)
        ]
        if new.get("base") and old.get("checkpoint") not in (None, new["base"]):
            found.append("the model before is not the base of the model after")
        return found


def compare(after: Iterable[Evaluation], before: Iterable[Evaluation]) -> list[Compared]:
    """Pair evaluations of the same tasks and rows.

    Args:
        after: evaluations of the run; one that was found twice is taken once.
        before: evaluations of the base; of several that fit, one of the run's own base is preferred, then one asked
            with the same settings.

    Returns:
        One pair per evaluation of the run; ``before`` is None if nothing fits.
    """
    olds = list(before)
    found: list[Compared] = []
    for new in after:
        # a sweep repeats the evaluation of the final weights
        if any(_same_rows(one.after, new) and _asked_alike(one.after, new) for one in found):
            continue
        same = [old for old in olds if _same_rows(old, new)]
        # the run's own base comes first: the difference from another model is not what the run learned
        own = [old for old in same if old.hashes.get("checkpoint") == new.hashes.get("base")]
        alike = [old for old in own or same if _asked_alike(old, new)]
        found.append(Compared(new, next(iter(alike or own or same), None)))
    return found


def _asked_alike(old: Evaluation, new: Evaluation) -> bool:
    return all(old.hashes.get(key) == new.hashes.get(key) for key in _ASKED)


def _same_rows(old: Evaluation, new: Evaluation) -> bool:
    return old.tasks == new.tasks and all(old.hashes.get(key) == new.hashes.get(key) for key in _SAME_ROWS)


def wrong_answers(rows: Iterable[GradedRow], most: int) -> tuple[list[GradedRow], int]:
    """Choose wrong answers, one of every kind of row in turn, each kind in the order of the data.

    Args:
        rows: the rows of one evaluation.
        most: how many to choose.

    Returns:
        The rows chosen, and how many are wrong in all.
    """
    by_kind: dict[str, list[GradedRow]] = {}
    for row in rows:
        # None is a row without a verdict, which is not wrong
        if row.correct is False:
            by_kind.setdefault(row.kind, []).append(row)
    # so that the commonest kind does not fill the list
    in_turn = [row for row in chain.from_iterable(zip_longest(*by_kind.values())) if row is not None]
    return in_turn[:most], len(in_turn)


def rows_table(compared: Iterable[Compared], template: Template | None) -> dict[str, Any]:
    """Return every graded row of some evaluations, before beside after, as the page's script reads it.

    Names of tasks and kinds are stored once; ``rows`` refers to them by index, which keeps the page small.

    Args:
        compared: the evaluations.
        template: the template of the prompts, to show the questions without it; None shows whole prompts.

    Returns:
        ``{"tasks": [title], "kinds": [name], "rows": [[task, kind, idx, question, label, before, after]]}``, each side
        ``[answer, correct, grades]``, or None where that side has no such row.
    """
    tasks: dict[str, int] = {}
    kinds: dict[str, int] = {}
    table = []
    for one in compared:
        task = tasks.setdefault(one.after.title, len(tasks))
        sides = [{row.idx: row for row in side.rows(template)} if side else {} for side in (one.before, one.after)]
        for idx, row in {**sides[0], **sides[1]}.items():
            kind = kinds.setdefault(row.kind, len(kinds))
            table.append([task, kind, idx, row.question, row.label, *(_side(side.get(idx)) for side in sides)])
    return {"tasks": list(tasks), "kinds": list(kinds), "rows": table}


def _side(row: GradedRow | None) -> list[Any] | None:
    if row is None:
        return None
    said = [row.grades] * bool(row.grades) + ["cut at the limit"] * row.cut
    return [row.answer, row.correct, ", ".join(said)]
