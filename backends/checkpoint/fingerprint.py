"""Identify weights by a hash of what lies in their files, and count their parameters, without reading them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from converters.common.errors import UsageError
from converters.common.gguf_file import is_gguf, open_gguf

# up to 64 MiB, every byte: adapters and small models, where reading all of it costs little
WHOLE_FILE_BYTES = 64 * 2**20
SAMPLES = 64
SAMPLE_BYTES = 64 * 2**10


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a whole model: a directory's, or all parts of a GGUF file.

    Raises:
        UsageError: there are none.
        UserError: a GGUF file is damaged.
    """
    if is_gguf(folder):
        return list(open_gguf(folder).files)
    # sorted: the order on the disk must not change the hash; model*: not an adapter's file
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no model*.safetensors there")
    return files


def fingerprint(files: Iterable[Path]) -> str:
    """Identify weight files in little time: 16 hex digits of SHA-256 over names, sizes and contents.

    Of a file over 64 MiB only 64 blocks of 64 KiB are read, evenly spaced from the first byte to the last: 4 MiB of a
    file of any size. Training moves every weight, so two models that differ also differ in these blocks.

    Args:
        files: in a fixed order, which is part of the hash.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        # name and size as well: shards that were swapped or cut are another model
        digest.update(f"{file.name}:{size}\n".encode())
        with file.open("rb") as handle:
            if size <= WHOLE_FILE_BYTES:
                digest.update(handle.read())
                continue
            for sample in range(SAMPLES):
                # the first sample begins at the first byte, the last one ends at the last
                handle.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def base_fingerprint(weights: str) -> str | None:
    """Identify what a recipe's ``load_checkpoint`` names, a directory or a file; None where it names nothing."""
    if not weights:
        return None
    path = Path(weights)
    return fingerprint([path] if path.is_file() and not is_gguf(path) else weight_files(path))


def count_parameters(files: Iterable[Path]) -> int:
    """Count the numbers in safetensors files, or in all parts of a GGUF model, by their headers.

    Raises:
        UserError: a file is damaged or of another format.
    """
    files = list(files)
    if files and is_gguf(files[0]):
        from backends.weights.gguf_model import open_gguf_tensors  # as below

        return sum(entry.size for entry in open_gguf_tensors(files[0]).entries.values())
    from backends.weights.safetensors_files import read_header  # numpy, which no --help waits for

    count = 0
    for file in files:
        entries, _ = read_header(file)
        count += sum(entry.size for entry in entries.values())
    return count
