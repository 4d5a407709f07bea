"""Several adapters into one: the weighted sum as a PEFT adapter, exact or cut to a lower rank.

Legend: r rank, in and out the widths of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.merge.adapters import Adapter, all_modules
from backends.weights.dtypes import round_to
from backends.weights.files import ADAPTER_CONFIG
from backends.weights.lora import peft_config
from backends.weights.safetensors_files import ShardWriter
from converters.common.console import say
from converters.common.errors import UserError
from converters.common.files import write_json


def summed(adapters: Sequence[Adapter], module: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact sum ΔW = Σ wᵢ·sᵢ·Bᵢ·Aᵢ of one layer as two factors.

    Ranks are put beside each other: [w₁s₁B₁ w₂s₂B₂ ...] · [A₁; A₂; ...] is the sum, whatever the ranks are, because no
    Bᵢ meets the A of another adapter. Adding the Aᵢ and adding the Bᵢ would not give the sum: (B₁ + B₂)(A₁ + A₂) also
    has the terms B₁A₂ and B₂A₁.

    Args:
        adapters: at least one of them changes the layer.
        module: Hugging Face name of the layer.

    Returns:
        A float32 [Σr, in] and B float32 [out, Σr], with ΔW = B·A.
    """
    updates = [adapter.update(module) for adapter in adapters if module in adapter.modules]
    return np.concatenate([a for a, _ in updates]), np.concatenate([b for _, b in updates], axis=1)


@dataclass(frozen=True)
class Truncated:
    """A lower-rank update and what it leaves out.

    Attributes:
        a: float32 [rank, in].
        b: float32 [out, rank].
        norm: Frobenius norm of the update before.
        lost: Frobenius norm of the difference.
    """

    a: np.ndarray
    b: np.ndarray
    norm: float
    lost: float

    @property
    def error(self) -> float:
        """Lost part of the update, 0 to 1."""
        return self.lost / self.norm if self.norm else 0.0


def truncate(a: np.ndarray, b: np.ndarray, rank: int) -> Truncated:
    """Return the update of at most ``rank`` that is nearest to B·A in the Frobenius norm (Eckart-Young).

    The singular values of B·A are those of the small core R_b·R_aᵀ, where B = Q_b·R_b and Aᵀ = Q_a·R_a: the full
    [out, in] matrix is never made. An update whose rank is low enough stays as it is.

    Args:
        a: float32 [r, in].
        b: float32 [out, r].
        rank: of the result.

    Returns:
        The two factors and what was left out; their rank is lower where the layer is narrower than ``rank``.
    """
    # float64: the small singular values are what is cut off, and what the error is made of
    q_a, r_a = np.linalg.qr(a.T.astype(np.float64))
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    # [r, r] at most: Q_a and Q_b keep lengths, so that its singular values are those of B·A
    left, values, right = np.linalg.svd(r_b @ r_a.T)
    norm = float(np.linalg.norm(values))
    # after the norm, which the error over all layers needs
    if len(a) <= rank:
        return Truncated(a, b, norm, 0.0)
    # a narrow layer has fewer singular values than the rank that is asked for
    kept = min(rank, len(values))
    # half of each singular value on either side, so that A and B stay of like size for a type of little range
    root = np.sqrt(values[:kept])
    new_a = (root[:, None] * right[:kept]) @ q_a.T
    new_b = (q_b @ left[:, :kept]) * root
    lost = float(np.linalg.norm(values[kept:]))
    return Truncated(new_a.astype(np.float32), new_b.astype(np.float32), norm, lost)


@dataclass(frozen=True)
class Summed:
    """What a weighted sum became.

    Attributes:
        ranks: rank by layer.
        errors: by layer, the part of the update that truncation left out, 0 to 1 in the Frobenius norm.
        error: the same over all layers together.
    """

    ranks: dict[str, int]
    errors: dict[str, float]
    error: float


def write_sum(adapters: Sequence[Adapter], folder: Path, rank: int | None, dtype: str | None) -> Summed:
    """Write the weighted sum ΔW = Σ wᵢ·sᵢ·Bᵢ·Aᵢ as an adapter whose scaling is 1.

    Args:
        adapters: what to add, with their weights.
        folder: an existing directory.
        rank: cut every layer to this rank; None keeps the exact sum.
        dtype: type of the factors; None: float32.

    Returns:
        Ranks, and what truncation left out.

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
                # squares add up over layers, norms do not
                norms, losses = norms + cut.norm**2, losses + cut.lost**2
            ranks[module] = len(a)
            for letter, factor in (("A", a), ("B", b)):
                if not np.isfinite(factor).all():
                    raise UserError(f"{module}: the weighted sum is not finite; the weights are too large")
                name = f"base_model.model.{module}.lora_{letter}.weight"
                writer.add(name, round_to(factor, dtype, name))
    write_json(folder / ADAPTER_CONFIG, summed_config(adapters, ranks))
    return Summed(ranks, errors, float(np.sqrt(losses / norms)) if norms else 0.0)


def summed_config(adapters: Sequence[Adapter], ranks: dict[str, int]) -> dict[str, Any]:
    """Return ``adapter_config.json`` of a sum: an adapter with scaling 1, alpha being the rank of each layer.

    Args:
        adapters: what was added; base, task and targets are theirs.
        ranks: rank by Hugging Face name of the layer.
    """
    # the most frequent rank goes into r, the others into patterns; of two as frequent the larger, always the same
    common = max(set(ranks.values()), key=lambda r: (list(ranks.values()).count(r), r))
    others = _short_patterns({module: rank for module, rank in ranks.items() if rank != common}, ranks)
    base = next((adapter.base_name for adapter in adapters if adapter.base_name), None)
    task = next((a.config["task_type"] for a in adapters if a.config.get("task_type")), "CAUSAL_LM")
    targets = target_modules(adapters)
    # alpha = rank in each layer, by the same patterns: scaling 1, since the weights are in B
    return peft_config(common, common, 0.0, targets, base, alpha_pattern=others, rank_pattern=others, task_type=task)


def _short_patterns(others: dict[str, int], ranks: dict[str, int]) -> dict[str, int]:
    """Shorten a rank pattern: ``q_proj: 12`` where that layer has this rank everywhere, full names elsewhere.

    Args:
        others: rank by full name, of the layers that do not have the common rank.
        ranks: rank by full name, of all layers.
    """
    short: dict[str, int] = {}
    for module, rank in others.items():
        last = module.rpartition(".")[2]
        everywhere = {r for name, r in ranks.items() if name.rpartition(".")[2] == last} == {rank}
        short[last if everywhere else module] = rank
    return short


def target_modules(adapters: Sequence[Adapter]) -> list[str]:
    """Return ``target_modules`` of a sum: short names if each adapter covers the whole model, else every layer by name.

    A short name such as ``q_proj`` makes peft adapt that layer in the whole model. So short names are used only if
    every adapter chose its layers in this way.
    """
    if all(_short(adapter) for adapter in adapters):
        last = {module.rpartition(".")[2] for adapter in adapters for module in adapter.modules}
        return sorted(last)
    return sorted(all_modules(adapters))


def _short(adapter: Adapter) -> bool:
    """Say whether an adapter chooses its layers by short names, and in the whole model."""
    chosen = adapter.config.get("target_modules")
    # 0 is the first layer alone
    narrowed = any(adapter.config.get(key) not in (None, []) for key in ("layers_to_transform", "exclude_modules"))
    return isinstance(chosen, list) and not narrowed and {m.rpartition(".")[2] for m in adapter.modules} == set(chosen)


def check_same_base(adapters: Sequence[Adapter], *, allow: bool) -> None:
    """Refuse to add adapters of different bases, as far as bases are recorded.

    Args:
        adapters: to add; each is compared with the first.
        allow: print a note about different bases instead of refusing them.

    Raises:
        UserError: two records differ and ``allow`` is not set.
    """
    first = adapters[0]
    for other in adapters[1:]:
        pair = (first.base_fingerprint, other.base_fingerprint)
        if None in pair:
            # without both hashes, the names of the bases are all there is
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
