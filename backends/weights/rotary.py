"""Rotary positions: the two orders of a head's rows, and the scaling of Llama 3.

Meta and llama.cpp rotate the pairs (2i, 2i + 1) of a head of width d, Hugging Face and mindformers the pairs
(i, i + d/2). One order becomes the other by reordering the rows of q and k (the permutation of transformers'
convert_llama_weights_to_hf.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def halves_from_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of a q or k projection from interleaved rotary pairs into halves.

    Args:
        weight: [heads · d, in], or a bias [heads · d]; rows 2i and 2i + 1 of a head turned together.
        heads: of q, or of k where there are fewer.

    Returns:
        The same shape, rows i and i + d/2 of a head turned together.
    """
    rows, *rest = weight.shape
    # [head, pair, which of the two, in] → [head, which of the two, pair, in]
    return weight.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def pairs_from_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of a q or k projection from halves into pairs; the inverse of :func:`halves_from_pairs`.

    Args:
        weight: [heads · d, in], or a bias [heads · d]; rows i and i + d/2 of a head turned together.
        heads: of q, or of k where there are fewer.

    Returns:
        The same shape, rows 2i and 2i + 1 of a head turned together.
    """
    rows, *rest = weight.shape
    # [head, which of the two, pair, in] → [head, pair, which of the two, in]
    halves = weight.reshape(heads, 2, rows // heads // 2, *rest)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, *rest)


def rotary_settings(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return the rotary base of a Hugging Face configuration, and how it is scaled.

    transformers 4 writes ``rope_theta`` and ``rope_scaling``, transformers 5 both in ``rope_parameters``.

    Args:
        config: content of ``config.json``.

    Returns:
        The base, and the keys of the scaling with ``rope_type``; empty where there is none.
    """
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    base = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    # older files call it "type"
    older = scaling.pop("type", None)
    kind = scaling.pop("rope_type", None) or older or "default"
    return float(base), {} if kind == "default" else {"rope_type": kind, **scaling}


def inverse_frequencies(config: dict[str, Any], head_dim: int) -> np.ndarray:
    """Return the angle that each pair turns by from one position to the next, float64 [d/2].

    Args:
        config: Hugging Face configuration; ``rope_scaling`` may be none, ``linear`` or ``llama3``.
        head_dim: d.

    Raises:
        ValueError: another scaling.
    """
    base, scaling = rotary_settings(config)
    plain = base ** (-np.arange(0, head_dim, 2) / head_dim)
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        return plain
    if kind == "linear":
        return plain / float(scaling["factor"])
    if kind == "llama3":
        return plain / llama3_divisors(scaling, base, head_dim)
    raise ValueError(f"rotary scaling {kind!r}")


def llama3_divisors(scaling: dict[str, Any], base: float, head_dim: int) -> np.ndarray:
    """Return by how much Llama 3 slows down each pair's rotation, float64 [d/2].

    The formula of transformers' ``_compute_llama3_parameters``; llama.cpp keeps the result as ``rope_freqs.weight``.

    Args:
        scaling: ``factor``, ``low_freq_factor``, ``high_freq_factor`` and ``original_max_position_embeddings``.
        base: rotary base.
        head_dim: d.
    """
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    # 0: slowed down by the whole factor; 1: as it was
    share = np.clip((float(scaling["original_max_position_embeddings"]) / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - share) / factor + share)


def llama3_scaling(divisors: np.ndarray, base: float, context: int) -> dict[str, Any] | None:
    """Find the ``rope_scaling`` whose divisors these are; the inverse of :func:`llama3_divisors`.

    The published pairs of factors are tried first. Otherwise the share of each pair is linear in its frequency, so a
    line through those that are neither 0 nor 1 gives the factors for the context that the file states.

    Args:
        divisors: [d/2], of ``rope_freqs.weight``.
        base: rotary base.
        context: positions that the model was trained on before it was scaled, if the file says so, else 8192.

    Returns:
        The scaling; None where no Llama 3 has such divisors.
    """
    head_dim = 2 * len(divisors)
    factor = float(divisors.max())
    # stored as float32, where 32 may be 31.999998
    factor = round(factor) if math.isclose(factor, round(factor), rel_tol=1e-5) else factor
    candidates = [(1.0, 4.0)]
    share = (1 / divisors - 1 / factor) / (1 - 1 / factor) if factor != 1 else np.zeros(0)
    inside = (share > 1e-4) & (share < 1 - 1e-4)
    if inside.sum() >= 2:
        turns = base ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
        slope, start = np.polyfit(turns[inside], share[inside], 1)
        # share = (context · turns − low) / (high − low)
        width = context / slope
        candidates.append((float(-start * width), float(-start * width + width)))
    for low, high in candidates:
        scaling = {
            "rope_type": "llama3",
            "factor": float(factor),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": context,
        }
        if np.allclose(llama3_divisors(scaling, base, head_dim), divisors, rtol=1e-4):
            return scaling
    return None
