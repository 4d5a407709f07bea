"""Files that conversions write: one weight file with what belongs to it beside it, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backends.weights.files import writing_directory
from backends.weights.mindspore_ckpt import CkptWriter
from backends.weights.safetensors_files import ShardWriter
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic

DTYPES = ("float32", "bfloat16", "float16")


def beside(file: Path) -> Path:
    """Return the directory that keeps what a mindformers file cannot: configuration, tokenizer, template."""
    return file.with_name(f"{file.name}.hf")


def find_recipe(file: Path) -> Path | None:
    """Return the ``recipe.yaml`` of the run directory that a file lies in."""
    return next((home / "recipe.yaml" for home in file.resolve().parents[:4] if (home / "recipe.yaml").is_file()), None)


def check_output_file(out: Path) -> None:
    """Refuse a name that says no format.

    Raises:
        UsageError: it ends neither in ``.ckpt`` nor in ``.safetensors``, or is a directory.
    """
    if out.suffix not in (".ckpt", ".safetensors"):
        raise UsageError(f"{out}: name a .ckpt or a .safetensors file; mindformers reads both")
    if out.is_dir():
        raise UsageError(f"{out}: is a directory; a file is written")


def check_output_folder(out: Path) -> None:
    """Refuse a directory that holds something: it would be replaced.

    Raises:
        UsageError: it is there and not empty, or is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out}: is there already; name a directory that is not")


@contextmanager
def writing_weights(out: Path, metadata: Mapping[str, str]) -> Iterator[tuple[CkptWriter | ShardWriter, Path]]:
    """Yield a writer for one mindformers file, and the directory to fill with what belongs to it.

    Both appear under their names when all is written.

    Raises:
        UsageError: the name says no format.
        UserError: the disk is full or the folder cannot be written.
    """
    check_output_file(out)
    with writing_directory(beside(out)) as sidecar, atomic(out) as temporary:
        if out.suffix == ".ckpt":
            with CkptWriter(temporary) as ckpt:
                yield ckpt, sidecar
        else:
            stated = {"format": "ms", **metadata}
            with ShardWriter(out.parent, max_shard_bytes=None, metadata=stated, stem=temporary.stem) as safetensors:
                yield safetensors, sidecar


def convert_dtype(values: np.ndarray, dtype: str | None, name: str) -> np.ndarray:
    """Round to another type, once, to the nearest even; None keeps the type.

    Raises:
        UserError: a finite number would become infinite.
    """
    import ml_dtypes

    if dtype is None or values.dtype.kind in "biu":
        return values
    target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if values.dtype == target:
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32, copy=False).astype(target)
    if target.itemsize == 2 and (np.isfinite(values) & ~np.isfinite(rounded)).any():
        raise UserError(f"{name}: {np.abs(values.astype(np.float32)).max():.4g} does not fit {dtype}; choose bfloat16")
    return rounded
