"""The MindRecord file format, version 3.0: pages of rows, and an SQLite index beside them.

The data file is eight bytes (length of the header's text, little-endian), the header as JSON, zeros up to
``header_size``, then pages (see `mindrecord.file.row_codec` for the rows in them); each begins at a multiple of
``page_size`` and the last one ends with its data. The index, ``FILE.db``, says where each row lies. Both hold the
file's own name: a renamed file cannot be read. What is known here needs no MindSpore, so that a file can be judged in
milliseconds; the tests compare it with MindSpore's own reader and writer.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json

COLUMNS = {"input_ids": {"type": "int32", "shape": [-1]}, "labels": {"type": "int32", "shape": [-1]}}
# what mindformers looks for in a folder
SUFFIX = ".mindrecord"


@dataclass(frozen=True)
class MindRecordHeader:
    """Contents of a file's header and index.

    Attributes:
        path: the data file.
        values: the header, as JSON has it.
        rows: rows in the index.
    """

    path: Path
    values: dict[str, Any]
    rows: int

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Columns by name: ``type`` and, for arrays, ``shape``."""
        return self.values["schema"][0]["schema"]

    @property
    def trainable(self) -> bool:
        """Whether the columns are those that mindformers trains a causal language model on."""
        return self.columns == COLUMNS


def index_of(path: Path) -> Path:
    """Return the index that belongs beside a MindRecord file."""
    return path.with_name(path.name + ".db")


def sidecar_of(path: Path) -> Path:
    """Return the JSON file beside a MindRecord file that says how its rows were made."""
    return path.with_name(path.name + ".json")


def is_mindrecord(path: Path) -> bool:
    """Return whether a file begins as MindRecord files do."""
    return path.is_file() and _opening(path) is not None


def read_header(path: Path) -> MindRecordHeader:
    """Read header and index, and check that the file is whole.

    Raises:
        UsageError: there is no such file.
        UserError: it is no MindRecord file, is cut off, was renamed, or its index is missing or belongs to another.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    header = _opening(path)
    if header is None:
        raise UserError(f"{path}: not a MindRecord file; `python -m mindrecord write` makes one from conversations")
    # pages have one size, and only the last ends with its data
    last = max(header["page"], key=lambda page: page["page_id"], default={"page_id": 0, "page_size": 0})
    expected = header["header_size"] + last["page_id"] * header["page_size"] + last["page_size"]
    size = path.stat().st_size
    if size < expected:
        raise UserError(f"{path}: cut off: {size:,} bytes of {expected:,}; copy or write it again")
    index = index_of(path)
    if not index.is_file():
        raise UserError(f"{path}: its index {index.name} is missing; a MindRecord file is read through it: copy both")
    names = [name for (name,) in query_index(path, "SELECT NAME FROM SHARD_NAME")]
    ((rows,),) = query_index(path, "SELECT count(*) FROM INDEXES")
    if names != [path.name] and path.name not in header["shard_addresses"]:
        raise UserError(
            f"{path}: was written as {', '.join(names)}; MindSpore looks for the name kept inside: rename it back"
        )
    # end_row_id is one after the last row, so the largest is the number of rows
    held = max((page["end_row_id"] for page in header["page"] if page["page_type"] == "BLOB_DATA"), default=0)
    if rows != held:
        raise UserError(f"{index}: lists {rows} rows, {path.name} holds {held}; they do not belong together")
    return MindRecordHeader(path, header, rows)


def query_index(path: Path, query: str, values: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of an SQL query to the index of a MindRecord file.

    Args:
        path: the data file.
        query: SQL with a ``?`` for each value.
        values: the values.

    Raises:
        UserError: the index is damaged.
    """
    index = index_of(path)
    try:
        # read-only: sqlite would otherwise create a missing file
        with closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{index}: cannot be read ({error}); copy or write both files again") from error


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the sidecar of a MindRecord file says; empty where there is none."""
    file = sidecar_of(path)
    return read_json(file) if file.is_file() else {}


def _opening(path: Path) -> dict[str, Any] | None:
    """Return a file's header; None if it does not begin with one."""
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        # eight bytes of another format give almost any number; no header is of more than 128 MB
        if not 0 < length <= 1 << 27:
            return None
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            return None
    needed = ("header_size", "page", "page_size", "schema", "shard_addresses")
    return header if isinstance(header, dict) and all(key in header for key in needed) else None
