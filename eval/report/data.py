"""What a report shows, found in files: evaluations of a run and of its base, what changed, answers that are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file
from converters.common.reader import read_json

if TYPE_CHECKING:
    from converters.text.template import Template

_PARTS = ("results", "higher_is_better", "n-samples", "hashes")
# two evaluations are of the same thing when these are equal; how rows were asked may differ, and is then said
_SAME = ("data", "rows", "labels", "choices", "protocol")
_ASKED = ("template", "max_new_tokens", "min_new_tokens", "way", "dtype")
# how BOS is spelt in a decoded prompt
_LEADING_TOKENS = re.compile(r"^(?:<\|?[a-z_]+\|?>)+")
# measures that are not shares
_PLAIN = {"mcc": "{:.4f}", "score_002": "{:.2f}"}


@dataclass(frozen=True)
class Evaluation:
    """One ``results.json``.

    Attributes:
        path: the file.
        value: its content.
    """

    path: Path
    value: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Its tasks, without the parts of a group."""
        return list(self.value["higher_is_better"])

    @property
    def title(self) -> str:
        """What people call it: its tasks, and the data set."""
        names = ", ".join(map(self.name, self.tasks))
        data = Path(str(self.value.get("config", {}).get("data") or "")).name
        return names if data.split(".")[0] in names else f"{names}: {data}"

    @property
    def hashes(self) -> Mapping[str, Any]:
        """What it was made with."""
        return self.value["hashes"]

    def measures(self, task: str) -> list[str]:
        """Return the measures of a task that its file has a figure for; the one that it is judged by comes first."""
        names = [
            name
            for name in self.value["higher_is_better"].get(task, {})
            if isinstance(self._entry(task).get(f"{name},none"), int | float)
        ]
        rule = self.value.get("configs", {}).get(task, {}).get("rule")
        return sorted(names, key=lambda name: name != rule)

    def parts(self, task: str) -> list[str]:
        """Return the parts that a task is a group of, as the file has them."""
        found = self.value.get("group_subtasks", {}).get(task, [])
        return [part for part in found if part in self.value["results"]]

    def name(self, part: str) -> str:
        """What people call a part."""
        return str(self._entry(part).get("alias", part)).strip().removeprefix("- ")

    def share(self, part: str, measure: str) -> float | None:
        """Return a figure from 0 to 1; None if there is none, or it is no share."""
        value = self._entry(part).get(f"{measure},none")
        if not isinstance(value, int | float) or measure in _PLAIN:
            return None
        return value / 100 if self._percent(part) else value

    def written(self, part: str, measure: str) -> str:
        """Return a figure as people read it: shares in percent."""
        value = self._entry(part).get(f"{measure},none")
        if not isinstance(value, int | float):
            return "–"
        share = self.share(part, measure)
        return _PLAIN[measure].format(value) if share is None else f"{100 * share:.1f} %"

    def interval(self, part: str, measure: str) -> str:
        """Return the 95 % interval of a share as people read it, in percent; empty where the file has none."""
        for name in (f"{measure}_wilson95,none", f"{measure}_95,none"):
            if isinstance(found := self._entry(part).get(name), list):
                low, high = (value if self._percent(part) else 100 * value for value in found)
                return f"{low:.1f} to {high:.1f}"
        return ""

    def samples(self, task: str) -> int:
        """Return how many rows were graded."""
        return int(self.value["n-samples"].get(task, {}).get("effective", 0))

    def _entry(self, part: str) -> Mapping[str, Any]:
        return self.value["results"].get(part, {})

    def _percent(self, part: str) -> bool:
        return self.value.get("configs", {}).get(part, {}).get("unit") == "percent"

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """The rows behind the figures, graded anew; none, and said, where the file beside is not what was graded."""
        from eval import predictions
        from eval.choice import files as choice_files
        from eval.choice.rules import Choices

        file = self.path.parent / "predictions.jsonl"
        if not file.is_file():
            return []
        if sha256_file(file) != self.hashes.get("predictions"):
            say(f"{file}: not the predictions that {self.path.name} was made from; its rows are left out")
            return []
        config = self.value.get("configs", {}).get(self.tasks[0], {})
        if choices := config.get("doc_to_choice"):
            return choice_files.read_predictions(file, Choices(tuple(choices)))[1]
        if "rule" in config:
            return predictions.read_predictions(file)
        return [row for row in predictions.read_values(file) if isinstance(row, dict)]


def read_evaluation(path: Path) -> Evaluation:
    """Read a ``results.json``.

    Raises:
        UsageError: there is none.
        UserError: it is not one of an evaluation.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in _PARTS):
        raise UserError(f"{path}: not a results.json of an evaluation ({', '.join(_PARTS)} are expected)")
    return Evaluation(path, value)


def find_evaluations(places: Iterable[str | Path]) -> list[Evaluation]:
    """Read every ``results.json`` at or under these places.

    Raises:
        UsageError: a place does not exist, or holds none.
        UserError: a file is not one of an evaluation.
    """
    found: dict[Path, Evaluation] = {}
    for place in map(Path, places):
        files = sorted(place.rglob("results.json")) if place.is_dir() else [place]
        if not files:
            raise UsageError(f"{place}: no results.json there or below")
        for file in files:
            found.setdefault(file.resolve(), read_evaluation(file))
    return list(found.values())


def find_readable(place: Path) -> list[Evaluation]:
    """Read every ``results.json`` under a place that may have none; what cannot be read is left out, and said."""
    found = []
    for file in sorted(place.rglob("results.json")):
        try:
            found.append(read_evaluation(file))
        except UserError as error:
            say(f"left out: {error}")
    return found


@dataclass(frozen=True)
class Compared:
    """An evaluation of the run, and the same of what it was before, if there is one.

    Attributes:
        after: of the run.
        before: of its base.
    """

    after: Evaluation
    before: Evaluation | None

    @property
    def doubts(self) -> list[str]:
        """What makes the two less comparable than they look."""
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
    """Put evaluations of the same tasks and rows together; of several befores, one of the run's own base is taken.

    The same evaluation is shown once, wherever it was found twice.
    """
    olds = list(before)
    found: list[Compared] = []
    for new in after:
        if any(_is_same(one.after, new) and _asked_alike(one.after, new) for one in found):
            continue
        same = [old for old in olds if _is_same(old, new)]
        own = [old for old in same if old.hashes.get("checkpoint") == new.hashes.get("base")]
        alike = [old for old in own or same if _asked_alike(old, new)]
        found.append(Compared(new, next(iter(alike or own or same), None)))
    return found


def _asked_alike(old: Evaluation, new: Evaluation) -> bool:
    return all(old.hashes.get(key) == new.hashes.get(key) for key in _ASKED)


def _is_same(old: Evaluation, new: Evaluation) -> bool:
    return old.tasks == new.tasks and all(old.hashes.get(key) == new.hashes.get(key) for key in _SAME)


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: which row it is, what was asked, what is right and what was said."""

    row: str
    question: str
    right: str
    said: str


def wrong_answers(evaluation: Evaluation, template: Template | None, most: int) -> tuple[list[Wrong], int]:
    """Choose wrong answers, in turn from every kind of row, in the order of the data.

    Args:
        evaluation: whose predictions are looked at.
        template: what the prompts were written in, to show the question alone.
        most: how many.

    Returns:
        The answers chosen, and how many are wrong in all.
    """
    by_kind: dict[str, list[Wrong]] = {}
    for row in evaluation.predictions:
        if _is_right(row, evaluation) is not False:
            continue
        kind = row.get("kind", "")
        right = "\nor ".join(map(str, row.get("labels") or [row.get("label")]))
        said = str(row.get("predict", ""))
        if row.get("finish_reason") == "length":
            said += " […cut at the limit]"
        named = f"row {row.get('idx')}" + (f", {kind}" if kind else "")
        one = Wrong(named, question_of(str(row.get("prompt", "")), template), right, said)
        # choices are taken in turn by what would have been right
        by_kind.setdefault(str(kind or ("" if "scores" in row else right)), []).append(one)
    in_turn = [one for one in chain.from_iterable(zip_longest(*by_kind.values())) if one is not None]
    return in_turn[:most], len(in_turn)


def _is_right(row: Mapping[str, Any], evaluation: Evaluation) -> bool | None:
    """Say whether a row is right by its own task's rule; None where nobody knows."""
    correct = row.get("correct")
    if isinstance(correct, Mapping):
        rule = next((config.get("rule") for config in evaluation.value.get("configs", {}).values()), None)
        return correct.get(rule)
    if isinstance(scores := row.get("scores"), Mapping):
        graded = [scores[task] for task in evaluation.tasks if task in scores]
        return all(one.get("em") for one in graded) if graded else None
    return correct if isinstance(correct, bool) else None


def question_of(prompt: str, template: Template | None) -> str:
    """Return the user's words of a one-round prompt; the whole prompt where the template cannot be taken off."""
    from converters.text.conversation import Turn
    from converters.text.template import BOS

    if template is None or "{passage}" in template.first:
        return prompt
    mark = "\ue000"
    segments = template.prompt([Turn("user", mark)])
    before, after = "".join(one.text for one in segments if not (one.special and one.text == BOS)).split(mark)
    start = prompt.find(before)
    if start < 0 or not prompt.endswith(after):
        return prompt
    question = prompt[start + len(before) : len(prompt) - len(after)]
    return question if before else _LEADING_TOKENS.sub("", question)
