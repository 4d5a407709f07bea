"""LoRA without a framework: which layers are meant, with which numbers they start, and what plain LoRA is.

mindformers names the linear layers wq wk wv wo w1 w2 w3 and matches ``target_modules`` against the layer's
own name with ``re.match`` (mindformers/pet/tuners/lora_adapter.py); Hugging Face models call them q_proj …
The first values of ``lora_A`` come from numpy, keyed by seed and tensor name, so that every backend starts
from the same bits.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.common.errors import UserError

if TYPE_CHECKING:
    from backends.recipe.types import PetConfig

# mindformers → Hugging Face, with the module that holds the layer; the order is mindformers' own, which recipes show
LINEAR_LAYERS = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}

# Settings of PEFT's LoraConfig (0.21) whose value does not change what trained matrices A and B mean, whatever it is …
_NEUTRAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
# … those that may have some values only …
_STARTS = "init_lora_weights"
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    # other starts (pissa, olora, corda, loftq …) put a part of the base into A and B before training
    _STARTS: (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}
# … and variants of the same update s·B·A: another scaling, ranks and alphas by layer, some of the decoder layers. Who
# takes them says so; every other setting (use_dora, alora_invocation_tokens, one of tomorrow) makes another method.
LORA_VARIANTS = frozenset({"use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform"})


def check_plain_lora(
    config: Any, source: str | Path, refusal: str, *, variants: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Refuse an adapter that is not plain LoRA: W' = W + alpha / r · B·A on linear layers, and nothing besides.

    Args:
        config: content of ``adapter_config.json``.
        source: where it is from, for errors.
        refusal: what the error says of a setting that is not taken, such as ``only plain LoRA is merged``.
        variants: those of :data:`LORA_VARIANTS` that are taken too.

    Returns:
        The configuration.

    Raises:
        UserError: another method, or a setting that is not known to leave the meaning of the matrices alone.
    """
    if not isinstance(config, dict):
        raise UserError(f"{source}: a JSON object is expected")
    for key in ("peft_type", "bias"):
        # a file without peft_type is not of PEFT; one without bias trains none
        found = config.get(key, None if key == "peft_type" else "none")
        if found not in _ALLOWED[key]:
            raise UserError(f"{source}: {key} is {found!r}; {refusal}")
    # known settings are listed, not refused ones: what a later PEFT adds is refused until it is understood
    for key in sorted(config.keys() - _NEUTRAL - _ALLOWED.keys() - variants):
        if not _is_off(config[key]):
            raise UserError(f"{source}: {key} is {config[key]!r}; {refusal}")
    start = config.get(_STARTS, True)
    if start not in _ALLOWED[_STARTS]:
        raise UserError(
            f"{source}: {_STARTS} is {start!r}, which changes the base before training; convert the adapter with "
            "peft's save_pretrained(path_initial_model_for_weight_conversion=...) first"
        )
    return config


def _is_off(value: Any) -> bool:
    """Say whether a setting is not used; 0 may be the number of a layer or of a token."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


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
    # in the order of the table, since a set has none
    return [name for name in LINEAR_LAYERS if name in chosen]


def hf_modules(pet: PetConfig) -> list[str]:
    """Return the Hugging Face module names (``q_proj`` …) of the layers that get an update."""
    return [LINEAR_LAYERS[name].split(".")[1] for name in target_layers(pet)]


def _matching(pattern: str, key: str) -> set[str]:
    try:
        # used with match below, as in mindformers: a pattern has to fit the beginning of the name, not all of it
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
    # a generator for each name: no matrix depends on which others are drawn, or in which order
    key = hashlib.sha256(f"lora_A/{seed}/{layer}/{name}".encode()).digest()
    # the key of Philox has 128 bits
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    bound = 1.0 / math.sqrt(width)
    return generator.uniform(-bound, bound, size=(rank, width)).astype(np.float32)


def peft_config(
    rank: int, alpha: float, dropout: float, modules: Iterable[str], base: str | None, **more: Any
) -> dict[str, Any]:
    """Return ``adapter_config.json`` of a LoRA, with the fields that every release of PEFT knows.

    Args:
        rank: r.
        alpha: the update counts alpha / r.
        dropout: of its input in training.
        modules: Hugging Face names of the adapted layers.
        base: directory or name of the frozen model.
        more: fields that take other values than PEFT's defaults.
    """
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        # LoraConfig of PEFT declares a whole number
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        # sorted, so that the same adapter is the same bytes
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **more,
    }
