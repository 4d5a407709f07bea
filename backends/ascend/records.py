"""The rows of a run as a MindRecord file: written from conversations, or the file that the recipe names, checked."""

from __future__ import annotations

from pathlib import Path

from backends.recipe import Recipe
from backends.rows import TrainingRows, load_rows
from converters.cli import UsageError, say
from converters.files import read_json

NO_ROWS = (
    "no training data: set data.train=FILE.jsonl (conversations), or train_dataset.data_loader.dataset_dir=FILE to a "
    "MindRecord file that `python -m mindrecord write` made"
)


def named_file(recipe: Recipe) -> Path | None:
    """The MindRecord file that the recipe names, if any."""
    loader = recipe.train_dataset.get("data_loader") or {}
    return Path(loader["dataset_dir"]) if loader.get("dataset_dir") else None


def read_training_rows(recipe: Recipe) -> TrainingRows:
    """Return the rows of ``data.train``, or of the MindRecord file that the recipe names.

    Raises:
        UsageError: neither is named.
    """
    named = named_file(recipe)
    if recipe.data.train:
        if named is not None:
            say(f"train_dataset.data_loader.dataset_dir: {named} is not read, data.train names the rows")
        return load_rows(recipe)
    if named is None:
        raise UsageError(NO_ROWS)
    return _rows_of_file(recipe, named)


def data_file(recipe: Recipe, data: TrainingRows, folder: Path) -> Path:
    """Return the MindRecord file of the rows; those of ``data.train`` are written once."""
    from mindrecord.writer import sidecar_of, write_rows

    named = named_file(recipe)
    if not recipe.data.train and named is not None:
        return named
    file = folder / "train.mindrecord"
    if file.is_file() and read_json(sidecar_of(file))["rows_sha256"] == data.record["rows_sha256"]:
        return file
    sidecar = {key: data.record[key] for key in ("files", "template", "tokenizer", "audit")}
    seq_length = recipe.model.model_config.seq_length
    write_rows(data.rows, file, seq_length=seq_length, pad_id=data.tokenizer.pad_id, sidecar=sidecar)
    return file


def _rows_of_file(recipe: Recipe, file: Path) -> TrainingRows:
    raise NotImplementedError
