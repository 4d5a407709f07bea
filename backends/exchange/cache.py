"""A mindformers file as a directory that every command can open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from backends.exchange.adapters import adapter_to_peft
from backends.exchange.convert import kind_of
from backends.exchange.models import mindformers_source, write_hf
from backends.weights.files import sidecar_of
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.reader import read_json

STAMP = "exchanged_from.json"


def is_mindformers_file(path: Path) -> bool:
    """Say whether a path is a weight file by its name, and not a directory."""
    return path.suffix in (".ckpt", ".safetensors") and path.is_file()


def hf_directory(file: Path) -> Path:
    """Return ``FILE.hf`` with the weights of a mindformers file in it, converted once.

    It lies beside the file and stays. A sweep, a retention check or a resumed evaluation opens the same file many
    times, and answers on the disk are known by the directory and the weights they came from: a temporary folder would
    convert billions of weights each time under another name. A file that has changed since is converted again. Of
    several processes that ask at once one converts and the others wait for it.

    Raises:
        UsageError: it is not mindformers' file.
        UserError: nothing says its configuration or its scaling, or the folder cannot be written.
    """
    home = sidecar_of(file)
    with file.open("rb") as handle:
        with suppress(ImportError, OSError):  # a system or a file system without such locks
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)  # gone with the process, however it ends
        _convert_once(file, home)
    return home


def _convert_once(file: Path, home: Path) -> None:
    """Convert unless what is in ``home`` came from this very file; errors are those of ``hf_directory``."""
    status = file.stat()
    stamp = {"file": file.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    # size and time of change instead of a hash: reading billions of weights would take as long as converting them
    if (home / STAMP).is_file() and read_json(home / STAMP) == stamp:
        return
    kind = kind_of(file)
    if not kind.startswith("mindformers"):
        raise UsageError(f"{file}: not a file of mindformers; name its directory")
    if not os.access(file.parent, os.W_OK):
        raise UserError(
            f"{file.parent}: cannot be written, and the file is converted beside itself: use "
            f"python -m backends.exchange to-hf {file} -o DIR, and DIR instead"
        )
    say(f"{file}: converting into {home} ({status.st_size / 2**20:,.0f} MiB, once; delete it to have the room back)")

    def finish(folder: Path) -> None:
        write_json(folder / STAMP, stamp)

    if kind == "mindformers-lora":
        adapter_to_peft(file, home, finish=finish)
    else:
        write_hf(mindformers_source(file), home, finish=finish)
