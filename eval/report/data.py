"""What a report shows, read from files: evaluations of a run and of its base, and their graded rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file
from eval.loss.task import NAME as LOSS
from eval.results import read_results_json

if TYPE_CHECKING:
    from backends.run.directory import Run
    from converters.text.base import Template

# display names of measures
_NAMES = {
    "acc": "accuracy",
    "macro_f1": "macro-F1",
    "mcc": "Matthews correlation",
    "f1": "F1",
    "em": "EM",
    "nats": "nats a token",
}
# measures that are not shares, and how their figures are written
_NOT_SHARES = {"mcc": "{:.4f}", "score_002": "{:.2f}", "nats": "{:.4f}"}


# special tokens at the start of a decoded prompt, such as <s> or <|begin_of_text|>
_LEADING_TOKENS = re.compile(r"^(?:<\|?[a-z_]+\|?>)+")


def measure_name(measure: str) -> str:
    """Return the display name of a measure."""
    return _NAMES.get(measure, measure)


@dataclass(frozen=True)
class GradedRow:
    """One answer with its verdict.

    Attributes:
        idx: number of the row in the data.
        kind: kind of the problem, or ``label X`` for a task with few possible answers; may be empty.
        question: the user's words; the whole prompt if its template cannot be removed.
        label: the right answer; several are joined by ``or``.
        answer: what the model wrote.
        correct: the verdict under the rule that the task is judged by; None where the row has no grade.
        grades: what the verdict leaves open: rules that disagree, an F1 between 0 and 100.
        cut: whether the answer was cut at the limit of new tokens.
    """

    idx: int | str
    kind: str
    question: str
    label: str
    answer: str
    correct: bool | None
    grades: str
    cut: bool

    @property
    def name(self) -> str:
        """The display name of the row: its number and kind."""
        return f"row {self.idx}" + (f", {self.kind}" if self.kind else "")


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
    def should_be_kept(self) -> bool:
        """Whether it measures what a run should keep, reading or the loss of text, and not what it should learn."""
        return all(task.startswith("squad") or task == LOSS for task in self.tasks)

    @property
    def title(self) -> str:
        """Its display name: the tasks and the data set."""
        names = ", ".join(map(self.name, self.tasks))
        data = Path(str(self.value.get("config", {}).get("data") or "")).name
        return names if data.split(".")[0] in names else f"{names}: {data}"

    @property
    def hashes(self) -> Mapping[str, Any]:
        """Hashes and settings of model, data and prompts, by name."""
        return self.value["hashes"]

    def measures(self, task: str) -> list[str]:
        """Return the measures of a task that have a figure; the one that the task is judged by comes first."""
        names = [
            name
            for name in self.value["higher_is_better"].get(task, {})
            if isinstance(self._entry(task).get(f"{name},none"), int | float)
        ]
        # sorted() is stable: only the judging rule moves, the others stay as the file has them
        rule = self._config(task).get("rule")
        return sorted(names, key=lambda name: name != rule)

    def parts(self, task: str) -> list[str]:
        """Return the parts of a task that is a group, in the order of the file; empty for any other task."""
        found = self.value.get("group_subtasks", {}).get(task, [])
        return [part for part in found if part in self.value["results"]]

    def name(self, part: str) -> str:
        """Return the display name of a task or of a part of it."""
        return str(self._entry(part).get("alias", part)).strip().removeprefix("- ")

    def share(self, part: str, measure: str) -> float | None:
        """Return a figure as a share from 0 to 1.

        Args:
            part: a task or a part of one.
            measure: name of the measure.

        Returns:
            The share; None if there is no such figure or the measure is not a share (Matthews correlation).
        """
        value = self._entry(part).get(f"{measure},none")
        if not isinstance(value, int | float) or measure in _NOT_SHARES:
            return None
        return value / 100 if self._percent(part) else value

    def figure(self, part: str, measure: str) -> str:
        """Return a figure as text, shares in percent; a dash if there is none."""
        value = self._entry(part).get(f"{measure},none")
        if not isinstance(value, int | float):
            return "–"
        share = self.share(part, measure)
        return _NOT_SHARES[measure].format(value) if share is None else f"{100 * share:.1f} %"

    def interval(self, part: str, measure: str) -> str:
        """Return the 95 % interval of a figure as text, shares in percent; empty if the file has none."""
        # shares have Wilson's interval, means of scores a normal one
        for name in (f"{measure}_wilson95,none", f"{measure}_95,none"):
            if isinstance(found := self._entry(part).get(name), list):
                if form := _NOT_SHARES.get(measure):
                    return " to ".join(map(form.format, found))
                low, high = (value if self._percent(part) else 100 * value for value in found)
                return f"{low:.1f} to {high:.1f}"
        return ""

    def samples(self, task: str) -> int:
        """Return how many rows were graded."""
        return int(self.value["n-samples"].get(task, {}).get("effective", 0))

    @property
    def confusion(self) -> list[list[str]]:
        """Counts by label and answer as lines of a table, the header first; empty if the results have none."""
        counts: Mapping[str, Mapping[str, int]] = self.value.get("counts", {}).get("confusion") or {}
        header = [["label", *(f"→ {answer}" for answer in answers)] for answers in counts.values()][:1]
        return header + [[label, *map(str, answers.values())] for label, answers in counts.items()]

    @property
    def provenance(self) -> dict[str, Any]:
        """The file, and everything known about how it was made."""
        made = {"file": str(self.path), "code": self.value.get("git_hash"), **self.hashes}
        return {**made, **self.value.get("environment", {})}

    def _entry(self, part: str) -> Mapping[str, Any]:
        return self.value["results"].get(part, {})

    def _config(self, part: str) -> Mapping[str, Any]:
        return self.value.get("configs", {}).get(part, {})

    def _percent(self, part: str) -> bool:
        return self._config(part).get("unit") == "percent"

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """The rows behind the figures, graded anew; none, with a message, if the file was changed since."""
        file = self.path.parent / "predictions.jsonl"
        if not file.is_file():
            return []
        # changed rows beside unchanged figures would make the page contradict itself
        if sha256_file(file) != self.hashes.get("predictions"):
            say(f"{file}: not the predictions that {self.path.name} was made from; its rows are left out")
            return []
        return read_graded(file, self._config(self.tasks[0]))

    def rows(self, template: Template | None) -> list[GradedRow]:
        """Return its graded rows in the order of the data.

        Args:
            template: the template of the prompts, to show the question without it; None shows whole prompts.
        """
        return [self._row(number, row, template) for number, row in enumerate(self.predictions)]

    def _row(self, number: int, row: Mapping[str, Any], template: Template | None) -> GradedRow:
        labels = [str(one) for one in row.get("labels") or [row.get("label")] if one is not None]
        kind = str(row.get("kind") or "")
        if not kind and labels and "doc_to_choice" in self._config(self.tasks[0]):
            # rows with few answers have no kind: their label takes its place in filters and in the choice of wrong ones
            kind = f"label {labels[0]}"
        correct, grades = self._verdict(row)
        return GradedRow(
            idx=row.get("idx", number),
            kind=kind,
            question=question_of(str(row.get("prompt", "")), template),
            label="\nor ".join(labels),
            answer=str(row.get("predict", row.get("pred", ""))),
            correct=correct,
            grades=", ".join(grades),
            cut=row.get("finish_reason") == "length",
        )

    def _verdict(self, row: Mapping[str, Any]) -> tuple[bool | None, list[str]]:
        """Return the verdict on a row by its own task's rule, and its grades in words."""
        correct, scores = row.get("correct"), row.get("scores")
        if isinstance(correct, Mapping):
            # a group has its rule under the whole, not under its parts
            rule = next((config.get("rule") for config in self.value.get("configs", {}).values()), None)
            differ = len(set(correct.values())) > 1
            return correct.get(rule), [name if right else f"not {name}" for name, right in correct.items() if differ]
        if isinstance(scores, Mapping):
            graded = [scores[task] for task in self.tasks if task in scores]
            words = [f"F1 {one['f1']:.0f}" for one in graded if 0 < one.get("f1", 0) < 100]
            return (all(one.get("em") for one in graded) if graded else None), words
        return (correct if isinstance(correct, bool) else None), []


def read_graded(file: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read ``predictions.jsonl`` and grade it as its results were graded.

    Args:
        file: the predictions.
        config: the task's entry under ``configs`` of ``results.json``.
    """
    from eval.choice.rules import Choices
    from eval.choice.task import ChoiceTask
    from eval.math.task import MathTask
    from eval.predictions import read_predictions

    # a config of results.json says by its own keys which task wrote it
    if choices := config.get("doc_to_choice"):
        return ChoiceTask(Choices(tuple(choices))).read_predictions(file, data=None, limit=None, meta={})
    if rule := config.get("rule"):
        return MathTask(rule).read_predictions(file, data=None, limit=None, meta={})
    return read_predictions(file, labelled=False)


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
            # two places may hold one file, under two names or through a link
            found.setdefault(file.resolve(), Evaluation(file, read_results_json(file)))
    return list(found.values())


def find_readable(place: Path) -> list[Evaluation]:
    """Read every ``results.json`` under a place that may have none; unreadable ones are left out, with a message."""
    found = []
    for file in sorted(place.rglob("results.json")):
        try:
            found.append(Evaluation(file, read_results_json(file)))
        except UserError as error:
            say(f"left out: {error}")
    return found


def own_evaluations(run: Run) -> list[Evaluation]:
    """Find the evaluations of the run's final weights in the run; others are left out, with a message."""
    from backends.checkpoint.fingerprint import fingerprint, weight_files
    from backends.weights.files import ADAPTER_WEIGHTS

    found = find_readable(run.path / "eval")
    files = [run.path / ADAPTER_WEIGHTS] if run.is_adapter else weight_files(run.path)
    if not found or not all(file.is_file() for file in files):
        return []
    # by content: a checkpoint of the same run has another fingerprint, wherever its results lie
    final = fingerprint(files)
    own = [one for one in found if one.hashes.get("checkpoint") == final]
    if len(own) < len(found):
        say(f"{len(found) - len(own)} of {len(found)} results under {run.path}/eval are of other weights; left out")
    return own


def base_evaluations(run: Run, after: Sequence[Evaluation]) -> list[Evaluation]:
    """Find the evaluations of the run's base where they are by default, and in a sweep of the run.

    Args:
        run: the run; its base may be a run itself.
        after: evaluations of the run, whose hashes tell which base is meant.
    """
    bases = {one.hashes.get("base") for one in after} - {None}
    if run.base is None or not bases:
        return []
    base = Path(run.base)
    # the three places where evaluate() and sweep() put results of a base by default
    places = [Path("runs") / "eval" / base.resolve().name, base / "eval", run.path / "eval" / "sweep" / "step-000000"]
    found = [one for place in places for one in find_readable(place)]
    return [one for one in found if one.hashes.get("checkpoint") in bases]


def question_of(prompt: str, template: Template | None) -> str:
    """Return the user's words of a one-round prompt.

    Args:
        prompt: the decoded prompt, special tokens included.
        template: the template it was written with, if known.

    Returns:
        The question; the whole prompt if the template is not known or does not fit.
    """
    from converters.text.base import BOS
    from converters.text.conversation import Turn

    # a template that splits the question in two has no one place where it stands
    if template is None or template.needs_passage:
        return prompt
    # a private-use character, which no template has: what surrounds it is the template's text
    mark = "\ue000"
    segments = template.prompt([Turn("user", mark)])
    before, after = "".join(one.text for one in segments if not (one.special and one.text == BOS)).split(mark)
    start = prompt.find(before)
    if start < 0 or not prompt.endswith(after):
        return prompt
    question = prompt[start + len(before) : len(prompt) - len(after)]
    return question if before else _LEADING_TOKENS.sub("", question)
