"""MindSpore checkpoints (``.ckpt``) without MindSpore: the same interface as safetensors, one tensor in memory.

Format: mindspore/ccsrc/utils/checkpoint.proto, protocol buffers (https://protobuf.dev/programming-guides/encoding)::

    message Checkpoint { repeated Value value = 1; }
    message Value { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3; }
    message TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3; }

A tensor over 512 MiB is several values of one tag, each with the whole tensor's dims and a part of its bytes
(``_exec_save`` of mindspore/train/serialization.py). A file saved with a checksum ends in ``crc_num`` and ten bytes.
The protocol buffer library, which MindSpore uses, holds a whole file in memory. This module reads the headers only and
skips over the contents.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import numpy as np

from backends.weights.dtypes import type_name
from backends.weights.files import check_output_file, sidecar_of, writing_directory
from backends.weights.gguf_model import open_gguf_tensors
from backends.weights.safetensors_files import Entry, ShardWriter, Tensors, open_tensors
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic
from converters.common.gguf_file import is_gguf

# tensor_type of the file → name in safetensors
TYPES = {
    "Float64": "F64",
    "Float32": "F32",
    "Float16": "F16",
    "BFloat16": "BF16",
    "Int64": "I64",
    "Int32": "I32",
    "Int16": "I16",
    "Int8": "I8",
    "UInt64": "U64",
    "UInt32": "U32",
    "UInt16": "U16",
    "UInt8": "U8",
    "Bool": "BOOL",
}
TYPE_NAMES = {short: name for name, short in TYPES.items()}
PIECE_BYTES = 2**29  # MindSpore's own: SLICE_SIZE
CHECKSUM = b"crc_num"
CHECKSUM_BYTES = len(CHECKSUM) + 10
# wire types of protocol buffers; a key is field << 3 | wire type
_VARINT, _BYTES = 0, 2
_VALUE_TAG = 1 << 3 | _BYTES


def open_weights(path: str | Path) -> Tensors:
    """Open weights of any format: a ``.ckpt``, a ``.safetensors``, a ``.gguf``, or a directory of safetensors.

    Raises:
        UsageError: there is no such file.
        UserError: as :func:`open_ckpt`, :func:`backends.weights.gguf_model.open_gguf_tensors` and
            :func:`backends.weights.safetensors_files.open_tensors`.
    """
    source = Path(path)
    if is_gguf(source):
        return open_gguf_tensors(source)
    if source.is_file() and source.suffix == ".ckpt":
        return open_ckpt(source)
    if source.is_dir() and not any(source.glob("*.safetensors")):
        # each holds slices of the matrices, and only the training strategy says which
        if any(source.glob("rank_*")):
            raise UserError(f"{source}: holds the parts of several devices (rank_0 …); join them into one file first")
        found = sorted(source.glob("*.ckpt"))
        if len(found) == 1:
            return open_ckpt(found[0])
        if found:
            raise UsageError(f"{source}: holds {len(found)} .ckpt files; name one of them")
    return open_tensors(source)


def weights_writer(file: Path, metadata: Mapping[str, str] | None = None) -> CkptWriter | ShardWriter:
    """Return a writer for one mindformers file; the metadata ``format: ms`` marks a safetensors file as MindSpore's.

    Args:
        file: a temporary name (:func:`converters.common.files.atomic`); its ending, ``.ckpt`` or ``.safetensors``, says
            the format.
        metadata: kept in a safetensors file; a ``.ckpt`` has no place for it.
    """
    if file.suffix == ".ckpt":
        return CkptWriter(file)
    # a model of mindformers is one file, whatever its size
    return ShardWriter(file.parent, max_shard_bytes=None, metadata={"format": "ms", **(metadata or {})}, stem=file.stem)


@contextmanager
def writing_weights(out: Path, metadata: Mapping[str, str]) -> Iterator[tuple[CkptWriter | ShardWriter, Path]]:
    """Yield a writer for one mindformers file, and the directory to fill with what belongs to it.

    Both appear under their names when all is written.

    Args:
        out: the file, ``.ckpt`` or ``.safetensors``; the directory becomes ``OUT.hf``.
        metadata: texts that a safetensors file keeps; a ``.ckpt`` has no place for them.

    Yields:
        The writer, and a temporary directory.

    Raises:
        UsageError: the name says no format.
        UserError: the disk is full or the folder cannot be written.
    """
    check_output_file(out)
    with (
        # left from last to first: the writer ends its file, the file gets its name, then the directory
        writing_directory(sidecar_of(out)) as sidecar,
        atomic(out) as temporary,
        weights_writer(temporary, metadata) as writer,
    ):
        yield writer, sidecar


def open_ckpt(file: str | Path) -> Tensors:
    """Open a MindSpore checkpoint; strings that were saved with the tensors become its ``metadata``.

    Raises:
        UsageError: there is no such file.
        UserError: it is cut off, damaged or encrypted, or holds what a Llama has no use for (a map parameter).
    """
    source = Path(file)
    if not source.is_file():
        raise UsageError(f"{source}: no such file")
    entries: dict[str, Entry] = {}
    texts: dict[str, str] = {}
    last = ""
    try:
        with source.open("rb") as handle:
            end = _checked_end(handle, source)
            for value in _values(handle, end, source):
                if value.kind == "str":  # numpy's text: four bytes a letter
                    handle.seek(value.start)
                    texts[value.name] = handle.read(value.count).decode("utf-32-le", errors="replace")
                    continue
                if value.kind not in TYPES:
                    raise UserError(f"{source}: {value.name}: type {value.kind!r} is not supported")
                piece = (value.start, value.count)
                known = entries.get(value.name)
                if known is None:
                    # older versions wrote a single number as [0]
                    shape = () if value.dims == (0,) and value.count else value.dims
                    entries[value.name] = Entry(source, TYPES[value.kind], shape, (piece,))
                elif value.name == last:  # the next piece of a tensor over 512 MiB
                    entries[value.name] = Entry(source, known.dtype, known.shape, (*known.pieces, piece))
                else:
                    raise UserError(f"{source}: holds {value.name} twice")
                last = value.name
    except OSError as error:
        raise UserError(f"{source}: could not be read ({error.strerror or error})") from error
    # only now are all pieces of a tensor known
    for name, entry in entries.items():
        found = sum(count for _, count in entry.pieces)
        if found != entry.nbytes:
            raise UserError(
                f"{source}: {name}: {found:,} bytes where its shape {list(entry.shape)} has {entry.nbytes:,}"
            )
    if not entries:
        raise UserError(f"{source}: holds no tensors")
    return Tensors(source, entries, texts)


@dataclass(frozen=True)
class _Value:
    name: str
    kind: str
    dims: tuple[int, ...]
    start: int
    count: int


def _checked_end(handle: IO[bytes], file: Path) -> int:
    """Return the position where the values end; verify the checksum if one follows."""
    end = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    # torch.save writes a zip archive; some share its files under this suffix
    if handle.read(4) == b"PK\x03\x04":
        raise UserError(f"{file}: a PyTorch file, not a MindSpore checkpoint")
    if end < CHECKSUM_BYTES:
        return end
    # the checksum is outside the protocol buffer: "crc_num" and the CRC-32 of all before it as a ten-byte number
    handle.seek(end - CHECKSUM_BYTES)
    tail = handle.read(CHECKSUM_BYTES)
    if not tail.startswith(CHECKSUM):
        return end
    left = end - CHECKSUM_BYTES
    stated, found = int.from_bytes(tail[len(CHECKSUM) :], "big"), 0
    handle.seek(0)
    while left:
        # 16 MiB at a time: a checkpoint may be larger than the memory
        block = handle.read(min(left, 2**24))
        found = zlib.crc32(block, found)
        left -= len(block)
    if found != stated:
        raise UserError(f"{file}: damaged (its checksum does not match); copy or download it again")
    return end - CHECKSUM_BYTES


def _values(handle: IO[bytes], end: int, file: Path) -> Iterator[_Value]:
    handle.seek(0)
    position = 0
    while position < end:
        try:
            tag = _varint(handle)
            # Checkpoint has one field: any other key is no checkpoint, or the bytes of an encrypted one
            if tag != _VALUE_TAG:
                raise UserError(f"{file}: not a MindSpore checkpoint at byte {position:,}: damaged, or encrypted")
            size = _varint(handle)
            position = handle.tell() + size
            if position > end:
                raise EOFError
            value = _value(handle, position, file)
        except (EOFError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file}: cut off or damaged ({end:,} bytes, and a tensor that goes to byte {position:,}); "
                "copy or download it again"
            ) from error
        yield value
        handle.seek(position)


def _value(handle: IO[bytes], end: int, file: Path) -> _Value:
    """Read the header of one ``Value``; the tensor's bytes are skipped."""
    name, kind, dims, start, count = "", "", [], end, 0
    for field, number in _fields(handle, end):
        if field == 1:
            name = handle.read(number).decode()
        elif field == 2:
            inner_end = handle.tell() + number
            for inner, width in _fields(handle, inner_end, varint_field=1):
                if inner == 1:
                    dims.append(width)
                elif inner == 2:
                    kind = handle.read(width).decode()
                elif inner == 3:
                    start, count = handle.tell(), width
                    # over the contents, which Tensors.read fetches when they are wanted
                    handle.seek(start + count)
        elif field == 3:
            raise UserError(f"{file}: {name or 'a parameter'} is a MapParameter, which no Llama has")
    return _Value(name, kind, tuple(dims), start, count)


def _fields(handle: IO[bytes], end: int, varint_field: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the fields of one message as (field number, number).

    The number is the value where ``field == varint_field``, else the length of the bytes that the handle stands at.
    Other fields that hold a varint are passed over.
    """
    while handle.tell() < end:
        tag = _varint(handle)
        field, wire = tag >> 3, tag & 7
        # the messages have no other wire types: what looks like one is damage
        if wire not in (_VARINT, _BYTES):
            raise EOFError
        number = _varint(handle)
        if wire == _VARINT:
            if field == varint_field:
                yield field, number
            continue
        stop = handle.tell() + number
        if stop > end:
            raise EOFError
        if field == varint_field:
            # a writer may pack all dims into one field
            while handle.tell() < stop:
                yield field, _varint(handle)
        else:
            yield field, number
            handle.seek(stop)


def _varint(handle: IO[bytes]) -> int:
    value, shift = 0, 0
    while True:
        byte = handle.read(1)
        # no varint has more than 64 bits: longer ones are damage
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7


class CkptWriter:
    """Writes a MindSpore checkpoint, one tensor at a time; :func:`mindspore.load_checkpoint` reads it.

    Args:
        file: a temporary name (:func:`converters.common.files.atomic`).
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._names: set[str] = set()
        self._handle = self.file.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one tensor, in pieces where MindSpore would.

        Raises:
            UserError: the name was written before, or the format has no such type.
        """
        if name in self._names:
            raise UserError(f"{self.file}: {name} was written twice")
        short = type_name(array.dtype)
        if short not in TYPE_NAMES:
            raise UserError(f"{self.file}: {name}: a MindSpore checkpoint has no type for {array.dtype}")
        self._names.add(name)
        tag = _field(1, name.encode())
        # proto2 does not pack numbers: each width is a field of its own, key 1 << 3 | _VARINT
        head = b"".join(b"\x08" + _as_varint(width) for width in array.shape)
        head += _field(2, TYPE_NAMES[short].encode())
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # max: an empty tensor is one piece without bytes
        for start in range(0, max(len(flat), 1), PIECE_BYTES):
            piece = flat[start : start + PIECE_BYTES]
            # the lengths of the outer messages come first and count the piece, which is written apart: no copy of it
            before = head + b"\x1a" + _as_varint(len(piece))
            tensor = b"\x12" + _as_varint(len(before) + len(piece)) + before
            self._handle.write(b"\x0a" + _as_varint(len(tag) + len(tensor) + len(piece)) + tag + tensor)
            piece.tofile(self._handle)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _as_varint(len(content)) + content


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
