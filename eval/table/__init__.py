"""One table of accuracies: every checkpoint (row) on every data set with few possible answers (column), and means.

Each cell is an evaluation of :mod:`eval.choice` with its own predictions, table and results in ``OUT/ROW/DATA``. A
model is loaded once for all its cells, and not at all if every answer is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.checkpoint.resolve import open_checkpoint
from backends.generation import registry
from backends.generation.types import DEFAULT_RUNTIME, Runtime
from converters.common.console import format_table, say
from converters.common.errors import UsageError
from converters.common.files import write_json, write_text
from eval.choice.rules import Scores
from eval.choice.task import POINTS, ChoiceTask
from eval.results import markdown_table, percent, wilson
from eval.run import evaluate

OUT = "runs/eval/table"


@dataclass(frozen=True)
class Table:
    """Accuracies of several checkpoints on several data sets.

    Attributes:
        cells: counts by checkpoint and data set.
        folder: where ``table.md``, ``table.json`` and the cells are.
        points: what the QQP and CoLA contest gives for an accuracy of 1; None leaves its score out.
    """

    cells: dict[str, dict[str, Scores]]
    folder: Path
    points: int | None = None

    @property
    def text(self) -> str:
        """Table and notes as plain text."""
        return "\n".join([format_table(*table(self.cells)), "", *note_lines(self.cells, self.points)])


def tabulate(
    rows: Mapping[str, str | Path],
    data: Mapping[str, str | Path],
    *,
    choices: str | None = None,
    way: str = "generate",
    score_002: bool = False,
    base: str | None = None,
    template: str | None = None,
    allow_template_mismatch: bool = False,
    limit: int | None = None,
    out: str | Path = OUT,
    overwrite: bool = False,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Table:
    """Grade several checkpoints on several data sets.

    Args:
        rows: runs, adapters or models, by the name of their row.
        data: files of conversations with labels, by the name of their column.
        choices: the possible answers of all data sets, separated by commas; None takes each data set's labels.
        way: how a choice is found, ``generate`` or ``loglik``.
        score_002: add the score of the QQP and CoLA contest, 70 points times the accuracy, to the cells and the notes.
        base: the frozen model under the adapters, if it is not where they say.
        template: prompt template around each question; None takes the one each run was trained with.
        allow_template_mismatch: accept a template a run was not trained with.
        limit: the first rows of each data set only.
        out: folder of the table and the cells.
        overwrite: start over instead of continuing with the cells in ``out``.
        max_new_tokens: limit of a written answer.
        min_new_tokens: no written answer ends before so many.
        runtime: where and in which precision the models run.

    Returns:
        The counts of every cell and the folder of the files.

    Raises:
        UsageError: a file or a checkpoint is missing, or a data set has no labels.
        UserError: a template is not the trained one, or existing predictions were made with another model or setting.
    """
    tasks = {name: ChoiceTask(choices, way=way, score_002=score_002) for name in data}
    # everything is opened before the first is asked anything: a wrong name should not cost an hour
    for name, task in tasks.items():
        if all(row.label is None for row in task.read_data(Path(data[name]), limit)):
            raise UsageError(f"--data {name}: {data[name]} has no labels to grade by")
    checkpoints = {
        name: open_checkpoint(path, base=base, template=template, allow_mismatch=allow_template_mismatch)
        for name, path in rows.items()
    }
    found: dict[str, dict[str, Scores]] = {}
    for name, files in checkpoints.items():
        say(f"{name}: {files.path}")
        # cached: evaluate() calls it only if answers are missing, and the cells of a row share what it loaded
        load = functools.cache(functools.partial(registry.load_generator, files, runtime))
        found[name] = {}
        for column, task in tasks.items():
            results = evaluate(
                task,
                files,
                data[column],
                limit=limit,
                out=Path(out) / name / column,
                overwrite=overwrite,
                runtime=runtime,
                max_new_tokens=max_new_tokens,
                min_new_tokens=min_new_tokens,
                generator=load,
            )
            found[name][column] = task.scores(results.rows)
    whole = Table(found, Path(out), POINTS if score_002 else None)
    header, lines = table(found)
    write_text(Path(out) / "table.md", markdown(header, lines, note_lines(found, whole.points)))
    write_json(Path(out) / "table.json", to_json(found, rows, data))
    say(f"{out}/table.md, table.json; every cell in {out}/ROW/DATA")
    return whole


def mean(accuracies: Mapping[str, float]) -> float:
    """Return the mean over data sets, each with the same weight whatever its size."""
    return sum(accuracies.values()) / len(accuracies)


def table(found: Mapping[str, Mapping[str, Scores]]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table.

    Args:
        found: counts by checkpoint and data set; all checkpoints have the same data sets.

    Returns:
        Names of the columns, and a line per checkpoint: accuracies in percent ± half the width of their 95 % interval,
        the mean last.
    """
    data = list(next(iter(found.values())))
    lines = [
        [name, *(_cell(cells[one]) for one in data), f"{100 * mean({one: cells[one].accuracy for one in data}):.2f}"]
        for name, cells in found.items()
    ]
    return ["accuracy %", *data, "mean"], lines


def _cell(scores: Scores) -> str:
    low, high = wilson(scores.right, scores.n)
    # Wilson's interval is not symmetric; half its width still says how far two cells may be by chance
    return f"{percent(scores.accuracy)} ±{percent((high - low) / 2)}"


def note_lines(found: Mapping[str, Mapping[str, Scores]], points: int | None = None) -> list[str]:
    """Return a note per data set: its rows, the accuracy of always giving the commonest label, and unparsed answers.

    Args:
        found: counts by checkpoint and data set.
        points: what an accuracy of 1 is worth in the QQP and CoLA contest; None adds no note on its score.
    """
    notes = []
    # rows and labels are those of the data, so any one checkpoint's counts give them
    for data, scores in next(iter(found.values())).items():
        label, share = scores.commonest
        lost = {name: cells[data].unparsed for name, cells in found.items() if cells[data].unparsed}
        unparsed = (
            "; unparsed, counted as wrong: " + ", ".join(f"{name} {n}" for name, n in lost.items()) if lost else ""
        )
        notes.append(f"{data}: {scores.n} rows, always {label!r} would be {percent(share)} %{unparsed}")
    if points is not None:
        for name, cells in found.items():
            worth = ", ".join(f"{data} {points * scores.accuracy:.2f}" for data, scores in cells.items())
            notes.append(f"score 002 of {name}: {worth} of {points} points each")
    return notes


def markdown(header: list[str], lines: list[list[str]], notes: list[str]) -> str:
    """Return table and notes as Markdown."""
    return "\n".join([markdown_table(header, lines), *(f"- {note}" for note in notes)]) + "\n"


def to_json(
    found: Mapping[str, Mapping[str, Scores]], rows: Mapping[str, str | Path], data: Mapping[str, str | Path]
) -> dict[str, Any]:
    """Return the content of ``table.json``: accuracies, means, numbers of rows, and the paths of models and data.

    Args:
        found: counts by checkpoint and data set.
        rows: paths of the checkpoints by the name of their row.
        data: paths of the data sets by the name of their column.
    """
    accuracy = {name: {one: scores.accuracy for one, scores in cells.items()} for name, cells in found.items()}
    return {
        "rows": {name: str(path) for name, path in rows.items()},
        "data": {name: str(path) for name, path in data.items()},
        "accuracy": accuracy,
        "mean": {name: mean(cells) for name, cells in accuracy.items()},
        "n": {name: {one: scores.n for one, scores in cells.items()} for name, cells in found.items()},
    }
