"""The configuration of a model that is exchanged: read from where it stands, or made of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.files import MODEL_CONFIG
from backends.weights.llama import ARCHITECTURES, LlamaShape
from converters.common.errors import UserError
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.recipe.types import ModelConfig


def exchangeable_shape(config: Mapping[str, Any], source: str | Path) -> LlamaShape:
    """Return the sizes of a model that both sides have.

    Raises:
        UserError: another architecture, or a size is missing or not a number.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"{source}: model_type {kind!r}: only {' and '.join(ARCHITECTURES)} can be exchanged")
    return LlamaShape.from_config(config, source)


def config_from_recipe(config: ModelConfig, source: str | Path) -> dict[str, Any]:
    """Return the Hugging Face configuration of a mindformers ``model_config``.

    Raises:
        UserError: a setting that has no certain counterpart; ``config.json`` itself is needed then.
    """
    if config.extend_method not in ("None", None) or config.scaling_factor != 1.0:
        raise UserError(
            f"{source}: extend_method {config.extend_method!r} is not carried over; name the model's own config.json"
        )
    if config.attn_proj_has_bias and not config.qkv_has_bias:
        raise UserError(f"{source}: attn_proj_has_bias without qkv_has_bias: no Hugging Face Llama or Qwen2 has this")
    return LlamaShape.from_recipe(config).to_config() | {
        "max_position_embeddings": config.max_position_embedding or config.seq_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.theta,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def read_model_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a model directory, a ``config.json`` or a mindformers YAML.

    Raises:
        UsageError: there is no such file.
        UserError: it cannot be read as one.
    """
    source = Path(path)
    if source.suffix in (".yaml", ".yml"):
        from backends.recipe.load import load_recipe

        return config_from_recipe(load_recipe(source).model.model_config, source)
    source = source / MODEL_CONFIG if source.is_dir() else source
    config = read_json(source)
    if not isinstance(config, dict):
        raise UserError(f"{source}: a JSON object is expected")
    return config
