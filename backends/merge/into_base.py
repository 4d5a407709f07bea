"""Merging into a base: W' = round(W + Σ wᵢ·sᵢ·Bᵢ·Aᵢ), a tensor at a time from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from backends.merge.adapters import Adapter, all_modules
from backends.merge.base import EMBEDDING, HEAD, Base, source_of
from backends.merge.lowrank import summed
from backends.merge.rounding import ROUNDOFF, Change, add_update, cast, is_finite
from converters.common.console import progress
from converters.common.errors import UserError


def unties(base: Base, adapters: Sequence[Adapter]) -> bool:
    """Say whether the output layer is the embedding matrix in the base and must part from it.

    An adapter on a tied ``lm_head`` changes what comes out and not what goes in, so that the merged model needs two
    matrices.
    """
    return base.tied and HEAD in all_modules(adapters)


class Writer(Protocol):
    """What takes tensors one by one: a safetensors or a MindSpore file."""

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one tensor."""


def write_merged(base: Base, adapters: Sequence[Adapter], writer: Writer, dtype: str | None) -> dict[str, Change]:
    """Write the merged weights and return what changed, by layer.

    Besides buffers of some MiB, memory holds one tensor as read and as written.

    Args:
        base: what to merge into.
        adapters: what to add; they fit it (:func:`backends.merge.base.check_fit`).
        writer: where to.
        dtype: type of all floating-point tensors as safetensors names it; None leaves each as it is.

    Raises:
        UserError: a value in the base or a result is not finite, or the disk is full.
    """
    modules = {base.weight_name(module): module for module in all_modules(adapters)}
    head = base.weight_name(HEAD)
    changes: dict[str, Change] = {}
    for name in progress(base.tensors, total=len(base.tensors), desc="merge", unit="tensor"):
        weight = _read(base, name)
        if name == base.weight_name(EMBEDDING) and unties(base, adapters):
            merged, changes[HEAD] = _merged(base, adapters, weight, HEAD, dtype)
            writer.add(head, merged)
        if name == head and HEAD in changes:
            continue  # some tied models store a second copy of the embedding; the head has been written
        module = modules.get(name)
        if module is not None:
            merged, changes[module] = _merged(base, adapters, weight, module, dtype)
        else:
            merged = cast(weight, base.tensors.dtype(name), dtype, name)
        writer.add(name, merged)
    return changes


def _read(base: Base, name: str) -> np.ndarray:
    weight, kind = base.tensors.read(name), base.tensors.dtype(name)
    if not is_finite(weight, kind):
        file = base.tensors.entries[name].file
        raise UserError(f"{file}: {name} holds a NaN or an infinity; the base is damaged, copy or download it again")
    return weight


def _merged(
    base: Base, adapters: Sequence[Adapter], weight: np.ndarray, module: str, dtype: str | None
) -> tuple[np.ndarray, Change]:
    a, b = summed(adapters, module)
    kind = base.tensors.dtype(source_of(base, module))
    return add_update(weight, a, b, dtype or kind, module)


def rounding_costs(changes: dict[str, Change]) -> tuple[float, str]:
    """Return the largest part of an update that the rounding changed, and the layer where it did."""
    worst = max(changes, key=lambda module: changes[module].rounding)
    return changes[worst].rounding, worst


def written_kinds(base: Base, dtype: str | None) -> set[str]:
    """Return the floating-point types that the output has."""
    kinds = {base.tensors.dtype(name) for name in base.tensors} & ROUNDOFF.keys()
    return {dtype} if dtype else kinds
