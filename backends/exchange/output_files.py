"""Files that conversions write: one weight file with what belongs to it beside it, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backends.weights.files import writing_directory
from backends.weights.mindspore_ckpt import CkptWriter, weights_writer
from backends.weights.safetensors_files import ShardWriter
from converters.common.errors import UsageError
from converters.common.files import atomic


def sidecar_of(file: Path) -> Path:
    """Return the directory that keeps what a mindformers file cannot: configuration, tokenizer, template."""
    return file.with_name(f"{file.name}.hf")


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
    with (
        writing_directory(sidecar_of(out)) as sidecar,
        atomic(out) as temporary,
        weights_writer(temporary, metadata) as writer,
    ):
        yield writer, sidecar
