"""The configuration of a model, wherever it lies: in a directory's ``config.json`` or in a GGUF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.files import MODEL_CONFIG
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.weights.llama import LlamaShape


def has_config(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a model with its configuration: a directory with ``config.json``, or a GGUF file."""
    return is_gguf(path) or (Path(path) / MODEL_CONFIG).is_file()


def config_place(path: str | os.PathLike[str]) -> Path:
    """Return the file that holds a model's configuration."""
    return Path(path) if is_gguf(path) else Path(path) / MODEL_CONFIG


def load_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the Hugging Face configuration of a model directory or a GGUF file.

    Raises:
        UserError: the file cannot be read, or is of another family.
    """
    if is_gguf(path):
        from backends.weights.gguf_model import gguf_config  # numpy, which no --help waits for

        return gguf_config(path)
    return read_json(config_place(path))


def model_shape(path: str | os.PathLike[str]) -> LlamaShape:
    """Return the sizes of a model; errors are those of :func:`load_config` and of ``LlamaShape.from_config``."""
    from backends.weights.llama import LlamaShape  # numpy, likewise

    return LlamaShape.from_config(load_config(path), config_place(path))
