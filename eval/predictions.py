"""Reads predictions: one row per answer with prompt, answer and label, so that every figure can be recomputed.

Fields of ours: ``idx, prompt, predict, label, finish_reason, n_tokens`` and what the task adds. Other tools' files are
read too: JSON lines, one JSON array, or a ``.txt`` of one answer per line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.generation.predictions_log import meta_path
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json, read_lines, read_rows

# the names that this project and other tools give to the answer and to the label
PREDICT = ("predict", "model_output", "pred")
LABEL = ("label", "expected_output", "output")


def read_predictions(path: str | Path, *, labelled: bool = True) -> list[dict[str, Any]]:
    """Read predictions, in the order of the file.

    A last line that a kill cut short is left out, with a message; a file that is not complete yet gets a message, too.

    Args:
        path: JSON lines, one JSON array, or a ``.txt`` file of one answer per line.
        labelled: every row must have a label.

    Returns:
        The rows with ``idx`` (default: the place in the file, from 0), ``predict`` and ``label`` (None without one).

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row has no answer or lacks its label, an ``idx`` comes twice, or rows went missing.
    """
    if Path(path).suffix == ".txt":
        values: list[tuple[int, Any]] = [(i, {"predict": line}) for i, line in enumerate(read_answer_lines(path), 1)]
    else:
        values = list(read_rows(path, torn=True))
    rows: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for place, (number, value) in enumerate(values):
        row = value if isinstance(value, dict) else {}
        # an empty text is an answer, so the type is tested and not the truth
        predict = next((row[key] for key in PREDICT if isinstance(row.get(key), str)), None)
        label = next((_label(row[key]) for key in LABEL if _label(row.get(key)) is not None), None)
        # an empty label is no label: nothing could be right by it
        missing = PREDICT if predict is None else LABEL if labelled and not (label or "").strip() else None
        if missing:
            found = ", ".join(row) or type(value).__name__
            raise UserError(f"{path}: row {number}: a text under {' or '.join(missing)} is expected; found {found}")
        # the place from 0 is how this project numbers rows; messages count lines from 1
        idx = row.get("idx", place)
        if not isinstance(idx, int | str):
            raise UserError(f"{path}: row {number}: a number under idx is expected; found {type(idx).__name__}")
        if idx in seen:
            raise UserError(f"{path}: row {number}: idx {idx} is there twice")
        seen.add(idx)
        rows.append({**row, "idx": idx, "predict": predict, "label": label})
    _check_whole(path, rows, read_meta(path))
    return rows


def _label(value: Any) -> str | None:
    """Return a label as text; other tools write classes as numbers. None if it is neither."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else None


def _check_whole(path: str | Path, rows: Sequence[Any], meta: Mapping[str, Any]) -> None:
    # another tool's file has no meta file, so nothing contradicts its number of rows
    if not meta.get("complete", True):
        say(f"{path}: unfinished; the command that made it goes on with it")
    elif meta.get("rows", len(rows)) != len(rows):
        raise UserError(f"{path}: {len(rows)} rows, where {meta['rows']} were answered: it was edited")


def read_answer_lines(path: str | Path) -> list[str]:
    r"""Read one answer per line; only ``\n`` ends a line, and an empty line is an empty answer.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a line is not UTF-8.
    """
    # no line is dropped: the line number is what joins answers and labels
    lines = [text for _, text in read_lines(path)]
    if not any(line.strip() for line in lines):
        raise UsageError(f"{path}: empty; one label a line is expected")
    return lines


def read_meta(path: str | Path) -> dict[str, Any]:
    """Read the meta file beside predictions, which says how they were made; empty for another tool's predictions."""
    meta = meta_path(Path(path))
    return read_json(meta) if meta.is_file() else {}
