"""Sizes of the model that a recipe trains, under mindformers' names, and the shapes that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.ascend.model import model_config
from backends.recipe.types import ModelConfig, Recipe
from backends.weights.llama import LlamaShape
from backends.weights.lora import target_layers
from backends.weights.model_config import has_config
from backends.weights.names import peft_to_mindformers, to_mindformers
from converters.common.errors import UserError


def model_sizes(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of ``model_config`` that describe the network: the checkpoint's, else the recipe's.

    Raises:
        UserError: mindformers' Llama cannot hold this model.
    """
    config = recipe.model.model_config
    if recipe.load_checkpoint and has_config(recipe.load_checkpoint):
        sizes = model_config(Path(recipe.load_checkpoint))
        if sizes["extend_method"] != "None":
            return sizes  # mindformers refuses a scaling whose original positions are more than these
        # a table of rotary angles for the longest row is enough
        return sizes | {"max_position_embedding": config.seq_length}
    shape = LlamaShape.from_recipe(config)
    if shape.head_dim * shape.heads != shape.hidden:
        raise UserError(
            f"{recipe.path}: heads of {shape.head_dim} on {shape.heads} heads do not make hidden_size {shape.hidden}: "
            "mindformers' Llama wants hidden_size / num_heads"
        )
    if shape.heads % shape.kv_heads:
        raise UserError(f"{recipe.path}: n_kv_heads {shape.kv_heads} does not divide num_heads {shape.heads}")
    return shape.to_model_config() | {
        "rms_norm_eps": config.rms_norm_eps,
        "theta": config.theta,
        "max_position_embedding": config.seq_length,
    }


def shape_of(sizes: dict[str, Any]) -> LlamaShape:
    """Return the geometry that sizes under mindformers' names describe."""
    stated = LlamaShape.from_recipe(ModelConfig()).to_model_config()
    return LlamaShape.from_recipe(ModelConfig(**{key: sizes[key] for key in stated}))


def parameter_shapes(sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of mindformers' Llama, without LoRA."""
    return {to_mindformers(name): shape for name, shape in shape_of(sizes).parameter_shapes().items()}


def lora_shapes(sizes: dict[str, Any], recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every LoRA matrix: a is [r, in], b is [out, r]; empty for full training."""
    if recipe.pet is None:
        return {}
    shapes = shape_of(sizes).adapter_shapes(target_layers(recipe.pet), recipe.pet.lora_rank)
    return {peft_to_mindformers(name): shape for name, shape in shapes.items()}
