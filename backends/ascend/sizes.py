"""Sizes of the model that a recipe trains, in mindformers' words, and the shapes that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.ascend.model import model_config
from backends.exchange.layout import Layout
from backends.recipe.types import Recipe
from backends.weights.files import MODEL_CONFIG
from backends.weights.lora import target_layers
from backends.weights.names import to_mindformers
from converters.common.errors import UserError


def model_sizes(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of ``model_config`` that describe the network: the checkpoint's where it says, else the recipe's.

    Raises:
        UserError: mindformers' Llama cannot hold this model.
    """
    folder = Path(recipe.load_checkpoint)
    if recipe.load_checkpoint and (folder / MODEL_CONFIG).is_file():
        sizes = model_config(folder)
        if sizes["extend_method"] != "None":
            return sizes  # mindformers refuses a scaling whose original positions are more than these
        # a table of rotary angles for the longest row is enough
        return sizes | {"max_position_embedding": recipe.model.model_config.seq_length}
    config = recipe.model.model_config
    sizes = {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.feed_forward_size,
        "rms_norm_eps": config.rms_norm_eps,
        "theta": config.theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "qkv_has_bias": config.qkv_has_bias,
        "attn_proj_has_bias": config.attn_proj_has_bias,
        "max_position_embedding": config.seq_length,
    }
    _check_heads(recipe.path, sizes, config.head_dim or config.hidden_size // config.num_heads)
    return sizes


def _check_heads(source: str, sizes: dict[str, Any], head_dim: int) -> None:
    if head_dim * sizes["num_heads"] != sizes["hidden_size"]:
        raise UserError(
            f"{source}: heads of {head_dim} on {sizes['num_heads']} heads do not make hidden_size "
            f"{sizes['hidden_size']}: mindformers' Llama wants hidden_size / num_heads"
        )
    if sizes["num_heads"] % sizes["n_kv_heads"]:
        raise UserError(f"{source}: n_kv_heads {sizes['n_kv_heads']} does not divide num_heads {sizes['num_heads']}")


def parameter_shapes(sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of mindformers' Llama, without LoRA."""
    layout = Layout(
        layers=sizes["num_layers"],
        hidden=sizes["hidden_size"],
        intermediate=sizes["intermediate_size"],
        heads=sizes["num_heads"],
        kv_heads=sizes["n_kv_heads"],
        head_dim=sizes["hidden_size"] // sizes["num_heads"],
        vocab=sizes["vocab_size"],
        tied=sizes["tie_word_embeddings"],
        qkv_bias=sizes["qkv_has_bias"],
        o_bias=sizes["attn_proj_has_bias"],
        mlp_bias=False,
    )
    return {to_mindformers(name): shape for name, shape in layout.shapes().items()}


def lora_shapes(sizes: dict[str, Any], recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Name and shape of every LoRA matrix: a is [r, in], b is [out, r]."""
    if recipe.pet is None:
        return {}
    rank, widths = recipe.pet.lora_rank, linear_widths(sizes)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(sizes["num_layers"]):
        for name in target_layers(recipe.pet):
            prefix = f"model.layers.{layer}.{module(name)}.mindpet_delta_lora_"
            shapes |= {f"{prefix}a": (rank, widths[name][0]), f"{prefix}b": (widths[name][1], rank)}
    return shapes


def linear_widths(sizes: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(in, out) of each linear layer of a decoder layer."""
    h, f = sizes["hidden_size"], sizes["intermediate_size"]
    kv = h // sizes["num_heads"] * sizes["n_kv_heads"]
    return {"wq": (h, h), "wk": (h, kv), "wv": (h, kv), "wo": (h, h), "w1": (h, f), "w2": (f, h), "w3": (h, f)}


def module(name: str) -> str:
    """Path of a linear layer inside its decoder layer: ``wq`` → ``attention.wq``."""
    return f"{'attention' if name in ('wq', 'wk', 'wv', 'wo') else 'feed_forward'}.{name}"
