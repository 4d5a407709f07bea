"""Batched decoding on torch, with a KV cache.

(An answer is the same in any batch to rounding: in bfloat16 two nearly equal logits may change places when the batch
has another shape.)

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.one_token import roomy_cache
from backends.generation.base_generator import Batch
from backends.generation.types import Answer, Limits, Sampling


class TorchBatch(Batch):
    """Rows being answered together by a Hugging Face causal model.

    Args:
        model: the model, in evaluation mode on its device.
        rows: token ids of the prompts, by the caller's numbers.
        pad_id: fills the left of shorter prompts.
        stop_ids: tokens that end an answer.
        limits: how long answers may and must be.
        sampling: how tokens are chosen.
        use_cache: keep keys and values; without, every step reads the whole text again.

    Attributes:
        mask: int64 [b, s + limits.max_new]; None where all prompts have one length.
        bias: the mask of one new token as what is added to its scores, [b, 1, 1, s + limits.max_new], or None.
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
    ) -> None:
        self.model = model
        super().__init__(rows, pad_id, stop_ids, limits, sampling)
        if len(set(map(len, self.prompts))) == 1:
            self.mask = None
        self.bias = self._additive_mask()
        self.cache: Any = roomy_cache(self.positions.shape[1]) if use_cache else None

    def array(self, values: np.ndarray) -> Tensor:
        """Bring an array to the model's device."""
        return torch.from_numpy(values).to(self.model.device)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Answer]]:
        """Choose one more token in every row; return the rows whose answer that finished."""
        return super().step()

    def next_logits(self) -> Tensor:
        """Return the logits of the next token, [b, v]; no other position's are ever computed."""
        end = self.prompt.shape[1] + self.n
        if self.cache is not None and self.n:
            ids, positions = self.tokens[:, self.n - 1 : self.n], self.positions[:, end - 1 : end]
            mask = self.mask if self.bias is None else self.bias
        else:
            ids, positions = torch.cat([self.prompt, self.tokens[:, : self.n]], 1), self.positions[:, :end]
            mask = self.mask
        output = self.model(
            input_ids=ids,
            attention_mask=None if mask is None else mask[..., :end],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def sample(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Draw one token a row, [b]."""
        return sample(logits, self.sampling, uniforms)

    def keep_cache(self, rows: Tensor | None) -> None:
        """Keep keys and values of these rows only; None forgets all."""
        if rows is None:
            self.cache = None
        elif self.cache is not None:
            self.cache.batch_select_indices(rows)

    def _additive_mask(self) -> Tensor | None:
        """Return the mask of one new token, [b, 1, 1, s + new], or None where layers differ in what they see.

        transformers takes a mask of four dimensions as it is; from one of two it would build this at every step.
        """
        if self.mask is None or obstacle_to_packing(self.model.config, self.mask.shape[1]):
            return None
        hidden = torch.finfo(self.model.dtype).min
        bias = torch.zeros(self.mask.shape, dtype=self.model.dtype, device=self.mask.device)
        return bias.masked_fill_(self.mask == 0, hidden)[:, None, None]


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution.

    Args:
        logits: [b, v].
        sampling: temperature above 0, top_k, top_p.
        uniforms: [b] random numbers in [0, 1).
    """
    logits = logits.float() / sampling.temperature
    kept = min(sampling.top_k or logits.shape[1], logits.shape[1])
    logits, order = logits.topk(kept, dim=-1)
    probabilities = logits.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # rounding may put the target on the very end, behind the last token that has a probability
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    pick = torch.minimum(torch.searchsorted(cumulative, target, right=True), last)
    return order.gather(1, pick)[:, 0]
