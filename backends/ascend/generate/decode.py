"""Batched decoding on MindSpore, with keys and values kept: the same answers as the torch backend's.

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from backends.ascend.generate.cached_forward import CachedForward
from backends.generation.base_generator import Batch
from backends.generation.types import Limits, Sampling


class MindSporeBatch(Batch):
    """Rows being answered together by mindformers' Llama; all but the forward pass is numpy.

    Args:
        forward: the model.
        rows: token ids of the prompts, by the caller's numbers.
        pad_id: fills the left of shorter prompts.
        stop_ids: tokens that end an answer.
        limits: how long answers may and must be.
        sampling: how tokens are chosen.
    """

    library: ClassVar = np

    def __init__(
        self,
        forward: CachedForward,
        rows: Mapping[int, list[int]],
        pad_id: int,
        stop_ids: Sequence[int],
        limits: Limits,
        sampling: Sampling,
    ) -> None:
        super().__init__(rows, pad_id, stop_ids, limits, sampling)
        self.forward = forward
        self.cache = forward.empty(len(rows))

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return the array: it stays where it is."""
        return values

    def next_logits(self) -> np.ndarray:
        """Return the logits of the next token, float32 [b, v]; no other position's are ever computed.

        Raises:
            DeviceFull: the memory does not suffice.
        """
        b, s = self.prompt.shape
        if self.n:
            ids, new = self.tokens[:, self.n - 1 : self.n], slice(s + self.n - 1, s + self.n)
            sees = self.mask[:, None, : s + self.n]
        else:
            ids, new = self.prompt, slice(0, s)
            # padding sees itself: a row that sees nothing would be no number
            causal = np.tril(np.ones((s, s), dtype=bool))
            sees = causal & self.mask[:, None, :s] | np.eye(s, dtype=bool)
        last = np.arange(1, b + 1) * ids.shape[1] - 1
        logits, self.cache = self.forward.run(ids, self.positions[:, new], sees, last, self.cache)
        # where stop tokens are forbidden, they are written over: not in the device's own memory
        return logits.copy() if self.n < self.limits.min_new else logits

    def sample(self, logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw one token a row, [b]."""
        return sample(logits, self.sampling, uniforms)

    def keep_cache(self, rows: np.ndarray | None) -> None:
        """Keep keys and values of these rows only; None forgets all."""
        self.cache = self.forward.empty(1) if rows is None else self.forward.keep(self.cache, rows)


def sample(logits: np.ndarray, sampling: Sampling, uniforms: np.ndarray) -> np.ndarray:
    """Draw one token a row by inverting the cumulative distribution; the torch backend's, in numpy.

    Args:
        logits: [b, v].
        sampling: temperature above 0, top_k, top_p.
        uniforms: [b] random numbers in [0, 1).
    """
    logits = logits.astype(np.float32) / np.float32(sampling.temperature)
    kept = min(sampling.top_k or logits.shape[1], logits.shape[1])
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :kept]
    logits = np.take_along_axis(logits, order, -1)
    probabilities = np.exp(logits - logits[:, :1])
    probabilities /= probabilities.sum(-1, keepdims=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p] = 0
    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # rounding may put the target on the very end, behind the last token that has a probability
    last = (probabilities > 0).sum(-1) - 1
    pick = np.minimum((cumulative <= target).sum(-1), last)
    return np.take_along_axis(order, pick[:, None], -1)[:, 0]
