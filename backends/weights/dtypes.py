"""Types of stored numbers: their names in safetensors, in numpy, and in recipes, configurations and commands.

Command lines offer the names: numpy is imported when numbers are touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from converters.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# name in recipes, config.json and options → name in safetensors
FLOATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
FLOAT_NAMES = {short: name for name, short in FLOATS.items()}
# unit roundoff: the largest relative error of one rounding to nearest
ROUNDOFF = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
BLOCK = 2**22  # elements that are converted at a time: 16 MiB in float32, so that memory holds one tensor and no copy
# exponent bits; all of them set is an infinity or a NaN
_EXPONENT = {"F32": ("uint32", 0x7F800000), "F16": ("uint16", 0x7C00), "BF16": ("uint16", 0x7F80)}


@cache
def numpy_types() -> dict[str, np.dtype[Any]]:
    """Map the types of safetensors to numpy's; those that numpy lacks (bfloat16) are of ``ml_dtypes``."""
    # imported here: command lines that only offer the names do not wait for numpy
    import ml_dtypes
    import numpy as np

    types: dict[str, Any] = {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }
    return {name: np.dtype(kind) for name, kind in types.items()}


def type_name(dtype: np.dtype[Any]) -> str:
    """Return the name that safetensors has for a numpy type, such as ``BF16``.

    Raises:
        UserError: it has none.
    """
    for name, known in numpy_types().items():
        if known == dtype:
            return name
    raise UserError(f"safetensors has no type for {dtype}")


def rows_in_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the first axis of a shape into slices of about :data:`BLOCK` numbers each, at least one row."""
    width = math.prod(shape[1:])
    # a row may be wider than a block, or have no columns at all
    step = max(1, BLOCK // max(1, width))
    for start in range(0, shape[0] if shape else 0, step):
        yield slice(start, min(start + step, shape[0]))


def is_finite(values: np.ndarray) -> bool:
    """Say whether no value is a NaN or an infinity; types without them are always finite."""
    import numpy as np

    short = next((name for name in _EXPONENT if numpy_types()[name] == values.dtype), None)
    if short is None:
        return True
    word, mask = _EXPONENT[short]
    bits = np.ascontiguousarray(values).reshape(-1).view(word)
    # read as signed after a shift by one, a full exponent is the largest there is: one maximum instead of a mask
    top = mask << 1
    return all(int((bits[at : at + BLOCK] << 1).max()) < top for at in range(0, len(bits), BLOCK))


def round_to(values: np.ndarray, dtype: str | None, name: str) -> np.ndarray:
    """Round a tensor to another type, to the nearest and ties to even, by way of float32; integers stay what they are.

    Args:
        values: any shape.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps the type.
        name: of the tensor, for errors.

    Returns:
        The same shape; the tensor itself where nothing has to be rounded.

    Raises:
        UserError: a finite number would become infinite.
    """
    import numpy as np

    # integers are asked for, because bfloat16 of ml_dtypes is of kind V and not f
    if dtype is None or values.dtype.kind in "biu":
        return values
    target = numpy_types()[FLOATS[dtype]]
    if values.dtype == target:
        return values
    rounded = np.empty(values.shape, target)
    # rounded is new and contiguous, so that out is a view of it
    flat, out = values.reshape(-1), rounded.reshape(-1)
    for at in range(0, flat.size, BLOCK):
        part = flat[at : at + BLOCK]
        # a number that does not fit becomes an infinity, which is looked for here: numpy need not warn
        with np.errstate(over="ignore"):
            out[at : at + BLOCK] = part.astype(np.float32).astype(target)
        if not is_finite(out[at : at + BLOCK]):
            # an infinity of the input may stay; one that rounding made is an error
            finite = np.isfinite(part)
            if not np.isfinite(out[at : at + BLOCK][finite]).all():
                largest = np.abs(part[finite].astype(np.float64)).max()
                raise UserError(f"{name}: {largest:.4g} does not fit {dtype}; choose bfloat16 or float32")
    return rounded
