"""Defines a task: the rows it asks, what counts as right, and the figures computed from the graded rows.

:func:`eval.run.evaluate` does the rest for every task: prompts, the resumable log of answers, files. A new task is one
file with a subclass of :class:`Task` that has a ``name``, :meth:`Task.read_data` and :meth:`Task.grade`.
"""

from __future__ import annotations

import importlib
import inspect
import runpy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.errors import UsageError, UserError, did_you_mean
from eval.predictions import read_predictions
from eval.results import Figures, mean_and_interval

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from converters.text.base import Template
    from converters.text.conversation import Turn
    from mindrecord.tokens.encode import TokenRows

TASKS = {
    "math": "eval.math.task:MathTask",
    "squad": "eval.squad.task:SquadTask",
    "choice": "eval.choice.task:ChoiceTask",
    "webqa": "eval.webqa.task:WebqaTask",
    "loss": "eval.loss.task:LossTask",
}
"""The tasks that come with the project, by name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a task's data.

    Attributes:
        idx: its number in the data, from 0.
        turns: the conversation to ask, the question last.
        label: the right answer; None if the row has none.
        fields: further fields of the row of predictions, for instance ``id`` or ``kind``.
        labels: all right answers, where a question has several.
    """

    idx: int
    turns: tuple[Turn, ...]
    label: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def answered(self, prompt: str, predict: str) -> dict[str, Any]:
        """Return the row of ``predictions.jsonl`` for an answer, before it is graded.

        Args:
            prompt: the text that the model read, special tokens included.
            predict: the answer.
        """
        row = {"idx": self.idx, **self.fields, "prompt": prompt, "predict": predict, "label": self.label}
        # label stays beside labels: read_predictions() and whatever takes one gold answer look for it
        return {**row, "labels": list(self.labels)} if self.labels else row


class Task(ABC):
    """Base class of all tasks. One object serves one data set, since a task may keep what it read.

    Attributes:
        name: the task's name in files and commands.
        default_data: data set used when none is named; None if one must be named.
        max_new_tokens: limit of an answer; None takes the longest row that the run was trained on.
        own_template: a template that belongs to the task: allowed even if the run was trained with another.
        asked_in: the template that its rows are asked in when none is named; None takes the model's.
        plain_text: its rows are texts whose loss is measured, in no template; see :meth:`token_rows`.
        packages: packages whose versions the figures depend on.
        asks_the_data: the questions follow from the data and :meth:`settings` alone, so that their hashes identify
            answers; otherwise the task's name and a hash of the prompts do, too.
        not_in_config: keys of the predictions' meta file that ``config`` of ``results.json`` leaves out.
    """

    name: str = ""
    default_data: Path | None = None
    max_new_tokens: int | None = None
    own_template: str | None = None
    asked_in: str | None = None
    plain_text: bool = False
    packages: tuple[str, ...] = ()
    asks_the_data: bool = False
    not_in_config: tuple[str, ...] = ("identity", "complete", "rows")

    @abstractmethod
    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read the rows to ask.

        Args:
            path: the data set.
            limit: the first so many rows only; None takes all.

        Raises:
            UsageError: the file is missing or empty.
            UserError: a row has another shape.
        """

    def turns(self, row: Row, template: Template) -> Sequence[Turn]:
        """Return the turns to ask for a row; a task overrides this if they depend on the template."""
        return row.turns

    def candidates(self, rows: Sequence[Row], files: CheckpointFiles) -> dict[str, list[int]] | None:
        """Return the tokens of each possible answer if the likeliest one is to be taken.

        Args:
            rows: the rows to ask, at least one.
            files: the checkpoint's template and tokenizer.

        Returns:
            Token ids by answer; None, the default, lets the model write.
        """
        return None

    def token_rows(self, rows: Sequence[Row], files: CheckpointFiles) -> TokenRows:
        """Return the rows' tokens in their order; only for a task of ``plain_text``.

        Args:
            rows: the rows to measure, at least one.
            files: the checkpoint's tokenizer.
        """
        raise TypeError(f"{type(self).__name__} is plain_text and has no token_rows()")

    def measured_row(self, nats: float, tokens: int) -> dict[str, Any]:
        """Return the fields that a measured loss adds to a row of predictions; only for a task of ``plain_text``.

        Args:
            nats: Σ −log p of its supervised tokens.
            tokens: how many these are.
        """
        raise TypeError(f"{type(self).__name__} is plain_text and has no measured_row()")

    def grade(self, predict: str, label: str) -> Mapping[str, float]:
        """Return every measure of one answer by name, each from 0 to 1.

        Args:
            predict: what the model answered.
            label: the right answer.
        """
        # not abstract: a task that overrides grade_row() needs no grade()
        raise TypeError(f"{type(self).__name__} has neither grade() nor a grade_row() of its own")

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that grading adds to a row of predictions: by default ``scores`` by measure."""
        measures = {name: float(value) for name, value in self.grade(row["predict"], row["label"]).items()}
        for name, value in measures.items():
            # means, intervals and retention are of shares; not a number would spoil them without a word
            if not 0 <= value <= 1:
                raise UserError(f"task {self.name}: row {row['idx']}: {name} is {value}; from 0 to 1 is expected")
        return {"scores": {self.name: measures}}

    def read_predictions(
        self, path: Path, *, data: Path | None, limit: int | None, meta: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Read answers and grade them anew; grades that the file already holds are ignored.

        Args:
            path: predictions of this project or of another tool.
            data: the data they answer, for predictions without labels.
            limit: the first rows only.
            meta: what the predictions were made with, from the meta file beside them.

        Returns:
            The rows with the fields of :meth:`grade_row`.

        Raises:
            UsageError: the file is missing or empty.
            UserError: a row lacks the answer or the label.
        """
        if data is not None:
            raise UsageError("--data goes with --ckpt; predictions have their labels beside them")
        return [{**row, **self.grade_row(row)} for row in read_predictions(path)[:limit]]

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures | None:
        """Return the figures of graded rows: by default the mean of every measure with its 95 % interval.

        Args:
            rows: graded rows, at least one.
            meta: what the predictions were made with.
            source: name of the data set, or of the predictions file if the data set is not known.

        Returns:
            The figures; None where no row has a label.
        """
        measures = list(rows[0]["scores"][self.name])
        entry: dict[str, Any] = {"alias": self.name}
        table, lines = [], []
        for measure in measures:
            # ",none" is lm-eval's name for "no filter was applied", so that its readers find the figures
            mean, error, (low, high) = mean_and_interval([row["scores"][self.name][measure] for row in rows])
            entry |= {f"{measure},none": mean, f"{measure}_stderr,none": error, f"{measure}_95,none": [low, high]}
            table.append([measure, len(rows), f"{100 * mean:.1f}"])
            lines.append(f"{measure}: {100 * mean:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})")
        return Figures(
            header=["measure", "n", "%"],
            table=table,
            lines=lines,
            results={self.name: entry},
            configs={self.name: {}},
            higher_is_better={self.name: dict.fromkeys(measures, True)},
            samples={self.name: (len(rows), len(rows))},
            title=f"{self.name}: {Path(source).name}",
        )

    def settings(self) -> dict[str, Any]:
        """Return the options that answers depend on; answers made with others are not continued."""
        return {}

    def about(self, files: CheckpointFiles) -> dict[str, Any]:
        """Return what else the meta file beside the answers should say about a checkpoint."""
        return {}

    def graded_identity(
        self, rows: Sequence[Mapping[str, Any]], identity: Mapping[str, Any], data: Path | None
    ) -> dict[str, Any]:
        """Return what ``results.json`` holds under ``hashes``: by default what the predictions were made with.

        Args:
            rows: the graded rows.
            identity: what the predictions were made with.
            data: the data that were named for grading, if any.
        """
        return dict(identity)

    def folder_name(self, data: Path, template: str | None) -> str:
        """Return the name of the results folder that is used when none is named.

        Args:
            data: the data set.
            template: the template that was chosen for this evaluation; None for the run's own.
        """
        return f"{self.name}-{data.name.split('.')[0]}"

    def export(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:  # noqa: B027 - writing nothing is a right answer
        """Write what other tools read, beside the predictions: by default nothing."""


def get_task(task: str | Task, **options: Any) -> Task:
    """Return a task by name.

    Args:
        task: a name of ``TASKS``, a file with one subclass of :class:`Task` (``my_task.py``), or a task itself.
        options: keyword arguments of the task's class; only with a name.

    Raises:
        UsageError: there is no such task, or it has no such option.
        UserError: the file is not Python.
    """
    if isinstance(task, Task):
        if options:
            raise UsageError(f"{task.name}: options go to the task itself where it is made: {', '.join(options)}")
        return task
    if task in TASKS:
        module, _, name = TASKS[task].partition(":")
        found: type[Task] = getattr(importlib.import_module(module), name)
    else:
        found = _class_in(Path(task))
    # checked here, since a TypeError of the constructor would be a traceback instead of one line
    known = inspect.signature(found).parameters
    for option in options:
        if option not in known:
            raise UsageError(f"the task {found.name} has no option {option!r}{did_you_mean(option, known)}")
    return found(**options)


def _class_in(path: Path) -> type[Task]:
    """Run the file of a task and return the one class of a task that it defines."""
    if path.suffix != ".py":
        raise UsageError(
            f"no task {str(path)!r}{did_you_mean(str(path), TASKS)}; {', '.join(TASKS)} or FILE.py is expected"
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such file of a task")
    try:
        # run_name sets __module__ of what the file defines, which tells its classes from those that it imports
        names = runpy.run_path(str(path), run_name=path.stem)
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from error
    found = [
        value
        for value in names.values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == path.stem
    ]
    if len(found) != 1:
        raise UsageError(f"{path}: {len(found)} classes of tasks; one is expected")
    return found[0]
