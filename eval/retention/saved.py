"""Results of an evaluation as they lie on the disk, and whether two of them were measured alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.errors import UserError
from converters.common.files import sha256_file
from converters.common.reader import read_rows
from eval.results import read_results_json

# keys of ``hashes`` that must be equal for a ratio to mean anything, and their names in the error message
SAME = {
    "data": "data",
    "rows": "limits: rows",
    "questions": "questions asked",
    "template": "template",
    "prompt": "prompt",
    "max_new_tokens": "limits: max_new_tokens",
    "min_new_tokens": "limits: min_new_tokens",
    "max_tokens": "limits: max_tokens",
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


def figure_of(one: SavedResults, task: str, measure: str) -> tuple[float, float | None]:
    """Return a measure and its standard error, None for a single row.

    Raises:
        UserError: the results have no such figure.
    """
    entry = one.value["results"].get(task, {})
    value = entry.get(f"{measure},none")
    if not isinstance(value, int | float):
        raise UserError(f"{one.path}: results.{task} has no figure under '{measure},none'")
    return value, entry.get(f"{measure}_stderr,none")
