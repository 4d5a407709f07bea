"""LoRA without a framework: which layers are meant, and with which numbers they start.

mindformers names the linear layers wq wk wv wo w1 w2 w3 and matches ``target_modules`` against the layer's
own name with ``re.match`` (mindformers/pet/tuners/lora_adapter.py); Hugging Face models call them q_proj …
The first values of ``lora_A`` come from numpy, keyed by seed and tensor name, so that every backend starts
from the same bits.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from converters.common.errors import UserError

if TYPE_CHECKING:
    from backends.recipe.types import PetConfig

# mindformers → Hugging Face, with the module that holds the layer
LINEAR_LAYERS = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


def target_layers(pet: PetConfig) -> list[str]:
    """Return the mindformers names (``wq`` …) of the layers that get an update.

    ``target_modules`` chooses and ``exclude_layers`` takes out; Hugging Face names (``q_proj``) are understood too.

    Raises:
        UserError: an expression is not one, or nothing is chosen.
    """
    chosen = _matching(pet.target_modules, "target_modules")
    for pattern in pet.exclude_layers or []:
        chosen -= _matching(pattern, "exclude_layers")
    if not chosen:
        raise UserError(
            f"pet_config.target_modules: {pet.target_modules!r} chooses none of {', '.join(LINEAR_LAYERS)}; "
            "it is matched against the layer's own name, without its path"
        )
    return [name for name in LINEAR_LAYERS if name in chosen]


def hf_modules(pet: PetConfig) -> list[str]:
    """Return the Hugging Face module names (``q_proj`` …) of the layers that get an update."""
    return [LINEAR_LAYERS[name].split(".")[1] for name in target_layers(pet)]


def _matching(pattern: str, key: str) -> set[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pet_config.{key}: {pattern!r} is not a regular expression ({error})") from error
    return {
        name
        for name, module in LINEAR_LAYERS.items()
        if expression.match(name) or expression.match(module.split(".")[1])
    }


def initial_lora_a(seed: int, layer: int, name: str, rank: int, width: int) -> np.ndarray:
    """First value of one ``lora_A``, the same bits in every framework.

    Kaiming uniform with a = √5, that is uniform in ±1/√in, as PEFT and mindpet draw it.

    Args:
        seed: ``seed`` of the recipe.
        layer: index of the decoder layer.
        name: mindformers name of the linear layer, such as ``wq``.
        rank: r.
        width: input width of the layer.

    Returns:
        float32[r, in].
    """
    key = hashlib.sha256(f"lora_A/{seed}/{layer}/{name}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    bound = 1.0 / math.sqrt(width)
    return generator.uniform(-bound, bound, size=(rank, width)).astype(np.float32)
