"""The configuration of a model, wherever it lies: in a directory's ``config.json`` or in a GGUF file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.files import MODEL_CONFIG
from converters.common.errors import UserError
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.recipe.types import Recipe
    from backends.weights.llama import LlamaShape

# keys of a recipe's model_config and the fields of LlamaShape that they state
_FIELDS = {
    "hidden_size": "hidden",
    "num_layers": "layers",
    "num_heads": "heads",
    "n_kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab",
    "intermediate_size": "intermediate",
    "tie_word_embeddings": "tied",
    "qkv_has_bias": "qkv_bias",
    "attn_proj_has_bias": "o_bias",
    "theta": "rotary_base",
    "rms_norm_eps": "rms_norm_eps",
}


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


def checkpoint_differences(recipe: Recipe) -> list[str]:
    """Say what a recipe states about the model that its checkpoint has otherwise; the checkpoint's is in force.

    Args:
        recipe: names the checkpoint; its ``model_config`` may state sizes and settings.

    Returns:
        One line for each difference, and one where rows may be longer than the model was made for. Empty where the
        checkpoint has no configuration beside it, or one of a family whose sizes are not known here.
    """
    from backends.weights.llama import LlamaShape

    if not recipe.load_checkpoint or not has_config(recipe.load_checkpoint):
        return []
    try:
        checkpoint = model_shape(recipe.load_checkpoint)
    except UserError:
        return []
    # the raw YAML: a default that the recipe does not state is no difference
    stated = (recipe.raw.get("model") or {}).get("model_config") or {}
    config = recipe.model.model_config
    own = LlamaShape.from_recipe(config)
    lines = [
        f"model: the recipe says {key} {ours} → {theirs} in the checkpoint, which is what counts"
        for key, field in _FIELDS.items()
        if stated.get(key) is not None
        # a float32 in a file is not the number that was rounded to it: 9.99999974e-06 is 1e-5
        and not math.isclose(ours := getattr(own, field), theirs := getattr(checkpoint, field), rel_tol=1e-6)
    ]
    if checkpoint.positions is not None and config.seq_length > checkpoint.positions:
        lines.append(
            f"model: seq_length {config.seq_length:,} is more than the {checkpoint.positions:,} positions that the "
            "checkpoint was made for; rows beyond them are computed as they come"
        )
    return lines
