"""Several adapters into one: the weighted sum as a PEFT adapter, exact or cut to a lower rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.merge.adapters import Adapter, all_modules
from backends.merge.lowrank import summed, truncate
from backends.merge.rounding import cast
from backends.weights.files import ADAPTER_CONFIG
from backends.weights.safetensors_files import ShardWriter
from converters.common.console import say
from converters.common.errors import UserError


@dataclass(frozen=True)
class Mixed:
    """What a weighted sum became.

    Attributes:
        ranks: rank by layer.
        errors: part of the update that truncation left out by layer, 0 to 1 in the Frobenius norm.
        error: the same over all layers together.
    """

    ranks: dict[str, int]
    errors: dict[str, float]
    error: float


def write_mixed(adapters: Sequence[Adapter], folder: Path, rank: int | None, dtype: str | None) -> Mixed:
    """Write the weighted sum ΔW = Σ wᵢ·sᵢ·Bᵢ·Aᵢ as an adapter whose scaling is 1.

    Args:
        adapters: what to add, with their weights.
        folder: an existing directory.
        rank: cut every layer to this rank; None keeps the exact sum.
        dtype: type of the factors as safetensors names it; None: float32.

    Raises:
        UserError: adapters differ in the shape of a layer, or a factor does not fit the type.
    """
    modules = all_modules(adapters)
    for module in modules:
        shapes = {adapter.modules[module].shape: adapter.path for adapter in adapters if module in adapter.modules}
        if len(shapes) > 1:
            found = " and ".join(f"{list(shape)} in {path}" for shape, path in shapes.items())
            raise UserError(f"{module} is {found}: adapters for different bases")
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    norms, losses = 0.0, 0.0
    with ShardWriter(folder, stem="adapter_model", max_shard_bytes=None) as writer:
        for module in modules:
            a, b = summed(adapters, module)
            if rank is not None:
                cut = truncate(a, b, rank)
                a, b = cut.a, cut.b
                errors[module] = cut.error
                norms, losses = norms + cut.norm**2, losses + cut.lost**2
            ranks[module] = len(a)
            for letter, factor in (("A", a), ("B", b)):
                if not np.isfinite(factor).all():
                    raise UserError(f"{module}: the weighted sum is not finite; the weights are too large")
                name = f"base_model.model.{module}.lora_{letter}.weight"
                writer.add(name, cast(factor, "F32", dtype, name))
    config = peft_config(adapters, ranks)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Mixed(ranks, errors, float(np.sqrt(losses / norms)) if norms else 0.0)


def peft_config(adapters: Sequence[Adapter], ranks: dict[str, int]) -> dict[str, Any]:
    """Return ``adapter_config.json`` of an adapter with scaling 1: alpha is the rank, in each layer."""
    common = max(set(ranks.values()), key=lambda r: (list(ranks.values()).count(r), r))
    others = _short_patterns({module: rank for module, rank in ranks.items() if rank != common}, ranks)
    return {
        "alpha_pattern": others,
        "base_model_name_or_path": next((a.base_name for a in adapters if a.base_name), None),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": common,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": common,
        "rank_pattern": others,
        "target_modules": target_modules(adapters),
        "task_type": next((a.config["task_type"] for a in adapters if a.config.get("task_type")), "CAUSAL_LM"),
        "use_dora": False,
        "use_rslora": False,
    }


def _short_patterns(others: dict[str, int], ranks: dict[str, int]) -> dict[str, int]:
    """Say ``q_proj: 12`` once where that layer has this rank everywhere, and full names else."""
    short: dict[str, int] = {}
    for module, rank in others.items():
        last = module.rpartition(".")[2]
        everywhere = {r for name, r in ranks.items() if name.rpartition(".")[2] == last} == {rank}
        short[last if everywhere else module] = rank
    return short


def target_modules(adapters: Sequence[Adapter]) -> list[str]:
    """Return what peft shall adapt: short names where all adapters cover the same layers, else every layer by name.

    A short name such as ``q_proj`` means that layer everywhere in the model, so that it may only be used where every
    adapter that has it has it everywhere.
    """
    if all(_short(adapter) for adapter in adapters):
        last = {module.rpartition(".")[2] for adapter in adapters for module in adapter.modules}
        return sorted(last)
    return sorted(all_modules(adapters))


def _short(adapter: Adapter) -> bool:
    """Say whether this adapter names its layers by their last part, and everywhere in the model."""
    chosen = adapter.config.get("target_modules")
    narrowed = any(adapter.config.get(key) for key in ("layers_to_transform", "exclude_modules"))
    return isinstance(chosen, list) and not narrowed and {m.rpartition(".")[2] for m in adapter.modules} == set(chosen)


def check_same_base(adapters: Sequence[Adapter], *, allow: bool) -> None:
    """Refuse to add adapters of different bases, as far as bases are recorded.

    Raises:
        UserError: two records differ and ``allow`` is not set.
    """
    first = adapters[0]
    for other in adapters[1:]:
        pair = (first.base_fingerprint, other.base_fingerprint)
        if None in pair:
            pair = (_resolved(first), _resolved(other))
        if None in pair or pair[0] == pair[1]:
            if None in pair:
                say(f"note: {first.path} or {other.path} does not record its base; only shapes were compared")
            continue
        both = f"{first.path} is for {pair[0]}, {other.path} for {pair[1]}"
        if not allow:
            raise UserError(f"adapters of different bases: {both}; --allow-base-mismatch if they are the same")
        say(f"note: {both}; adding them all the same")


def _resolved(adapter: Adapter) -> str | None:
    name = adapter.base_name
    return str(Path(name).resolve()) if name and Path(name).exists() else name
