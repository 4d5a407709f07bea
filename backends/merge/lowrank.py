"""Sums of low-rank updates, and the best approximation of one by another of lower rank.

Legend: r rank, in and out the widths of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.merge.adapters import Adapter


def summed(adapters: Sequence[Adapter], module: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact sum ΔW = Σ wᵢ·sᵢ·Bᵢ·Aᵢ of one layer as two factors.

    Ranks are put beside each other: [w₁s₁B₁ w₂s₂B₂ ...] · [A₁; A₂; ...] is the sum, whatever the ranks are, because no
    term meets another. (Adding the Aᵢ and adding the Bᵢ is not: (B₁ + B₂)(A₁ + A₂) has B₁A₂ and B₂A₁ in it.)

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
    """
    q_a, r_a = np.linalg.qr(a.T.astype(np.float64))
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    left, values, right = np.linalg.svd(r_b @ r_a.T)
    norm = float(np.linalg.norm(values))
    if len(a) <= rank:
        return Truncated(a, b, norm, 0.0)
    kept = min(rank, len(values))
    root = np.sqrt(values[:kept])
    new_a = (root[:, None] * right[:kept]) @ q_a.T
    new_b = (q_b @ left[:, :kept]) * root
    lost = float(np.linalg.norm(values[kept:]))
    return Truncated(new_a.astype(np.float32), new_b.astype(np.float32), norm, lost)
