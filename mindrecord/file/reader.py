"""Checks MindRecord files against what a run expects, and reads their rows, without MindSpore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json
from converters.tokenizers.segments import row_offsets
from mindrecord.file.header import COLUMNS, MindRecordHeader, query_index, read_header, read_sidecar, sidecar_of
from mindrecord.file.row_codec import decode_page
from mindrecord.tokens.encode import TokenRows


def check(
    path: Path,
    *,
    seq_length: int,
    template_hash: str | None,
    tokenizer_hash: str | None,
    packed_allowed: bool = False,
) -> dict[str, Any]:
    """Check that a file is whole and holds rows that fit a run.

    Args:
        path: a MindRecord file.
        seq_length: tokens of model input; rows hold one id more.
        template_hash: what the run's template hashes to; None: any.
        tokenizer_hash: what the run's tokenizer hashes to; None: any.
        packed_allowed: accept packed rows, because the caller keeps their conversations apart. A model that does not
            would let them attend to each other without an error.

    Returns:
        The sidecar. For a file without one: what the file itself says, and a note is printed.

    Raises:
        UsageError: there is no such file.
        UserError: the file is cut off, lacks its index, has other columns, another seq_length, template or tokenizer,
            or is packed and must not be.
    """
    header = read_header(path)
    length = row_length(header)
    if length != seq_length + 1:
        raise UserError(
            f"{path}: rows of {length} ids are for seq_length={length - 1}, not {seq_length}; "
            f"set seq_length to {length - 1}, or write the file again"
        )
    file = sidecar_of(path)
    if not file.is_file():
        say(f"{path}: no {file.name} beside it: the template and the tokenizer of its rows cannot be checked")
        return {"rows": header.rows, "seq_length": seq_length, "columns": list(COLUMNS), "packed": None}
    sidecar = read_json(file)
    if not isinstance(sidecar, dict) or sidecar.get("rows") != header.rows or sidecar.get("seq_length") != seq_length:
        raise UserError(
            f"{file}: not the sidecar of {path.name}, which has {header.rows} rows; copy or write both again"
        )
    for key, wanted in (("template", template_hash), ("tokenizer", tokenizer_hash)):
        found = sidecar.get(key) or {}
        if wanted is not None and found.get("hash") != wanted:
            raise UserError(
                f"{path}: written with another {key}: {found.get('name') or found.get('source')} "
                f"{str(found.get('hash'))[:12]}, wanted is {wanted[:12]}; write the file again, or take that {key}"
            )
    if sidecar.get("packed") and not packed_allowed:
        raise UserError(f"{path}: its rows are packed, and would see each other here; write the file without --pack")
    return sidecar


def row_length(header: MindRecordHeader) -> int:
    """Return how many ids the rows of a file hold.

    Raises:
        UserError: the file has other columns, or is damaged.
    """
    _check_columns(header)
    # the header gives shapes of -1 only, so one row has to be read
    return len(_decode(header, 0, 1)[0][0])


def _check_columns(header: MindRecordHeader) -> None:
    if not header.trainable:
        found = ", ".join(f"{name} ({column['type']})" for name, column in header.columns.items())
        raise UserError(f"{header.path}: its columns are {found}; wanted are int32 arrays {' and '.join(COLUMNS)}")
    if not header.rows:
        raise UserError(f"{header.path}: holds no rows")


def read_token_rows(path: Path, start: int = 0, end: int | None = None, *, pad_id: int | None = None) -> TokenRows:
    """Read rows back without their padding.

    Args:
        path: a MindRecord file.
        start: first row, from 0.
        end: one after the last; None: to the end of the file.
        pad_id: the padding of a file whose sidecar does not name it; None: its rows keep their full length.

    Returns:
        The rows, named by their number from 0.

    Raises:
        UsageError: there is no such file, or no row ``start``.
        UserError: the file is not whole, is damaged, has other columns, or holds other rows than its sidecar says.
    """
    header = read_header(path)
    _check_columns(header)
    end = header.rows if end is None else min(end, header.rows)
    if start >= header.rows:
        raise UsageError(f"{path}: there is no row {start}; it has rows 0 to {header.rows - 1}")
    sidecar = read_sidecar(path)
    # what the file was written with comes before what the caller believes
    pad_id = sidecar.get("pad_id", pad_id)
    # page by page, so that the padding of a large file is never in memory at once
    ids, labels = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    lengths = [np.empty(0, np.int64)]
    for page_ids, page_labels in _pages(header, start, end):
        # the writer refuses rows that hold the pad, so it is padding wherever it stands
        keep = page_ids != pad_id if pad_id is not None else np.ones(page_ids.shape, bool)
        ids.append(page_ids[keep])
        labels.append(page_labels[keep])
        lengths.append(keep.sum(axis=1))
    names = [str(i) for i in range(start, max(start, end))]
    rows = TokenRows(np.concatenate(ids), np.concatenate(labels), row_offsets(np.concatenate(lengths)), names)
    # the hash is over all rows
    if (start, end) == (0, header.rows) and sidecar.get("rows_sha256", rows.sha256) != rows.sha256:
        raise UserError(
            f"{path}: its rows are not those that {sidecar_of(path).name} speaks of; copy or write all three again"
        )
    return rows


def _pages(header: MindRecordHeader, start: int, end: int) -> Iterator[list[NDArray[np.int32]]]:
    for page in header.values["page"]:
        if page["page_type"] == "BLOB_DATA":
            first, last = max(start, page["start_row_id"]), min(end, page["end_row_id"])
            if first < last:
                yield _decode(header, first, last)


def _decode(header: MindRecordHeader, start: int, end: int) -> list[NDArray[np.int32]]:
    """Return the columns of rows ``start:end``, which lie on one page, each int32 [n, length]."""
    path = header.path
    query = (
        "SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES "
        "WHERE ROW_ID >= ? AND ROW_ID < ? ORDER BY ROW_ID"
    )
    places = np.array(query_index(path, query, (start, end)), np.int64)
    page, first, last = int(places[0, 0]), int(places[0, 1]), int(places[-1, 2])
    with path.open("rb") as handle:
        handle.seek(header.values["header_size"] + page * header.values["page_size"] + first)
        data = handle.read(last - first)
    try:
        decoded = decode_page(data, places[:, 1] - first, len(COLUMNS))
    except ValueError as error:
        raise UserError(f"{path}: rows {start} to {end - 1} are damaged ({error}); copy or write it again") from error
    # a row holds its columns in the order of the schema's list
    order = header.values["schema"][0]["blob_fields"]
    return [decoded[order.index(name)] for name in COLUMNS]
