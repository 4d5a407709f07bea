"""Names of the files that hold weights and what belongs to them, and directories written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.common.errors import UsageError, UserError
from converters.common.gguf_file import is_gguf

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "template.json"
# either of the first two is a tokenizer, the others go along with it
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    *TOKENIZERS,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    CHAT_TEMPLATE,
)
# what belongs to a model besides its weights and its configuration
COMPANIONS = (GENERATION_CONFIG, *TOKENIZER_FILES, TEMPLATE)
# of a run directory (:mod:`backends.run.directory`)
RECIPE = "recipe.yaml"
TRAIN_LOG = "train_log.jsonl"
DATA_RECORD = "data.json"
ENVIRONMENT = "environment.json"
RESULT = "result.json"
LOSS_PLOT = "loss.png"
CHECKPOINT_STATE = "state.json"
MERGE_REPORT = "merge.json"
# of a merged model in GGUF, and the types that its matrices may have
GGUF_WEIGHTS = "model.gguf"
GGUF_TYPES = ("F32", "F16", "BF16", "Q8_0")


@contextmanager
def writing_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``final`` and rename it to ``final`` when it is complete and synced.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    # beside the final name, because a rename works within one file system only
    temporary = final.with_name(f".tmp-{os.getpid()}-{final.name}")
    try:
        # a killed process may have left one of this name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        # on the disk before the rename is: after a power cut a final name never stands for missing bytes
        for file in temporary.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        # os.replace cannot put a directory in the place of one that is not empty
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{final}: could not be written ({error.strerror or error}); nothing was left") from error
    # an interrupt as well must leave nothing behind
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def adding_files(folder: Path) -> Iterator[Path]:
    """Yield an empty directory whose files move into ``folder`` when all are complete and synced.

    What lies in ``folder`` already stays, so that a run directory gets its weights at the end of training.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    # if a kill leaves it, the next start removes it: Run.remove_unfinished looks for .tmp-*
    staging = folder / ".tmp-product"
    with writing_directory(staging) as temporary:
        yield temporary
    for file in sorted(staging.iterdir()):
        file.replace(folder / file.name)
    staging.rmdir()


def sidecar_of(file: Path) -> Path:
    """Return the directory beside a mindformers file that keeps its configuration, tokenizer and template."""
    return file.with_name(f"{file.name}.hf")


def check_output_file(out: Path) -> None:
    """Refuse a file name whose ending names no weight format.

    Raises:
        UsageError: it ends neither in ``.ckpt`` nor in ``.safetensors``, or is a directory.
    """
    if out.suffix not in (".ckpt", ".safetensors"):
        raise UsageError(f"{out}: name a .ckpt or a .safetensors file; mindformers reads both")
    if out.is_dir():
        raise UsageError(f"{out}: is a directory; a file is written")


def check_output_folder(out: Path) -> None:
    """Refuse a directory that is not empty, because it would be replaced.

    Raises:
        UsageError: it is there and not empty, or is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out}: is there already; name a directory that is not")


def copy_companions(source: Path, target: Path, names: tuple[str, ...] = COMPANIONS) -> list[str]:
    """Copy the files of a model that are there, besides weights and configuration.

    Args:
        source: directory to copy from.
        target: existing directory to copy to; files of the same name are replaced.
        names: files to look for.

    Returns:
        The names that were found and copied.
    """
    found = [name for name in names if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, target / name)
    return found


def has_tokenizer(folder: Path) -> bool:
    """Say whether a directory holds a tokenizer; a GGUF file is one by itself."""
    return is_gguf(folder) or any((folder / name).is_file() for name in TOKENIZERS)


def run_around(path: Path) -> Path | None:
    """Return the run directory that a path belongs to: the run itself, a checkpoint of it, or a file inside."""
    # a directory is the run or RUN/checkpoints/step-N; mindformers' files lie deeper: RUN/mindformers/checkpoint/rank_0
    places = [path, path.parent.parent] if path.is_dir() else path.resolve().parents[:4]
    return next((place for place in places if (place / RECIPE).is_file()), None)
