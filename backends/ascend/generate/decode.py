"""Batched decoding on MindSpore: greedy or sampled, left padding, keys and values kept, finished rows leave the batch.

The same answers as the torch backend's: positions count from a row's first real token, padding is masked, and a sampled
row draws from its own stream of random numbers, which does not depend on the batch.

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from backends.ascend.generate.cached_forward import CachedForward, DeviceFull
from backends.generation.batching import check_prompts, run_batches, uniforms
from backends.generation.types import BATCH_TOKENS, GREEDY, Answer, Limits, Sampling
from converters.common.console import say

if TYPE_CHECKING:
    from backends.ascend.generate.score import ChoiceScorer


class MindSporeGenerator:
    """Answers prompts with mindformers' Llama; see :class:`backends.generation.Generator`.

    Args:
        forward: the model.
        pad_id: token that fills the left of shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
    """

    def __init__(
        self, forward: CachedForward, pad_id: int, *, batch_tokens: int = BATCH_TOKENS, sampling: Sampling = GREEDY
    ) -> None:
        self.forward = forward
        self.pad_id = pad_id
        self.batch_tokens = batch_tokens
        self.sampling = sampling

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

        yield from run_batches(lengths, limits.max_new, self.batch_tokens, run, DeviceFull)

    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> Batch:
        """Begin one batch, to be stepped by the caller."""
        return Batch(self, rows, stop_ids, limits)

    def scorer(self, choices: Sequence[list[int]]) -> ChoiceScorer:
        """Return what scores these choices, each of at least one token."""
        from backends.ascend.generate.score import ChoiceScorer

        return ChoiceScorer(self, choices)

    def losses(self, rows: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[int, float]]:
        """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)``, every row once."""
        from backends.ascend.generate.score import row_losses

        return row_losses(self, rows)

    def warn_of_long(self, lengths: Mapping[int, int], max_new_tokens: int) -> None:
        """Say how many rows go beyond the positions that the model was made for."""
        positions = self.forward.config.max_position_embedding
        over = sum(length + max_new_tokens > positions for length in lengths.values())
        if over:
            say(
                f"{over} of {len(lengths)} prompts with room for {max_new_tokens} new tokens go beyond the "
                f"{positions} positions that the model was made for; its answers there are not to be relied on"
            )


class Batch:
    """Rows being answered together, one token a :meth:`step`.

    Attributes:
        indices: the caller's numbers of the rows still without a whole answer.
        tokens: the answers so far, int64 [b, limits.max_new]; the first ``n`` columns are filled.
    """

    def __init__(
        self, generator: MindSporeGenerator, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits
    ) -> None:
        self.forward = generator.forward
        self.sampling = generator.sampling
        self.limits = limits
        self.indices = list(rows)
        self.n = 0
        b, s = len(rows), max(map(len, rows.values()))
        self.prompt = np.full((b, s), generator.pad_id, dtype=np.int64)
        self.real = np.ones((b, s + limits.max_new), dtype=bool)
        for i, prompt in enumerate(rows.values()):
            self.prompt[i, s - len(prompt) :] = prompt
            self.real[i, : s - len(prompt)] = False
        self.positions = (self.real.cumsum(1) - 1).clip(0)
        self.tokens = np.zeros((b, limits.max_new), dtype=np.int64)
        self.stop = np.array(list(stop_ids), dtype=np.int64)
        self.cache = self.forward.empty(b)
        self.seen: np.ndarray | None = None
        self.uniforms: np.ndarray | None = None
        if self.sampling.temperature > 0:
            self.uniforms = uniforms(self.indices, limits.max_new, self.sampling.seed)

    def step(self) -> list[tuple[int, Answer]]:
        """Choose one more token in every row; return the rows whose answer that finished.

        Raises:
            DeviceFull: the memory does not suffice.
        """
        chosen = self._choose(self._next_logits())
        self.tokens[:, self.n] = chosen
        self.n += 1
        stopped = np.isin(chosen, self.stop)
        ended = stopped if self.n < self.limits.max_new else np.ones_like(stopped)
        return self._take_out(ended, stopped) if ended.any() else []

    def said(self, index: int) -> list[int]:
        """Return the tokens so far of a row that is not finished."""
        return self.tokens[self.indices.index(index), : self.n].tolist()

    def _next_logits(self) -> np.ndarray:
        """Return the logits of the next token, float32 [b, v]; no other position's are ever computed."""
        b, s = self.prompt.shape
        if self.n:
            ids, new = self.tokens[:, self.n - 1 : self.n], slice(s + self.n - 1, s + self.n)
            sees = self.real[:, None, : s + self.n]
        else:
            ids, new = self.prompt, slice(0, s)
            # padding sees itself: a row that sees nothing would be no number
            causal = np.tril(np.ones((s, s), dtype=bool))
            sees = causal & self.real[:, None, :s] | np.eye(s, dtype=bool)
        last = np.arange(1, b + 1) * ids.shape[1] - 1
        logits, self.cache = self.forward.run(ids, self.positions[:, new], sees, last, self.cache)
        return logits

    def _choose(self, logits: np.ndarray) -> np.ndarray:
        """Choose the next token of every row, [b], from logits [b, v]."""
        if self.n < self.limits.min_new or self.sampling.repetition_penalty != 1:
            logits = logits.copy()  # the device's own memory is not written to
        if self.n < self.limits.min_new:
            logits[:, self.stop] = -np.inf
        if self.sampling.repetition_penalty != 1:
            logits = self._penalise(logits)
        if self.uniforms is None:
            return logits.argmax(-1)
        return sample(logits, self.sampling, self.uniforms[:, self.n])

    def _penalise(self, logits: np.ndarray) -> np.ndarray:
        rows = np.arange(len(logits))[:, None]
        if self.seen is None:
            self.seen = np.zeros(logits.shape, dtype=bool)
            row, column = np.nonzero(self.real[:, : self.prompt.shape[1]])
            self.seen[row, self.prompt[row, column]] = True
        else:
            self.seen[rows, self.tokens[:, self.n - 1 : self.n]] = True
        penalty = np.float32(self.sampling.repetition_penalty)
        return np.where(self.seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)

    def _take_out(self, ended: np.ndarray, stopped: np.ndarray) -> list[tuple[int, Answer]]:
        """Remove the rows that ended and return their answers."""
        answers = []
        for row in np.flatnonzero(ended):
            ids = self.tokens[row, : self.n].tolist()
            answers.append((self.indices[row], Answer(ids[:-1], "stop") if stopped[row] else Answer(ids, "length")))
        keep = np.flatnonzero(~ended)
        self.indices = [self.indices[row] for row in keep]
        if not self.indices:
            self.cache = self.forward.empty(1)
            return answers
        self.cache = self.forward.keep(self.cache, keep)
        self.prompt, self.positions, self.tokens = self.prompt[keep], self.positions[keep], self.tokens[keep]
        self.real = self.real[keep]
        if self.uniforms is not None:
            self.uniforms = self.uniforms[keep]
        if self.seen is not None:
            self.seen = self.seen[keep]
        return answers


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
