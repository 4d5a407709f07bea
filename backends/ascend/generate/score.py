"""Log-probabilities on MindSpore: of a few possible answers to a prompt, and of the supervised tokens of whole rows.

Shapes: b rows of the batch, t tokens of a row, k logits looked at in a row, c choices, m supervised tokens of the
batch, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.ascend.generate.cached_forward import CachedForward
from backends.generation.choice_layout import ChoiceLayout
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2**28  # numbers in the logits of a batch: a gigabyte in float32


def choice_scores(
    forward: CachedForward, layout: ChoiceLayout, prompts: Sequence[list[int]], pad_id: int
) -> list[list[float]]:
    """Return the summed log-probability of each choice after each prompt, float64 [b, c]."""
    ids, positions, real = layout.inputs(prompts, pad_id)
    b, t = ids.shape
    wanted = np.arange(b)[:, None] * t + np.arange(t - layout.size, t)
    logits, _ = forward.run(ids, positions, layout.sees(real), wanted.ravel(), forward.empty(b))
    logits = logits.reshape(b, layout.size, -1)
    token, column, owner = layout.targets
    found = logits[:, column, token] - log_sum_exp(logits)[:, column]
    scores = np.zeros((b, layout.count))
    np.add.at(scores.T, owner, found.T)
    return scores.tolist()


def row_losses(forward: CachedForward, inputs: np.ndarray, targets: np.ndarray) -> list[float]:
    """Return each row's Σ −log p of its targets, in nats; both are int64 [b, t], padded on the right."""
    b, t = inputs.shape
    # padding lies behind, where nothing that counts sees it
    sees = np.broadcast_to(np.tril(np.ones((t, t), dtype=bool)), (b, t, t))
    positions = np.broadcast_to(np.arange(t), (b, t))
    row, column = np.nonzero(targets != IGNORE_INDEX)
    logits, _ = forward.run(inputs, positions, sees, row * t + column, forward.empty(b))
    found = log_sum_exp(logits) - logits[np.arange(len(row)), targets[row, column]]
    return np.bincount(row, weights=found, minlength=b).tolist()


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Return log Σ exp over the last axis, float64."""
    top = logits.max(-1, keepdims=True)
    return np.log(np.exp(logits - top).sum(-1, dtype=np.float64)) + top[..., 0]
