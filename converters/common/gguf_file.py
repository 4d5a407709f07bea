"""The header of a GGUF file: its settings, and where each tensor lies. Only the header is read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md — magic, version, counts, settings by key, tensors by
name, then the tensors' bytes. Parsed here and not with ``gguf.GGUFReader``, which makes an array of each token's text
and needs many seconds for a vocabulary; the package says how the quantised types are laid out.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from converters.common.errors import UsageError, UserError

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
# number of a value's type → struct's letter
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_UINT32, _UINT64 = 4, 10
# no tensor has more, and a damaged count must not be looped over
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """Location of one tensor.

    Attributes:
        file: that holds it.
        kind: name of its type, such as ``F16`` or ``Q4_K``.
        shape: [out, in], as everywhere here; the file lists the widths the other way round.
        start: its first byte in the file.
        nbytes: number of its bytes.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A GGUF model, of one file or of all parts of a split one.

    Attributes:
        path: what was named.
        fields: settings by key; lists are Python's.
        tensors: by the names of the file.
        files: all parts, in their order.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]
    files: tuple[Path, ...]

    def field(self, key: str) -> Any:
        """Return a setting.

        Raises:
            UserError: the file does not state it.
        """
        if key not in self.fields:
            raise UserError(f"{self.path}: {key} is not stated; the file is not a whole model")
        return self.fields[key]


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a GGUF file by its name, and not a directory."""
    return Path(path).suffix == SUFFIX and Path(path).is_file()


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Read the header of a GGUF model, and of all parts if it is split.

    Args:
        path: the file; of a split model its first part.

    Raises:
        UsageError: there is no such file, or it is a later part.
        UserError: it is cut off, damaged or of another format, a part is missing, or a tensor is of an unknown type.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"{source}: no such file")
    parts = _parts(source)
    read = [_read_part(part, part.stat().st_mtime_ns, part.stat().st_size) for part in parts]
    fields = read[0][0]
    stated = fields.get("split.count", 0)
    if max(1, stated) != len(parts):
        raise UserError(f"{source}: is a part of {stated}, which its name does not say; name them as they were split")
    tensors: dict[str, GgufTensor] = {}
    for _, found in read:
        tensors.update(found)
    promised = fields.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise UserError(f"{source}: {promised} tensors are stated, {len(tensors)} are in its parts")
    return GgufFile(source, fields, tensors, tuple(parts))


def _parts(source: Path) -> list[Path]:
    """Return all parts of a split model, which its file names number."""
    named = _SPLIT.fullmatch(source.name)
    if named is None:
        return [source]
    stem, number, count = named[1], int(named[2]), int(named[3])
    parts = [source.with_name(f"{stem}-{part:05d}-of-{count:05d}{SUFFIX}") for part in range(1, count + 1)]
    if number != 1:
        raise UsageError(f"{source}: is part {number} of {count}; name the first, {parts[0].name}")
    for part in parts:
        if not part.is_file():
            raise UserError(f"{part}: part of {source.name} is missing; all {count} have to lie in one directory")
    return parts


# a command asks for configuration, tokenizer and weights: the header is parsed once
@lru_cache(maxsize=16)
def _read_part(file: Path, changed: int, size: int) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    try:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(file, data)
    except (struct.error, IndexError) as error:
        raise UserError(f"{file}: cut off inside its header ({size:,} bytes); copy or download it again") from error
    except (OSError, ValueError) as error:
        # an empty file cannot be mapped
        raise UserError(f"{file}: not a GGUF file ({error})") from error


class _Cursor:
    """Reads values one after the other; past the end of the file is a ``struct.error``."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, 0

    def number(self, kind: int) -> Any:
        layout = struct.Struct(f"<{_NUMBERS[kind]}")
        (value,) = layout.unpack_from(self.data, self.place)
        self.place += layout.size
        return value

    def text(self) -> str:
        length = self.number(_UINT64)
        start, self.place = self.place, self.place + length
        if self.place > len(self.data):
            raise struct.error("a text is cut off")
        return self.data[start : self.place].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number(_UINT32), self.number(_UINT64)
            if inner == _STRING:
                return [self.text() for _ in range(count)]
            if inner in _NUMBERS:
                width = struct.calcsize(_NUMBERS[inner])
                # asked first: a damaged count would ask for more memory than there is
                if self.place + count * width > len(self.data):
                    raise struct.error("a list is cut off")
                values = struct.unpack_from(f"<{count}{_NUMBERS[inner]}", self.data, self.place)
                self.place += count * width
                return list(values)
            kind = inner
        if kind not in _NUMBERS:
            raise ValueError(f"a setting has type {kind}, which GGUF does not have")
        return self.number(kind)


def _parse(file: Path, data: mmap.mmap) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    if data[:4] != MAGIC:
        raise UserError(f"{file}: not a GGUF file (it begins with {bytes(data[:4])!r})")
    cursor = _Cursor(data)
    cursor.place = 4
    version = cursor.number(_UINT32)
    if version not in VERSIONS:
        swapped = " (or a file for big-endian machines)" if version & 0xFFFF == 0 else ""
        known = " and ".join(map(str, VERSIONS))
        raise UserError(f"{file}: GGUF version {version}{swapped}; versions {known} are read")
    tensor_count, field_count = cursor.number(_UINT64), cursor.number(_UINT64)
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        key = cursor.text()
        fields[key] = cursor.value(cursor.number(_UINT32))
    places = list(_tensor_places(cursor, tensor_count))
    alignment = int(fields.get("general.alignment", 32))
    if alignment < 1:
        raise ValueError(f"general.alignment is {alignment}")
    # the data begins at the next multiple of the alignment
    base = -(-cursor.place // alignment) * alignment
    tensors = {}
    for name, shape, number, offset in places:
        kind, nbytes = _layout(file, name, shape, number)
        tensors[name] = GgufTensor(file, kind, shape, base + offset, nbytes)
        if base + offset + nbytes > len(data):
            raise UserError(
                f"{file}: cut off ({len(data):,} bytes, {name} ends at {base + offset + nbytes:,}); copy or download "
                "it again"
            )
    return fields, tensors


def _tensor_places(cursor: _Cursor, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    for _ in range(count):
        name, dimensions = cursor.text(), cursor.number(_UINT32)
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        widths = [cursor.number(_UINT64) for _ in range(dimensions)]
        yield name, tuple(reversed(widths)), cursor.number(_UINT32), cursor.number(_UINT64)


def _layout(file: Path, name: str, shape: tuple[int, ...], number: int) -> tuple[str, int]:
    """Return name and bytes of a tensor's type."""
    # here: half a second, which only a GGUF file has to wait
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise UserError(f"{file}: {name} is of tensor type {number}, which is not known here") from None
    block, size = GGML_QUANT_SIZES[kind]
    count = math.prod(shape)
    if count % block or (shape and shape[-1] % block):
        raise UserError(f"{file}: {name} {list(shape)} cannot be of type {kind.name}: its blocks hold {block} numbers")
    return kind.name, count // block * size
