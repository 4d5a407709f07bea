"""Predictions: one JSON line a row with what was asked, said and expected, so that every figure can be recomputed.

Fields: ``idx, kind, prompt, predict, label, parsed, correct{rule}, finish_reason, n_tokens``: a superset of the
``prompt, predict, label`` that other tools write. Files of those are read too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.generation.predictions_log import meta_path
from converters.arithmetic.problems import parse as parse_problem
from converters.common.errors import UserError
from converters.common.reader import read_json, read_rows
from eval.math.rules import grade, parse

OTHER = "other"


def kind_of(problem: str, solution: str) -> str:
    """Name the kind of a problem; ``other`` if it is none of the known ones."""
    known = parse_problem(problem, solution)
    return known.kind if known else OTHER


def graded(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with ``parsed`` and ``correct`` computed from its ``predict`` and ``label``.

    Raises:
        UserError: the label has no answer to compare with.
    """
    label = parse(row["label"])
    if label is None:
        raise UserError(f"row {row['idx']}: there is no answer in the label {row['label'][:60]!r}")
    answer = parse(row["predict"])
    return {**row, "parsed": answer.text if answer else None, "correct": grade(answer, label)}


def prediction_row(
    idx: int, kind: str, prompt: str, predict: str, label: str, finish_reason: str, n_tokens: int
) -> dict[str, Any]:
    """Make the graded row of one answer.

    Args:
        idx: number of the row in the data, from 0.
        kind: kind of the problem.
        prompt: the text the model was given, template and special tokens included.
        predict: the text it answered.
        label: the solution as the data has it.
        finish_reason: ``stop`` or ``length``.
        n_tokens: tokens of the answer, without the one that ended it.
    """
    row = {"idx": idx, "kind": kind, "prompt": prompt, "predict": predict, "label": label}
    row = graded(row)
    return {**row, "finish_reason": finish_reason, "n_tokens": n_tokens}


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Read predictions and grade them anew; nothing but ``predict`` and ``label`` is believed.

    JSONL or one JSON array. A torn last line, as a kill leaves it, is left out and said. Rows without ``idx`` are
    numbered from 0; rows without ``kind`` get it from their ``prompt``, else ``other``.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row lacks ``predict`` or ``label``, or an ``idx`` comes twice.
    """
    rows = []
    seen: set[Any] = set()
    for number, value in enumerate(read_values(path)):
        for key in ("predict", "label"):
            if not isinstance(value, dict) or not isinstance(value.get(key), str):
                found = ", ".join(value) if isinstance(value, dict) else type(value).__name__
                raise UserError(f"{path}: row {number + 1}: {key!r} must be a text; found {found or 'nothing'}")
        row = {"idx": number, **value}
        if row["idx"] in seen:
            raise UserError(f"{path}: row {number + 1}: idx {row['idx']} is there twice")
        seen.add(row["idx"])
        row.setdefault("kind", kind_of(str(row.get("prompt", "")), row["label"]))
        rows.append(graded(row))
    return rows


def read_values(path: str | Path) -> list[Any]:
    """Read JSONL or one JSON array; a torn last line of JSONL, as a kill leaves it, is left out and said.

    Raises:
        UsageError: the file is missing or empty.
        UserError: another line is not JSON.
    """
    return [value for _, value in read_rows(path, torn=True)]


def read_meta(path: str | Path) -> dict[str, Any]:
    """Read what predictions were made with, from the file beside them; empty for another tool's predictions."""
    meta = meta_path(Path(path))
    return read_json(meta) if meta.is_file() else {}
