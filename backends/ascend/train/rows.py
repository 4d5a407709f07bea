"""The rows of a run as a MindRecord file: written from conversations, or the file that the recipe names, checked."""

from __future__ import annotations

from pathlib import Path

from backends.recipe.types import Recipe
from backends.run.rows import TrainingRows, load_rows, recipe_form
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json

NO_ROWS = (
    "no training data: set data.train=FILE.jsonl (conversations), or train_dataset.data_loader.dataset_dir=FILE to a "
    "MindRecord file that `python -m mindrecord write` made"
)


def named_file(recipe: Recipe) -> Path | None:
    """Return the MindRecord file that the recipe names, or None."""
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
    """Return the MindRecord file of the rows; rows of ``data.train`` are written into one, once per run.

    Args:
        recipe: names the rows.
        data: the rows.
        folder: where a file that is written goes.
    """
    from mindrecord.file.header import sidecar_of
    from mindrecord.file.writer import write_token_rows

    named = named_file(recipe)
    if not recipe.data.train and named is not None:
        return named
    file = folder / "train.mindrecord"
    # a resumed run has it already; the hash tells rows of a changed data file
    if file.is_file() and read_json(sidecar_of(file))["rows_sha256"] == data.record["rows_sha256"]:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    sidecar = {key: data.record[key] for key in ("files", "template", "tokenizer", "audit")}
    seq_length = recipe.model.model_config.seq_length
    write_token_rows(data.rows, file, seq_length=seq_length, pad_id=data.tokenizer.pad_id, sidecar=sidecar)
    return file


def _rows_of_file(recipe: Recipe, file: Path) -> TrainingRows:
    """Read a MindRecord file's rows after comparing it with the recipe's template and tokenizer.

    Raises:
        UsageError: there is no such file.
        UserError: it is damaged, or was written for another recipe.
    """
    from mindrecord.file.reader import check, read_token_rows

    template, tokenizer = recipe_form(recipe)
    sidecar = check(
        file,
        seq_length=recipe.model.model_config.seq_length,
        template_hash=template.hash,
        tokenizer_hash=tokenizer.hash,
        packed_allowed=True,
    )
    # the pad id alone tells where a stored row ends
    if sidecar.get("pad_id", tokenizer.pad_id) != tokenizer.pad_id:
        raise UserError(f"{file}: filled up with token {sidecar['pad_id']}, the tokenizer's pad is {tokenizer.pad_id}")
    rows = read_token_rows(file, pad_id=tokenizer.pad_id)
    audit = sidecar.get("audit") or {"seq_length": None, "longest": int(rows.lengths.max())}
    data = TrainingRows.of_files([file], rows, tokenizer, template, audit, packed=bool(sidecar.get("packed")))
    say(f"rows {len(rows)} of {file} · tokens {len(rows.input_ids):,} · supervised {data.supervised.sum():,}")
    return data
