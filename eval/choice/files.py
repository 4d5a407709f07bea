"""What a choice task reads and writes: questions, predictions with their grade, labels one a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import write_text
from converters.common.reader import read_text
from eval.choice.rules import UNPARSED, Choices, choices_of, label_of
from eval.predictions import read_values

if TYPE_CHECKING:
    from converters.text.conversation import Turn

# the names that other tools give to the answer and to the label
_PREDICT = ("predict", "model_output", "pred")
_LABEL = ("label", "expected_output", "output")


@dataclass(frozen=True)
class Question:
    """One row of the data: what is asked, and the choice that is right, if anybody knows."""

    id: str
    turns: tuple[Turn, ...]
    label: str | None


@dataclass(frozen=True)
class Task:
    """A data set of questions with the same choices."""

    path: str
    choices: Choices
    questions: list[Question]

    @property
    def name(self) -> str:
        """How results call it."""
        return task_name(self.path)


def task_name(data: str) -> str:
    """Return how results call a data set: ``rte_dev.jsonl`` → ``choice_rte_dev``."""
    return f"choice_{Path(data).name.split('.')[0]}"


def read_task(path: str, names: str | None, limit: int | None) -> Task:
    """Read conversations as questions with a label; the last answer is the label, where there is one.

    Args:
        path: conversations, ShareGPT or Alpaca; Alpaca rows may lack ``output``, or have an empty one.
        names: the choices, with commas; None takes the labels that the whole file has, and says so.
        limit: how many rows are asked, from the first.

    Raises:
        UsageError: the file is missing or empty, or its labels are no set of choices.
        UserError: a row has another shape, or a label is not one of the choices.
    """
    from converters.text.conversation import read_conversations

    rows: list[tuple[str, tuple[Turn, ...], str]] = []
    for conversation in read_conversations(path, unanswered=True):
        turns = conversation.turns
        answered = turns[-1].role == "assistant"
        rows.append((conversation.id, turns[:-1] if answered else turns, turns[-1].text if answered else ""))
    if names is None:
        try:
            choices = choices_of([label for _, _, label in rows])
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        say(f"{path}: its labels are the choices: {', '.join(choices.names)}")
    else:
        choices = Choices.of(names)
    questions = []
    for number, (row_id, turns, label) in enumerate(rows[:limit], start=1):
        try:
            questions.append(Question(row_id, turns, label_of(label, choices)))
        except UsageError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    if not questions:
        raise UsageError(f"{path}: no row is left with --limit {limit}")
    return Task(path, choices, questions)


def graded(row: dict[str, Any], choices: Choices) -> dict[str, Any]:
    """Return the row with ``parsed`` and ``correct`` from its ``predict`` and ``label``; without label, None."""
    parsed = choices.find(row["predict"])
    return {**row, "parsed": parsed, "correct": None if row["label"] is None else parsed == row["label"]}


def read_predictions(path: Path, names: Choices | None) -> tuple[Choices, list[dict[str, Any]]]:
    """Read predictions and grade them anew: rows of JSON, or a ``.txt`` of one answer a line.

    Nothing is believed but the answer (``predict``, or ``model_output`` or ``pred`` of other tools) and the label
    (``label``, ``expected_output`` or ``output``).

    Args:
        path: the file.
        names: the choices; None takes the labels of the file.

    Raises:
        UsageError: the file is missing or empty, or nobody says what the choices are.
        UserError: a row has no answer, an ``idx`` comes twice, or a label is not one of the choices.
    """
    if path.suffix == ".txt":
        lines = read_lines(path)
        rows: list[dict[str, Any]] = [{"idx": i, "predict": line, "label": None} for i, line in enumerate(lines)]
    else:
        rows = _json_rows(path)
    if names is None:
        try:
            names = choices_of([row["label"] or "" for row in rows])
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
    for number, row in enumerate(rows, start=1):
        try:
            row["label"] = label_of(row["label"], names)
        except UsageError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    return names, [graded(row, names) for row in rows]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for number, value in enumerate(read_values(path)):
        row = value if isinstance(value, dict) else {}
        predict = next((row[key] for key in _PREDICT if isinstance(row.get(key), str)), None)
        if predict is None:
            found = ", ".join(row) if row else type(value).__name__
            raise UserError(
                f"{path}: row {number + 1}: a text under {' or '.join(_PREDICT)} is expected; found {found}"
            )
        label = next((row[key] for key in _LABEL if row.get(key) is not None), None)
        idx = row.get("idx", number)
        if idx in seen:
            raise UserError(f"{path}: row {number + 1}: idx {idx} is there twice")
        seen.add(idx)
        rows.append({**row, "idx": idx, "predict": predict, "label": None if label is None else str(label)})
    return rows


def read_lines(path: str | Path) -> list[str]:
    """Read one answer a line. Empty lines at the end are no answers; in between they are, so that no row moves.

    Raises:
        UsageError: the file is missing or empty.
        UserError: it is not UTF-8.
    """
    text = read_text(path).rstrip()
    if not text:
        raise UsageError(f"{path}: empty; one label a line is expected")
    return text.split("\n")


def add_answers(rows: Sequence[dict[str, Any]], path: str, choices: Choices) -> list[dict[str, Any]]:
    """Give rows the labels of an answer file, one a line, and grade them.

    Raises:
        UserError: the file has more or fewer lines than there are rows, or a line is not a choice.
    """
    lines = read_lines(path)
    if len(lines) != len(rows):
        raise UserError(
            f"{path}: {len(lines)} answers for {len(rows)} predictions; line by line they must be the same rows"
        )
    labelled = []
    for number, (row, line) in enumerate(zip(rows, lines, strict=True), start=1):
        try:
            label = label_of(line, choices)
        except UsageError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        if label is None:
            raise UserError(f"{path}:{number}: empty; one of {', '.join(choices.names)} is expected")
        labelled.append(graded({**row, "label": label}, choices))
    return labelled


def write_labels(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one answer a line, ``unparsed`` where none was found, so that every row keeps its line."""
    write_text(path, "".join(f"{row['parsed'] or UNPARSED}\n" for row in rows))
