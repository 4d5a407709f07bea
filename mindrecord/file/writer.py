"""Token rows to a MindRecord file that mindformers trains from: pages of a size that suits the rows, header, index.

MindSpore's ``FileWriter``, given the same rows in one call and the same sizes of header and page, writes the same
bytes; it takes a hundred times as long and needs MindSpore.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from mindrecord.file.header import COLUMNS, SUFFIX, index_of, sidecar_of
from mindrecord.file.row_codec import Column, page_bytes, row_sizes
from mindrecord.tokens.encode import IGNORE_INDEX, TokenRows

_FORBIDDEN = ":*?\"<>|`&;'\\"
# what MindSpore allows
_HEADER_MIN, _PAGE_MIN, _PAGE_MAX = 1 << 14, 1 << 15, 1 << 28
# pages of a file, at most: MindSpore's own default, one header of 16 MB and pages of 32 MB, would make 100 rows look
# like 50 MB, while pages of the least size would need a header of megabytes for a large file
_PAGES = 128
# every row also has fields that could be indexed; ours has none, and this (a length, MessagePack's {"id": 0}) says so
_RAW_ROW = (5).to_bytes(8, "little") + b"\x81\xa2id\x00"

# MindSpore's own statement with its spaces: SQLite keeps the text, and the index is to be the same
_INDEX = (
    "CREATE TABLE INDEXES(  ROW_ID               INT  NOT NULL, PAGE_ID_RAW          INT  NOT NULL, "
    "PAGE_OFFSET_RAW      INT  NOT NULL, PAGE_OFFSET_RAW_END  INT  NOT NULL, ROW_GROUP_ID         INT  NOT NULL, "
    "PAGE_ID_BLOB         INT  NOT NULL, PAGE_OFFSET_BLOB     INT  NOT NULL, PAGE_OFFSET_BLOB_END INT  NOT NULL, "
    "PRIMARY KEY(ROW_ID))"
)


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
            # on the disk before the final names say that they are whole
            os.fsync(handle.fileno())
    # an old data file must not stand beside the new index, not even for a moment
    path.unlink(missing_ok=True)
    for place in (index_of, sidecar_of, Path):
        os.replace(place(temporary), place(path))


@dataclass(frozen=True)
class PagePlan:
    """Where rows go.

    Attributes:
        page_size: bytes of a page.
        sizes: bytes of each row, int64 [n].
        groups: first row of each data page, and the number of rows, int64 [p + 1].
        raw: first data page whose rows' second half (see ``_RAW_ROW``) lies on each raw page, int64 [r + 1].
    """

    page_size: int
    sizes: NDArray[np.int64]
    groups: NDArray[np.int64]
    raw: NDArray[np.int64]


def plan_pages(sizes: NDArray[np.int64], page_size: int | None = None) -> PagePlan:
    """Choose the size of a page, and the rows of each: as many as fit, in order.

    Args:
        sizes: bytes of each row, int64 [n].
        page_size: bytes of a page, a power of two; None chooses one that keeps the file to about _PAGES pages.

    Raises:
        UserError: a row is larger than a page can be.
    """
    if page_size is None:
        page_size = max(_PAGE_MIN, int(sizes.max()), -(-int(sizes.sum()) // _PAGES))
        page_size = min(1 << (page_size - 1).bit_length(), _PAGE_MAX)
    if sizes.max() > page_size:
        raise UserError(f"row {int(sizes.argmax()) + 1} takes {sizes.max():,} bytes; a page holds {page_size:,}")
    groups = _fill(sizes, page_size)
    return PagePlan(page_size, sizes, groups, _fill(np.diff(groups) * len(_RAW_ROW), page_size))


def _fill(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Return where each page begins when it takes as many things as fit, in order; the number of things last."""
    ends = np.cumsum(sizes)
    starts = [0]
    while starts[-1] < len(sizes):
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, before + capacity, side="right")))
    return np.array(starts, np.int64)


def write_file(path: Path, columns: dict[str, Column], desc: str, page_size: int | None = None) -> None:
    """Write the data file and its index.

    Args:
        path: the data file; its name is kept inside both.
        columns: all of the same number of rows.
        desc: what the schema is called.
        page_size: bytes of a page, a power of two; by default what suits the rows.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        UserError: a row is larger than a page can be.
    """
    held = list(columns.values())
    plan = plan_pages(row_sizes(held), page_size)
    header_size = _HEADER_MIN
    # room for its own length and for more digits in the sizes
    while len(_header(path.name, columns, desc, plan, header_size)) + 16 > header_size:
        header_size *= 2
    header = _header(path.name, columns, desc, plan, header_size)
    with path.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        for number, page in enumerate(_pages(held, plan)):
            # the gap up to a page's start is zeros
            handle.truncate(header_size + number * plan.page_size)
            handle.seek(0, 2)
            handle.write(page)
    _write_index(path, plan)


def _pages(columns: Sequence[Column], plan: PagePlan) -> Iterator[bytes]:
    for start, end in zip(plan.groups[:-1].tolist(), plan.groups[1:].tolist(), strict=True):
        yield page_bytes(columns, start, end)
    for first, last in zip(plan.raw[:-1], plan.raw[1:], strict=True):
        yield _RAW_ROW * int(plan.groups[last] - plan.groups[first])


def _header(name: str, columns: dict[str, Column], desc: str, plan: PagePlan, header_size: int) -> bytes:
    pages: list[dict[str, Any]] = []
    ends = np.concatenate([[0], np.cumsum(plan.sizes)])[plan.groups].tolist()
    groups = plan.groups.tolist()
    for i in range(len(groups) - 1):
        used = [{"id": 0, "offset": 0}]
        pages.append(_page(len(pages), i, "BLOB_DATA", ends[i + 1] - ends[i], used, groups[i], groups[i + 1]))
    for i, (first, last) in enumerate(zip(plan.raw[:-1].tolist(), plan.raw[1:].tolist(), strict=True)):
        offsets = [(groups[group] - groups[first]) * len(_RAW_ROW) for group in range(first, last + 1)]
        used = [{"id": group, "offset": offset} for group, offset in zip(range(first, last), offsets, strict=False)]
        # MindSpore counts raw pages on from the page before, not from the raw page before
        of_type = len(pages) if i else 0
        pages.append(_page(len(pages), of_type, "RAW_DATA", offsets[-1], used, 0, 0))
    schema = {field: {"shape": [-1], "type": "int32"} for field in columns}
    plain = sum(len(column.sizes) * (8 + 4 * column.length) for column in columns.values())
    header = {
        "header_size": header_size,
        "index_fields": None,
        "page": pages,
        "page_size": plan.page_size,
        # bytes that the narrow numbers spare
        "compression_size": plain - int(plan.sizes.sum() - 8 * len(plan.sizes)),
        "schema": [{"blob_fields": list(columns), "desc": desc, "schema": schema}],
        "shard_addresses": [name],
        "shard_id": 0,
        "statistics": None,
        "version": "3.0",
    }
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()


def _page(
    number: int, of_type: int, kind: str, size: int, groups: list[dict[str, int]], start: int, end: int
) -> dict[str, Any]:
    return {
        "end_row_id": end,
        "page_id": number,
        "page_size": size,
        "page_type": kind,
        "page_type_id": of_type,
        "row_group_ids": groups,
        "shard_id": 0,
        "start_row_id": start,
    }


def _write_index(path: Path, plan: PagePlan) -> None:
    n = len(plan.sizes)
    ends = np.cumsum(plan.sizes)
    group = np.repeat(np.arange(len(plan.groups) - 1), np.diff(plan.groups))
    # the raw page of the rows of each data page
    raw = np.searchsorted(plan.raw, group, side="right") - 1
    offset = ends - np.concatenate([[0], ends])[plan.groups[group]]
    raw_offset = (np.arange(n) - plan.groups[plan.raw[raw]]) * len(_RAW_ROW)
    # raw pages are numbered on after the data pages
    raw_page = raw + len(plan.groups) - 1
    table = [np.arange(n), raw_page, raw_offset, raw_offset + len(_RAW_ROW), group, group, offset - plan.sizes, offset]
    try:
        with closing(sqlite3.connect(index_of(path))) as database:
            # it is new and lies under a temporary name: no journal is needed to go back to an empty file
            database.execute("PRAGMA journal_mode=OFF")
            database.execute("PRAGMA synchronous=OFF")
            database.execute(_INDEX)
            database.execute("CREATE TABLE SHARD_NAME(NAME TEXT NOT NULL)")
            with database:
                rows = np.stack(table, axis=1).tolist()
                database.executemany("INSERT INTO INDEXES VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                database.execute("INSERT INTO SHARD_NAME VALUES (?)", (path.name,))
    except sqlite3.Error as error:
        # the caller reports it as a file that could not be written
        raise OSError(f"{index_of(path).name}: {error}") from error
