"""Arithmetic on one tensor at a time: float32 in between, one rounding at the end, every value finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.weights.safetensors_files import numpy_types
from converters.common.errors import UserError

BLOCK = 2**22  # numbers that are worked on at a time: 16 MiB in float32
# unit roundoff: the largest relative error of one rounding to nearest
ROUNDOFF = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
# exponent bits; all of them set is an infinity or a NaN
_EXPONENT: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
NAMES = {short: name for name, short in DTYPES.items()}


def rows_in_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis into pieces of about :data:`BLOCK` numbers."""
    width = int(np.prod(shape[1:], dtype=np.int64)) if shape else 1
    step = max(1, BLOCK // max(1, width))
    for start in range(0, shape[0] if shape else 0, step):
        yield slice(start, min(start + step, shape[0]))


def is_finite(values: np.ndarray, kind: str) -> bool:
    """Say whether no value is a NaN or an infinity; types without them are always finite.

    Args:
        values: a tensor.
        kind: its type as safetensors names it.
    """
    if kind not in _EXPONENT:
        return True
    word, mask = _EXPONENT[kind]
    bits = np.ascontiguousarray(values).reshape(-1).view(word)
    # read as signed after a shift by one, a full exponent is the largest there is: one maximum instead of a mask
    top = mask << 1
    return all(int((bits[at : at + BLOCK] << 1).max()) < top for at in range(0, len(bits), BLOCK))


def cast(values: np.ndarray, kind: str, to: str | None, name: str) -> np.ndarray:
    """Round a tensor of finite floats to another type; integers stay what they are.

    Raises:
        UserError: a value is too large for it.
    """
    if to is None or kind not in ROUNDOFF or kind == to:
        return values
    out = np.empty(values.shape, numpy_types()[to])
    flat, rounded = values.reshape(-1), out.reshape(-1)
    for at in range(0, flat.size, BLOCK):
        # a value that does not fit becomes an infinity, which is looked for below: numpy need not warn
        with np.errstate(over="ignore"):
            rounded[at : at + BLOCK] = flat[at : at + BLOCK].astype(np.float32).astype(out.dtype)
    if not is_finite(out, to):
        raise UserError(f"{name}: a value is too large for {NAMES[to]}; --dtype bfloat16 has the room of float32")
    return out


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

    def to_json(self) -> dict[str, float]:
        """Return the figures with six digits."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items()}


def add_update(weight: np.ndarray, a: np.ndarray, b: np.ndarray, to: str, name: str) -> tuple[np.ndarray, Change]:
    """Return round(W + B·A): products and sums in float32, then one rounding.

    Args:
        weight: W [out, in] in float32, float16 or bfloat16.
        a: float32 [r, in].
        b: float32 [out, r], scaling and weights in it.
        to: type of the result as safetensors names it.
        name: of the tensor, for errors.

    Raises:
        UserError: a result is not finite.
    """
    out = np.empty(weight.shape, numpy_types()[to])
    squares = np.zeros(3)
    largest, highest = 0.0, 0.0
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
    if not is_finite(out, to):
        raise UserError(f"{name}: the sum is not finite in {NAMES[to]}; --dtype float32 or bfloat16 has more room")
    base, update, rounding = np.sqrt(squares)
    return out, Change(_ratio(update, base), _ratio(rounding, update), _ratio(largest, highest))


def _square(values: np.ndarray) -> float:
    return float(np.vdot(values, values))


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0
