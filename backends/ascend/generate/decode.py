"""Batched decoding on MindSpore, with a cache of keys and values: the same answers as the torch backend's.

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
        rows: token ids of each prompt, by the number that the caller gave it.
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
        """Return the array itself: numpy computes on the CPU."""
        return values

    def next_logits(self) -> np.ndarray:
        """Return the logits of the next token only, float32 [b, v].

        Raises:
            DeviceFull: the memory does not suffice.
        """
        b, s = self.prompt.shape
        if self.n:
            # the cache holds all earlier tokens: only the newest is read
            ids, new = self.tokens[:, self.n - 1 : self.n], slice(s + self.n - 1, s + self.n)
            sees = self.mask[:, None, : s + self.n]
        else:
            ids, new = self.prompt, slice(0, s)
            # padding attends to itself: softmax over a row without any visible token would be NaN
            causal = np.tril(np.ones((s, s), dtype=bool))
            sees = causal & self.mask[:, None, :s] | np.eye(s, dtype=bool)
        # the last new token of every row, as a place in the b · n tokens
        last = np.arange(1, b + 1) * ids.shape[1] - 1
        logits, self.cache = self.forward.run(ids, self.positions[:, new], sees, last, self.cache)
        if not self.n:
            self.on_read(sum(map(len, self.prompts)))
        # the caller writes over the logits of forbidden stop tokens; this memory is MindSpore's
        return logits.copy() if self.n < self.limits.min_new else logits

    def sample(self, logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw one token per row; see :meth:`Batch.sample`."""
        return sample(logits, self.sampling, uniforms)

    def keep_cache(self, rows: np.ndarray | None) -> None:
        """Reduce keys and values to these rows, int64 [rows left]; None drops them all."""
        self.cache = self.forward.empty(1) if rows is None else self.forward.keep(self.cache, rows)


def sample(logits: np.ndarray, sampling: Sampling, uniforms: np.ndarray) -> np.ndarray:
    """Draw one token per row by inverting the cumulative distribution; the torch backend's function, in numpy.

    Args:
        logits: [b, v].
        sampling: temperature above 0, top_k, top_p.
        uniforms: [b] random numbers in [0, 1).

    Returns:
        Token ids, int64 [b].
    """
    logits = logits.astype(np.float32) / np.float32(sampling.temperature)
    kept = min(sampling.top_k or logits.shape[1], logits.shape[1])
    # [b, kept], in descending order, which top_p needs; stable, so equal logits come by id
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :kept]
    logits = np.take_along_axis(logits, order, -1)
    # softmax; the first is the largest, so no exponential overflows
    probabilities = np.exp(logits - logits[:, :1])
    probabilities /= probabilities.sum(-1, keepdims=True)
    before = probabilities.cumsum(-1) - probabilities
    # the sum before a token decides, so the token that crosses top_p is kept, and always the first one
    probabilities[before >= sampling.top_p] = 0
    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # rounding may put the target on the very end, behind the last token that has a probability
    last = (probabilities > 0).sum(-1) - 1
    pick = np.minimum((cumulative <= target).sum(-1), last)
    return np.take_along_axis(order, pick[:, None], -1)[:, 0]
