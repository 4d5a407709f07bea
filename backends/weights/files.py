"""Names of the files that hold weights, and a directory of them written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.common.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"


@contextmanager
def writing_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``final`` and put it in its place when it is complete and synced.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = final.with_name(f".tmp-{os.getpid()}-{final.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{final}: could not be written ({error.strerror or error}); nothing was left") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
