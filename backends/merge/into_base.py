"""Merging into a base: W' = round(W + Σ wᵢ·sᵢ·Bᵢ·Aᵢ), a tensor at a time from file to file.

Sums are float32, there is one rounding at the end, and every value is finite. Legend: r rank, in and out the widths of
the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.merge.adapters import Adapter, all_modules
from backends.merge.base import EMBEDDING, HEAD, Base
from backends.merge.combine import summed
from backends.weights.dtypes import (
    FLOAT_NAMES,
    FLOATS,
    ROUNDOFF,
    is_finite,
    numpy_types,
    round_to,
    rows_in_blocks,
    type_name,
)
from backends.weights.mindspore_ckpt import CkptWriter
from backends.weights.safetensors_files import ShardWriter
from converters.common.console import progress
from converters.common.errors import UserError

# layers that are looked at before a merge: a run's layers lose about the same
_SAMPLED = 4


@dataclass(frozen=True)
class Change:
    """What merging did to one tensor; norms are Frobenius norms.

    Attributes:
        update: norm of ΔW relative to that of W.
        rounding: norm of what the one rounding changed, relative to that of ΔW: 0.03 means that 3 % of the update
            were lost or added.
        largest: largest change of a value, relative to the largest value of W.
    """

    update: float
    rounding: float
    largest: float

    def as_json(self) -> dict[str, float]:
        """Return the figures with six digits."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items()}


def add_update(
    weight: np.ndarray, a: np.ndarray, b: np.ndarray, dtype: str | None, name: str
) -> tuple[np.ndarray, Change]:
    """Return round(W + B·A): products and sums in float32, then one rounding.

    Args:
        weight: W [out, in] in float32, float16 or bfloat16.
        a: float32 [r, in].
        b: float32 [out, r], scaling and weights in it.
        dtype: type of the result; None is that of W.
        name: of the tensor, for errors.

    Returns:
        The sum [out, in] in the new type, and how large update and rounding were.

    Raises:
        UserError: a result is not finite.
    """
    out = np.empty(weight.shape, numpy_types()[FLOATS[dtype]] if dtype else weight.dtype)
    squares = np.zeros(3)
    largest, highest = 0.0, 0.0
    # by blocks: the whole of B·A in float32 would be twice the size of a 16-bit weight
    for rows in rows_in_blocks(weight.shape):
        # what is not finite is looked for below: numpy need not warn
        with np.errstate(over="ignore", invalid="ignore"):
            before = weight[rows].astype(np.float32)
            change = b[rows] @ a
            exact = before + change
            out[rows] = exact.astype(out.dtype)
            lost = out[rows].astype(np.float32) - exact
            squares += [_square(before), _square(change), _square(lost)]
        largest = max(largest, float(np.abs(change).max(initial=0.0)))
        highest = max(highest, float(np.abs(before).max(initial=0.0)))
    if not is_finite(out):
        kind = FLOAT_NAMES[type_name(out.dtype)]
        raise UserError(f"{name}: the sum is not finite in {kind}; --dtype float32 or bfloat16 has more room")
    base, update, rounding = np.sqrt(squares)
    return out, Change(_ratio(update, base), _ratio(rounding, update), _ratio(largest, highest))


def _square(values: np.ndarray) -> float:
    return float(np.vdot(values, values))


def _ratio(part: Any, whole: Any) -> float:
    # weights of zeros, or an update of zeros, have no ratio
    return float(part / whole) if whole else 0.0


def unties(base: Base, adapters: Sequence[Adapter]) -> bool:
    """Say whether the output layer is tied to the embedding in the base and cannot stay so.

    An adapter on a tied ``lm_head`` changes the output and not the embedding, so the merged model needs two matrices.
    """
    return base.tied and HEAD in all_modules(adapters)


def expected_rounding(base: Base, adapters: Sequence[Adapter], dtype: str | None) -> float:
    """Return what rounding changes of the update relative to its norm, the most of a few layers; nothing is written.

    Args:
        base: what to merge into.
        adapters: what to add; they fit it (:func:`backends.merge.base.check_fit`).
        dtype: type of all floating-point tensors; None leaves each as it is.

    Raises:
        UserError: a value in the base or a result is not finite.
    """
    # a head that parts from the embedding has no weight of its own in the base
    modules = [module for module in all_modules(adapters) if base.weight_name(module) in base.tensors]
    few = modules[:: -(-len(modules) // _SAMPLED) or 1]
    return max(
        (
            add_update(_read(base, base.weight_name(module)), *summed(adapters, module), dtype, module)[1].rounding
            for module in few
        ),
        default=0.0,
    )


def write_merged(
    base: Base, adapters: Sequence[Adapter], writer: CkptWriter | ShardWriter, dtype: str | None
) -> dict[str, Change]:
    """Write the merged weights, and return how much each layer changed.

    Besides buffers of some MiB, memory holds one tensor as read and as written.

    Args:
        base: what to merge into.
        adapters: what to add; they fit it (:func:`backends.merge.base.check_fit`).
        writer: where to.
        dtype: type of all floating-point tensors; None leaves each as it is.

    Returns:
        Size of update and rounding by Hugging Face name of the layer, for the layers that an adapter changes.

    Raises:
        UserError: a value in the base or a result is not finite, or the disk is full.
    """
    # adapters name layers as Hugging Face does, a mindformers base names its weights otherwise
    modules = {base.weight_name(module): module for module in all_modules(adapters)}
    head = base.weight_name(HEAD)
    changes: dict[str, Change] = {}
    for name in progress(base.tensors, total=len(base.tensors), desc="merge", unit="tensor"):
        weight = _read(base, name)
        # the head is written beside the embedding that it parts from, while that is in memory
        if name == base.weight_name(EMBEDDING) and unties(base, adapters):
            merged, changes[HEAD] = add_update(weight, *summed(adapters, HEAD), dtype, HEAD)
            writer.add(head, merged)
        if name == head and HEAD in changes:
            continue  # some tied models store a second copy of the embedding; the head has been written
        module = modules.get(name)
        if module is not None:
            merged, changes[module] = add_update(weight, *summed(adapters, module), dtype, module)
        else:
            # other types (tables of integers) have nothing to round
            merged = round_to(weight, dtype, name) if base.tensors.dtype(name) in ROUNDOFF else weight
        writer.add(name, merged)
    return changes


def _read(base: Base, name: str) -> np.ndarray:
    weight = base.tensors.read(name)
    if not is_finite(weight):
        file = base.tensors.entries[name].file
        raise UserError(f"{file}: {name} holds a NaN or an infinity; the base is damaged, copy or download it again")
    return weight
