"""Batched decoding on torch, with a KV cache.

An answer is the same in any batch, up to rounding: in bfloat16 two nearly equal logits may change places when the batch
has another shape.

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.one_token import RoomyCache
from backends.generation.base_generator import Batch
from backends.generation.types import Answer, Limits, Sampling


class TorchBatch(Batch):
    """Rows being answered together by a Hugging Face causal model.

    Args:
        model: the model, in evaluation mode on its device.
        rows: token ids of each prompt, by the number that the caller gave it.
        pad_id: fills the left of shorter prompts.
        stop_ids: tokens that end an answer.
        limits: how long answers may and must be.
        sampling: how tokens are chosen.
        use_cache: keep keys and values; without them every step reads the whole text again.
        pass_tokens: tokens of prompts that one forward pass reads; None reads all prompts at once.

    Attributes:
        mask: int64 [b, s + limits.max_new]; None where all prompts have one length.
        bias: added to the attention scores of one new token, [b, 1, 1, s + limits.max_new]: 0 where it may look, else
            the lowest number of the type. None without padding, or where layers differ in what they see.
    """

    library = torch
    mask_type = np.int64
    row_fields = (*Batch.row_fields, "bias")

    def __init__(
        self,
        model: Any,
        rows: Mapping[int, list[int]],
        pad_id: int,
        stop_ids: Sequence[int],
        limits: Limits,
        sampling: Sampling,
        *,
        use_cache: bool = True,
        pass_tokens: int | None = None,
    ) -> None:
        self.model, self.pass_tokens = model, pass_tokens
        super().__init__(rows, pad_id, stop_ids, limits, sampling)
        # without padding no mask is needed, and torch takes its faster kernels where there is none
        if len(set(map(len, self.prompts))) == 1:
            self.mask = None
        self.bias = self._additive_mask()
        self.cache: RoomyCache | None = RoomyCache(len(rows), self.positions.shape[1]) if use_cache else None

    def array(self, values: np.ndarray) -> Tensor:
        """Copy a NumPy array to the model's device."""
        return torch.from_numpy(values).to(self.model.device)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Answer]]:
        """Add one token to every row; see :meth:`Batch.step`."""
        return super().step()

    def next_logits(self) -> Tensor:
        """Return the logits of the next token only, [b, v]."""
        if self.cache is None:
            ids = torch.cat([self.prompt, self.tokens[:, : self.n]], 1)
            return self._forward(slice(None), ids, 0, self.mask)
        if self.n == 0:
            return self._read()
        # the cache holds all earlier tokens: only the newest is read
        mask = self.mask if self.bias is None else self.bias
        return self._forward(slice(None), self.tokens[:, self.n - 1 : self.n], self.prompt.shape[1] + self.n - 1, mask)

    def _read(self) -> Tensor:
        """Read the prompts, a few rows in each forward pass where passes must be short; return logits [b, v]."""
        b, s = self.prompt.shape
        assert self.cache is not None
        at_once = max(1, self.pass_tokens // s) if self.pass_tokens else b
        logits = []
        for first in range(0, b, at_once):
            rows = slice(first, first + at_once)
            self.cache.fill(rows)
            logits.append(self._forward(rows, self.prompt[rows], 0, None if self.mask is None else self.mask[rows]))
            self.on_read(sum(map(len, self.prompts[rows])))
        self.cache.filled()
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _forward(self, rows: slice, ids: Tensor, start: int, mask: Tensor | None) -> Tensor:
        """Return the logits behind the last of new tokens.

        Args:
            rows: of the batch, n of them.
            ids: the new tokens, int64 [n, new].
            start: column of the first of them.
            mask: of these rows, for all columns.

        Returns:
            [n, v].
        """
        end = start + ids.shape[1]
        output = self.model(
            input_ids=ids,
            attention_mask=None if mask is None else mask[..., :end],
            position_ids=self.positions[rows, start:end],
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            # logits of every prompt position would be the largest tensor of the batch
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def sample(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Draw one token per row; see :meth:`Batch.sample`."""
        return sample(logits, self.sampling, uniforms)

    def keep_cache(self, rows: Tensor | None) -> None:
        """Reduce keys and values to these rows, int64 [rows left]; None drops them all."""
        if rows is None:
            self.cache = None
        elif self.cache is not None:
            self.cache.batch_select_indices(rows)

    def _additive_mask(self) -> Tensor | None:
        """Return the mask of one new token, [b, 1, 1, s + new]; None without padding or where layers see differently.

        transformers uses a mask of four dimensions as it is. From one of two it would build this one at every step.
        """
        if self.mask is None or obstacle_to_packing(self.model.config, self.mask.shape[1]):
            return None
        # not -inf: softmax over a row of -inf alone would be NaN
        hidden = torch.finfo(self.model.dtype).min
        bias = torch.zeros(self.mask.shape, dtype=self.model.dtype, device=self.mask.device)
        # [b, s + new] → [b, 1, 1, s + new]
        return bias.masked_fill_(self.mask == 0, hidden)[:, None, None]


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution.

    top_k keeps the k likeliest tokens (Fan et al. 2018); of these, top_p keeps the fewest whose probabilities sum to at
    least p (nucleus sampling, Holtzman et al. 2020).

    Args:
        logits: [b, v].
        sampling: temperature above 0, top_k, top_p.
        uniforms: [b] random numbers in [0, 1).

    Returns:
        Token ids, int64 [b].
    """
    logits = logits.float() / sampling.temperature
    kept = min(sampling.top_k or logits.shape[1], logits.shape[1])
    logits, order = logits.topk(kept, dim=-1)  # [b, kept], in descending order, which top_p needs
    probabilities = logits.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # the sum before a token decides, so the token that crosses top_p is kept, and always the first one
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    # scaling the random number saves dividing all probabilities by what is left of their sum
    target = uniforms[:, None] * cumulative[:, -1:]
    # rounding may put the target on the very end, behind the last token that has a probability
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    pick = torch.minimum(torch.searchsorted(cumulative, target, right=True), last)
    return order.gather(1, pick)[:, 0]
