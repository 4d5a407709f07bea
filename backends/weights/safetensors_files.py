"""Safetensors files without a framework: one tensor at a time in, sharded and streaming out.

Format: https://huggingface.co/docs/safetensors — eight bytes with the header's length, the header as JSON (it may end
in blanks), then the tensors end to end. Types that numpy lacks (bfloat16) are those of ``ml_dtypes``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from backends.weights.dtypes import numpy_types, type_name
from backends.weights.files import ADAPTER_WEIGHTS, MODEL_INDEX, MODEL_WEIGHTS
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.reader import read_json

HEADER_LIMIT = 100_000_000  # of the reference implementation
# The header is known when all tensors are written: this much room is kept for it, and padded with blanks in large files
HEADER_ROOM = 2**20
# up to 64 MiB the data is moved up to the header: a LoRA of a few KiB should not take a MiB
SMALL_FILE = 2**26
COPY_BYTES = 2**24
# the default of save_pretrained in transformers
DEFAULT_SHARD_BYTES = 5 * 10**9
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class Entry:
    """Location of one tensor: its bytes are the ``pieces`` of the file, (start, count) each, concatenated."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the whole tensor."""
        return self.size * numpy_types()[self.dtype].itemsize


class Tensors:
    """The tensors of one weight file or of a directory of shards; only their places are held in memory."""

    def __init__(self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.entries = dict(entries)
        self.metadata = dict(metadata)

    def names(self) -> list[str]:
        """Names of the tensors, in the order in which they are stored."""
        return list(self.entries)

    @property
    def files(self) -> list[Path]:
        """The files that hold them."""
        return sorted({entry.file for entry in self.entries.values()})

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """Type of one tensor as the format names it: ``F32``, ``BF16`` …."""
        return self._entry(name).dtype

    def read(self, name: str) -> np.ndarray:
        """Read one tensor into memory of its own; the file does not stay mapped.

        Raises:
            UserError: there is no such tensor, or the file has changed since it was opened.
        """
        entry = self._entry(name)
        values = np.empty(entry.shape, numpy_types()[entry.dtype])
        # the memory of the tensor itself: the file is read into it, without a copy
        room = values.reshape(-1).view(np.uint8).data
        try:
            with entry.file.open("rb") as handle:
                for start, count in entry.pieces:
                    handle.seek(start)
                    if handle.readinto(room[:count]) != count:
                        raise UserError(f"{entry.file}: {name} is cut off; the file has changed since it was opened")
                    room = room[count:]
        except OSError as error:
            raise UserError(f"{entry.file}: could not be read ({error.strerror or error})") from error
        return values

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise UserError(f"{self.path}: no tensor {name!r} there")
        return self.entries[name]


def open_tensors(path: str | Path) -> Tensors:
    """Open a safetensors file, or the model or adapter in a directory.

    In a directory ``model.safetensors`` or ``adapter_model.safetensors`` is taken, else the shards of
    ``model.safetensors.index.json``, else all ``*.safetensors``.

    Raises:
        UsageError: there is no such file, or no safetensors in the directory.
        UserError: a file is cut off or is not safetensors, a shard is missing, or two shards hold the same tensor.
    """
    source = Path(path)
    if source.is_file():
        entries, metadata = read_header(source)
        return Tensors(source, entries, metadata)
    if not source.is_dir():
        raise UsageError(f"{source}: no such file or directory")
    index = source / MODEL_INDEX
    # before the index, as transformers looks for them
    single = next((source / name for name in (MODEL_WEIGHTS, ADAPTER_WEIGHTS) if (source / name).is_file()), None)
    if single is not None:
        files = [single]
    elif index.is_file():
        files = _indexed(index)
    else:
        files = sorted(source.glob("*.safetensors"))
        if not files:
            raise UsageError(f"{source}: no *.safetensors there")
        _check_series(files)
    found: dict[str, Entry] = {}
    common: dict[str, str] = {}
    for file in files:
        entries, more = read_header(file)
        twice = found.keys() & entries.keys()
        if twice:
            name = sorted(twice)[0]
            raise UserError(f"{file}: holds {name}, which {found[name].file.name} holds as well")
        found.update(entries)
        common.update(more)
    # the files may all be there and yet lack what the index promises
    if single is None and index.is_file():
        lost = [name for name in _weight_map(index) if name not in found]
        if lost:
            raise UserError(f"{index}: lists {len(lost)} tensors that its shards do not hold, {lost[0]} first")
    return Tensors(source, found, common)


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise UserError(f"{index}: no 'weight_map' of tensor names to files there")
    return weight_map


def _indexed(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    # a downloaded index must not make us read a file elsewhere on this machine
    odd = [name for name in names if Path(name).name != name]
    if odd:
        raise UserError(f"{index}: names {odd[0]}, a file outside its own directory")
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{index}: {len(missing)} of {len(files)} shards are missing, {missing[0]} first")
    return files


def _check_series(files: list[Path]) -> None:
    """Refuse a series that lacks a shard, such as ``x-00002-of-00003`` alone."""
    present = {file.name for file in files}
    for file in files:
        found = _SHARD.fullmatch(file.name)
        for number in range(1, int(found[3]) + 1) if found else ():
            # the name says how many there are, so a missing one is noticed without an index
            wanted = f"{found[1]}-{number:05d}-of-{found[3]}.safetensors" if found else ""
            if wanted not in present:
                raise UserError(f"{file.parent}: shard {wanted} is missing")


def read_header(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read and check the header of one safetensors file.

    Returns:
        Entries by name in the order of the data, and the metadata.

    Raises:
        UserError: it is not safetensors, or it is cut off.
    """
    try:
        with file.open("rb") as handle:
            total = handle.seek(0, 2)
            handle.seek(0)
            length = int.from_bytes(handle.read(8), "little")
            # any file has a first eight bytes: only a sane length and a JSON object behind it make it safetensors
            if total < 8 or length > HEADER_LIMIT or handle.read(1) != b"{":
                raise UserError(f"{file}: not a safetensors file")
            if 8 + length > total:
                raise UserError(f"{file}: cut off inside its header ({total:,} bytes); copy or download it again")
            handle.seek(8)
            header = json.loads(handle.read(length))
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _entry(file, 8 + length, value) for name, value in header.items()}
    except OSError as error:
        raise UserError(f"{file}: could not be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file}: not a safetensors file (its header cannot be read: {error})") from error
    # Gaps and overlaps are refused, as the reference implementation does: they would hide or alias bytes.
    # In the order of the data; an empty tensor stands before the one that starts where it does
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].pieces[0][0], item[1].nbytes)))
    end = 8 + length
    for name, entry in ordered.items():
        if entry.pieces != ((end, entry.nbytes),):
            raise UserError(f"{file}: {name}: its place in the file does not fit its shape")
        end += entry.nbytes
    if end != total:
        what = "cut off" if end > total else "longer than its header says"
        raise UserError(f"{file}: {what} ({total:,} bytes of {end:,}); copy or download it again")
    return ordered, dict(metadata)


def _entry(file: Path, base: int, value: dict[str, Any]) -> Entry:
    kind = value["dtype"]
    if kind not in numpy_types():
        raise ValueError(f"type {kind!r} is not supported")
    shape = tuple(int(width) for width in value["shape"])
    if any(width < 0 for width in shape):
        raise ValueError("a negative width")
    start, stop = (int(place) for place in value["data_offsets"])
    return Entry(file, kind, shape, ((base + start, stop - start),))


class ShardWriter:
    """Writes tensors one at a time: ``model.safetensors``, or shards and their index. Memory holds one tensor.

    Use it as a context manager inside a temporary directory (:func:`backends.weights.files.writing_directory`); files
    get their final names when it closes.

    Args:
        folder: an existing directory.
        max_shard_bytes: a shard is closed before it would grow over this; None writes one file.
        metadata: of every file; None is what transformers wants, ``format: pt``.
        stem: first part of the file names.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_shard_bytes: int | None = DEFAULT_SHARD_BYTES,
        metadata: Mapping[str, str] | None = None,
        stem: str = "model",
    ) -> None:
        self.folder = Path(folder)
        self.max_shard_bytes = max_shard_bytes
        self.metadata = {"format": "pt"} if metadata is None else dict(metadata)
        self.stem = stem
        self.total_bytes = 0
        self._shards: list[Path] = []
        self._weight_map: dict[str, int] = {}
        self._handle: IO[bytes] | None = None
        self._header: dict[str, Any] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        # an error inside the block: the files are incomplete and are deleted
        if self._handle is not None:
            self._handle.close()
        for file in self._shards:
            file.unlink(missing_ok=True)

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one tensor.

        Raises:
            UserError: the name was written before, or the format has no such type.
        """
        if name in self._weight_map:
            raise UserError(f"{self.folder}: {name} was written twice")
        kind = type_name(array.dtype)
        # a tensor larger than a shard gets one of its own
        limit = math.inf if self.max_shard_bytes is None else self.max_shard_bytes
        if self._handle is not None and self._bytes and self._bytes + array.nbytes > limit:
            self._finish_shard()
        if self._handle is None:
            # the final name holds the number of shards, which is known at the end
            file = self.folder / f".{self.stem}-{len(self._shards) + 1:05d}.part"
            # read and write: the data of a small file is moved when the shard ends
            self._handle = file.open("wb+")
            self._handle.seek(HEADER_ROOM)
            self._shards.append(file)
        self._header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [self._bytes, self._bytes + array.nbytes],
        }
        np.ascontiguousarray(array).tofile(self._handle)
        self._weight_map[name] = len(self._shards) - 1
        self._bytes += array.nbytes
        self.total_bytes += array.nbytes

    def close(self) -> list[Path]:
        """Finish the last shard, give the files their names and write the index; returns the files."""
        if self._handle is None and not self._shards:
            raise UserError(f"{self.folder}: no tensors to write")
        if self._handle is not None:
            self._finish_shard()
        count = len(self._shards)
        if count == 1:
            names = [f"{self.stem}.safetensors"]
        else:
            names = [f"{self.stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        files = [file.rename(self.folder / name) for file, name in zip(self._shards, names, strict=True)]
        if count > 1:
            weight_map = {name: names[shard] for name, shard in sorted(self._weight_map.items())}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            write_json(self.folder / f"{self.stem}.safetensors.index.json", index)
        return files

    def _finish_shard(self) -> None:
        """Put the header before the data; a small file is moved up to it, a large one keeps blanks between."""
        handle = self._handle
        assert handle is not None
        metadata = {"__metadata__": self.metadata} if self.metadata else {}
        head = json.dumps({**metadata, **self._header}, separators=(",", ":")).encode()
        room = HEADER_ROOM - 8
        if len(head) > room or self._bytes <= SMALL_FILE:
            # rounded up to eight bytes, where every type of number may begin
            room = -(-len(head) // 8) * 8
            _move(handle, HEADER_ROOM, 8 + room, self._bytes)
        handle.seek(0)
        handle.write(room.to_bytes(8, "little") + head.ljust(room))
        # moving leaves the end of the data once more behind it
        handle.truncate(8 + room + self._bytes)
        handle.close()
        self._handle, self._header, self._bytes = None, {}, 0


def _move(handle: IO[bytes], source: int, target: int, count: int) -> None:
    """Move ``count`` bytes inside a file from ``source`` to ``target``; the two ranges may overlap."""
    starts = range(0, count, COPY_BYTES)
    # up: from the front; down: from the back, or a block would overwrite one that is still to be read
    for start in starts if target < source else reversed(starts):
        handle.seek(source + start)
        block = handle.read(min(COPY_BYTES, count - start))
        handle.seek(target + start)
        handle.write(block)
