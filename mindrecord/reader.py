"""MindRecord files: are they whole, and the rows that a run asks for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.cli import UserError, say
from converters.files import read_json
from mindrecord.layout import COLUMNS, Layout, read_layout
from mindrecord.writer import sidecar_of


def check(path: Path, *, seq_length: int, template_hash: str | None, tokenizer_hash: str | None) -> dict[str, Any]:
    """See that a file is whole and holds the rows that a run asks for.

    Args:
        path: a MindRecord file.
        seq_length: tokens of model input; rows hold one id more.
        template_hash: what the run's template hashes to; None: any.
        tokenizer_hash: what the run's tokenizer hashes to; None: any.

    Returns:
        The sidecar. A file from elsewhere has none: then what the file itself says, and one line of talk.

    Raises:
        UsageError: there is no such file.
        UserError: the file is cut off, lacks its index, has other columns, another seq_length, template or tokenizer.
    """
    layout = read_layout(path)
    if layout.columns != COLUMNS:
        found = ", ".join(f"{name} {column['type']}" for name, column in layout.columns.items())
        raise UserError(f"{path}: its columns are {found}; rows to train on have int32 arrays {', '.join(COLUMNS)}")
    length = first_length(layout)
    if length != seq_length + 1:
        raise UserError(
            f"{path}: rows of {length} ids are for seq_length={length - 1}, not {seq_length}; "
            "set model.model_config.seq_length, or write the file again"
        )
    file = sidecar_of(path)
    if not file.is_file():
        say(f"{path}: no {file.name} beside it: the template and the tokenizer of its rows cannot be checked")
        return {"rows": layout.rows, "seq_length": seq_length, "columns": list(COLUMNS)}
    sidecar = read_json(file)
    if sidecar.get("rows") != layout.rows:
        raise UserError(f"{file}: speaks of {sidecar.get('rows')} rows, the file holds {layout.rows}: not its sidecar")
    for key, wanted in (("template", template_hash), ("tokenizer", tokenizer_hash)):
        found = sidecar.get(key, {})
        if wanted is not None and found.get("hash") != wanted:
            name = found.get("name") or found.get("source")
            raise UserError(
                f"{path}: written with another {key}: {name} {str(found.get('hash'))[:12]}, the run's is "
                f"{wanted[:12]}; write the file again, or use that {key}"
            )
    return sidecar


def first_length(layout: Layout) -> int:
    """Return how many ids the first row holds."""
    with layout.path.open("rb") as handle:
        handle.seek(layout.header["header_size"])
        # length of the row, length of its first column, then that column's number of elements
        return int.from_bytes(handle.read(20)[16:], "big")
