"""Batched decoding on torch: greedy or sampled, left padding, KV cache, finished rows leave the batch.

An answer does not depend on the batch it was made in: positions count from a row's first real token, padding is
masked, and a sampled row draws from its own stream of random numbers. (To rounding: in bfloat16 two nearly equal
logits may change places when the batch has another shape.)

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.grouped_attention import use_grouped_attention
from backends.cuda.generate.kv_cache import roomy_cache
from backends.generation.batching import check_prompts, run_batches, uniforms
from backends.generation.types import BATCH_TOKENS, GREEDY, Answer, Limits, Sampling
from converters.common.console import say

if TYPE_CHECKING:
    from backends.cuda.generate.score import ChoiceScorer


class TorchGenerator:
    """Answers prompts with a Hugging Face causal model; see :class:`backends.generation.Generator`.

    Args:
        model: the model, with or without adapters, in evaluation mode on its device.
        pad_id: token that fills the left of shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
        use_cache: keep keys and values; without, every step reads the whole text again.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        *,
        batch_tokens: int = BATCH_TOKENS,
        sampling: Sampling = GREEDY,
        use_cache: bool = True,
    ) -> None:
        # LoRA layers live inside the base model; PEFT's own wrapper only adds a call
        self.model = model.get_base_model() if hasattr(model, "peft_config") else model
        use_grouped_attention(self.model)
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        self.sampling = sampling
        self.use_cache = use_cache

    def generate(
        self, prompts: Mapping[int, list[int]], stop_ids: Iterable[int], limits: Limits
    ) -> Iterator[tuple[int, Answer]]:
        """Yield ``(number of the prompt, its answer)`` as answers are finished, every prompt once.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory.
        """
        lengths = check_prompts(prompts)
        self.warn_of_long(lengths, limits.max_new)
        stop = sorted(set(stop_ids))

        def run(indices: list[int]) -> Iterator[tuple[int, Answer]]:
            batch = self.start({index: prompts[index] for index in indices}, stop, limits)
            while batch.indices:
                yield from batch.step()

        yield from run_batches(
            lengths, limits.max_new, self.batch_tokens, run, torch.OutOfMemoryError, _free_cached_memory
        )

    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> Batch:
        """Begin one batch, to be stepped by the caller."""
        return Batch(self, rows, stop_ids, limits)

    def scorer(self, choices: Sequence[list[int]]) -> ChoiceScorer:
        """Return what scores these choices, each of at least one token."""
        from backends.cuda.generate.score import ChoiceScorer

        return ChoiceScorer(self, choices)

    def losses(self, rows: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[int, float]]:
        """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)``, every row once."""
        from backends.cuda.generate.score import row_losses

        return row_losses(self, rows)

    def warn_of_long(self, lengths: Mapping[int, int], max_new_tokens: int) -> None:
        """Say how many rows go beyond the positions that the model was made for."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        over = sum(length + max_new_tokens > positions for length in lengths.values()) if positions else 0
        if over:
            say(
                f"{over} of {len(lengths)} prompts with room for {max_new_tokens} new tokens go beyond the "
                f"{positions} positions that the model was made for; its answers there are not to be relied on"
            )


class Batch:
    """Rows being answered together, one token a :meth:`step`.

    Attributes:
        indices: the caller's numbers of the rows still without a whole answer.
        tokens: the answers so far, [b, limits.max_new]; the first ``n`` columns are filled.
    """

    def __init__(
        self,
        generator: TorchGenerator,
        rows: Mapping[int, list[int]],
        stop_ids: Sequence[int],
        limits: Limits,
    ) -> None:
        self.model = generator.model
        self.sampling = generator.sampling
        self.limits = limits
        self.indices = list(rows)
        self.n = 0
        device = self.model.device
        b, s = len(rows), max(map(len, rows.values()))
        ids = np.full((b, s), generator.pad_id, dtype=np.int64)
        mask = np.zeros((b, s + limits.max_new), dtype=np.int64)
        for i, prompt in enumerate(rows.values()):
            ids[i, s - len(prompt) :] = prompt
            mask[i, s - len(prompt) :] = 1
        self.prompt = torch.from_numpy(ids).to(device)
        # rows of one length need no mask
        self.mask = torch.from_numpy(mask).to(device) if mask[:, 0].min() == 0 else None
        self.bias = self._additive_mask() if self.mask is not None else None
        self.positions = torch.from_numpy((mask.cumsum(1) - 1).clip(0)).to(device)
        self.tokens = torch.zeros((b, limits.max_new), dtype=torch.long, device=device)
        self.stop = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
        self.cache = roomy_cache(s + limits.max_new) if generator.use_cache else None
        self.seen: Tensor | None = None
        self.uniforms: Tensor | None = None
        if self.sampling.temperature > 0:
            drawn = uniforms(self.indices, limits.max_new, self.sampling.seed)
            self.uniforms = torch.from_numpy(drawn).to(device)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Answer]]:
        """Choose one more token in every row; return the rows whose answer that finished."""
        chosen = self._choose(self._next_logits())
        self.tokens[:, self.n] = chosen
        self.n += 1
        stopped = (chosen[:, None] == self.stop).any(1)
        ended = stopped if self.n < self.limits.max_new else torch.ones_like(stopped)
        if not bool(ended.any()):
            return []
        return self._take_out(ended, stopped)

    def said(self, index: int) -> list[int]:
        """Return the tokens so far of a row that is not finished."""
        return self.tokens[self.indices.index(index), : self.n].tolist()

    def _additive_mask(self) -> Tensor | None:
        """Return the mask of one new token, [b, 1, 1, s + new], or None where layers differ in what they see.

        transformers takes a mask of four dimensions as it is; from one of two it would build this at every step.
        """
        if self.mask is None or obstacle_to_packing(self.model.config, self.mask.shape[1]):
            return None
        hidden = torch.finfo(self.model.dtype).min
        bias = torch.zeros(self.mask.shape, dtype=self.model.dtype, device=self.mask.device)
        return bias.masked_fill_(self.mask == 0, hidden)[:, None, None]

    def _next_logits(self) -> Tensor:
        """Return the logits of the next token, [b, v]; no other position's are ever computed."""
        s = self.prompt.shape[1]
        end = s + self.n
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

    def _choose(self, logits: Tensor) -> Tensor:
        """Choose the next token of every row, [b], from logits [b, v]."""
        if self.n < self.limits.min_new:
            logits[:, self.stop] = -torch.inf
        if self.sampling.repetition_penalty != 1:
            logits = self._penalise(logits)
        if self.uniforms is None:
            return logits.argmax(-1)
        return sample(logits, self.sampling, self.uniforms[:, self.n])

    def _penalise(self, logits: Tensor) -> Tensor:
        if self.seen is None:
            self.seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            self.seen.scatter_(1, self.prompt, True)
            if self.mask is not None:
                # padding is not part of the prompt, unless the prompt itself holds the pad token
                pads = self.mask[:, : self.prompt.shape[1]] == 0
                pad = self.prompt[pads][0]
                self.seen[:, pad] = ((self.prompt == pad) & ~pads).any(1)
        else:
            self.seen.scatter_(1, self.tokens[:, self.n - 1 : self.n], True)
        penalty = self.sampling.repetition_penalty
        return torch.where(self.seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    def _take_out(self, ended: Tensor, stopped: Tensor) -> list[tuple[int, Answer]]:
        """Remove the rows that ended and return their answers."""
        answers = []
        rows = ended.nonzero()[:, 0]
        texts, by_stop = self.tokens[rows, : self.n].tolist(), stopped[rows].tolist()
        for row, ids, stop in zip(rows.tolist(), texts, by_stop, strict=True):
            answers.append((self.indices[row], Answer(ids[:-1], "stop") if stop else Answer(ids, "length")))
        keep = (~ended).nonzero()[:, 0]
        self.indices = [self.indices[row] for row in keep.tolist()]
        if not self.indices:
            self.cache = None
            return answers
        if self.cache is not None:
            self.cache.batch_select_indices(keep)
        self.prompt, self.positions, self.tokens = self.prompt[keep], self.positions[keep], self.tokens[keep]
        if self.mask is not None:
            self.mask = self.mask[keep]
        if self.bias is not None:
            self.bias = self.bias[keep]
        if self.uniforms is not None:
            self.uniforms = self.uniforms[keep]
        if self.seen is not None:
            self.seen = self.seen[keep]
        return answers


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


def _free_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
