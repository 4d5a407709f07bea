"""Token rows to a MindRecord file that mindformers trains from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from mindrecord.file.header import COLUMNS, SUFFIX, index_of, sidecar_of
from mindrecord.file.pages import write_file
from mindrecord.file.row_codec import Column
from mindrecord.tokens.encode import IGNORE_INDEX, TokenRows

_FORBIDDEN = ":*?\"<>|`&;'\\"


def check_name(path: Path) -> None:
    """Refuse a name that MindSpore or mindformers could not open.

    Raises:
        UsageError: it does not end in ``.mindrecord``, or holds one of the signs that MindSpore forbids.
    """
    if path.suffix != SUFFIX or set(path.name) & set(_FORBIDDEN) or path.name.startswith(" "):
        raise UsageError(f"{path}: MindSpore and mindformers need a name like train{SUFFIX}, without {_FORBIDDEN}")


def write_token_rows(rows: TokenRows, path: Path, *, seq_length: int, pad_id: int, sidecar: dict[str, Any]) -> None:
    """Write rows as mindformers reads them, with index and sidecar: all three or none.

    Each row becomes ``input_ids`` and ``labels``, int32 [seq_length + 1], filled up with ``pad_id`` and −100.
    mindformers trains on ``ids[:-1]`` against ``labels[1:]``, where the label is not −100 and the id is not the pad.

    Args:
        rows: what to write; none longer than ``seq_length + 1``.
        path: the file, named ``….mindrecord``; ``path.db`` and ``path.json`` come beside it.
        seq_length: tokens of model input.
        pad_id: fills up short rows; occurs in no row.
        sidecar: what is known about the rows (``template`` and ``tokenizer`` with their ``hash``, ``audit``); what the
            file holds is added.

    Raises:
        UsageError: the name cannot be that of a MindRecord file.
        UserError: a row does not fit, holds the pad, or the files cannot be written.
    """
    check_name(path)
    _check_rows(rows, path, seq_length, pad_id)
    record = {
        "packed": None,
        **sidecar,
        "rows": len(rows),
        "seq_length": seq_length,
        "columns": list(COLUMNS),
        "pad_id": pad_id,
        "rows_sha256": rows.sha256,
    }
    columns = {
        "input_ids": Column(rows.input_ids, rows.offsets, seq_length + 1, pad_id),
        "labels": Column(rows.labels, rows.offsets, seq_length + 1, IGNORE_INDEX),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the name is kept inside the files, so they are made in a folder beside, under their final names
        with tempfile.TemporaryDirectory(prefix=f".tmp-{path.name}-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            write_file(temporary, columns, "token rows")
            write_json(sidecar_of(temporary), record)
            _move(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}); nothing was left") from error


def _check_rows(rows: TokenRows, path: Path, seq_length: int, pad_id: int) -> None:
    if not len(rows):
        raise UserError(f"{path}: there are no rows to write")
    over = np.flatnonzero(rows.lengths > seq_length + 1)
    if len(over):
        raise UserError(
            f"{path}: {len(over)} rows do not fit seq_length={seq_length}; row {rows.ids[over[0]]} has "
            f"{rows.lengths[over[0]]} ids"
        )
    # a pad inside a row would be lost on reading, and mindformers would not train on it
    pads = np.flatnonzero(rows.input_ids == pad_id)
    if len(pads):
        row = int(np.searchsorted(rows.offsets, pads[0], side="right")) - 1
        raise UserError(
            f"{path}: row {rows.ids[row]} holds the pad token {pad_id}: mindformers masks it wherever it is"
        )


def _move(temporary: Path, path: Path) -> None:
    """Bring the three files under their final names, the data file last: where it is, the others are."""
    for place in (Path, index_of, sidecar_of):
        with place(temporary).open("rb+") as handle:
            os.fsync(handle.fileno())
    path.unlink(missing_ok=True)
    for place in (index_of, sidecar_of, Path):
        os.replace(place(temporary), place(path))
