"""The MindSpore backend's generators: mindformers' Llama under the shared rules of answering and scoring.

On a card, greedy answers come from mindformers' own ``generate`` with paged attention (``use_past``), whose kernel only
Ascend cards have. This has never run on a card. The tests cover everything around it, on the CPU and without
``use_past``: padding, stop tokens, limits and order. This module is imported after
:func:`backends.ascend.device.start`.

Shapes: b rows of the batch, t tokens of a row, c choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from backends.ascend.generate.cached_forward import CachedForward, DeviceFull, naming_a_full_device
from backends.ascend.generate.decode import MindSporeBatch
from backends.generation.base_generator import Generator, Watch
from backends.generation.batching import check_prompts
from backends.generation.choice_layout import ChoiceLayout
from backends.generation.types import BATCH_TOKENS, GREEDY, Answer, Limits, Sampling
from converters.common.console import say
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2**28  # numbers in the logits of a batch: a gigabyte in float32
BLOCK = 16  # tokens of a page
LONGEST = 4096  # prompt and answer; the cache's table has a place for each


class MindSporeGenerator(Generator):
    """Answers prompts with mindformers' Llama.

    Args:
        forward: the model.
        pad_id: token that fills shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
    """

    out_of_memory = DeviceFull

    def __init__(
        self, forward: CachedForward, pad_id: int, *, batch_tokens: int = BATCH_TOKENS, sampling: Sampling = GREEDY
    ) -> None:
        super().__init__(pad_id, batch_tokens=batch_tokens, sampling=sampling)
        self.forward = forward

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer that the model was made for."""
        return self.forward.config.max_position_embedding

    @property
    def loss_batch_tokens(self) -> int:
        """The most tokens of a batch of :meth:`losses`, whose logits, computed all at once, then fit a gigabyte."""
        return min(self.batch_tokens, max(1, LOGITS_AT_ONCE // self.forward.config.vocab_size))

    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> MindSporeBatch:
        """Begin one batch, to be stepped by the caller."""
        return MindSporeBatch(self.forward, rows, self.pad_id, stop_ids, limits, self.sampling)

    def choice_scores(self, layout: ChoiceLayout, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Return Σ log p of each choice after each prompt, in nats, [b, c]; summed in float64."""
        ids, positions, real = layout.inputs(prompts, self.pad_id)
        b, t = ids.shape
        # [b, k]: the last k positions of every row, as places in the b · t tokens
        wanted = np.arange(b)[:, None] * t + np.arange(t - layout.size, t)
        logits, _ = self.forward.run(ids, positions, layout.sees(real), wanted.ravel(), self.forward.empty(b))
        logits = logits.reshape(b, layout.size, -1)  # [b·k, v] → [b, k, v]
        token, column, owner = layout.targets
        found = logits[:, column, token] - log_sum_exp(logits)[:, column]
        scores = np.zeros((b, layout.count))
        # adds each token to its choice, where += would count repeated choices once
        np.add.at(scores.T, owner, found.T)
        return scores.tolist()

    def row_losses(self, inputs: np.ndarray, targets: np.ndarray, real: np.ndarray) -> list[float]:
        """Return each row's Σ −log p of its targets, in nats, [b]; see the base class for the arguments."""
        b, t = inputs.shape
        # padding comes after the row, where no causal token that counts looks
        sees = np.broadcast_to(np.tril(np.ones((t, t), dtype=bool)), (b, t, t))
        positions = np.broadcast_to(np.arange(t), (b, t))
        row, column = np.nonzero(targets != IGNORE_INDEX)
        logits, _ = self.forward.run(inputs, positions, sees, row * t + column, self.forward.empty(b))
        found = log_sum_exp(logits) - logits[np.arange(len(row)), targets[row, column]]
        return np.bincount(row, weights=found, minlength=b).tolist()

    def free_memory(self) -> None:
        """Do nothing: MindSpore gives back what is no longer referenced."""


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Return log Σ exp over the last axis, float64: [..., v] → [...]."""
    top = logits.max(-1, keepdims=True)
    # the largest is taken out, so that no exponential overflows
    return np.log(np.exp(logits - top).sum(-1, dtype=np.float64)) + top[..., 0]


def paged_settings(batch_tokens: int, positions: int) -> dict[str, Any]:
    """Return the settings of ``LlamaConfig`` for paged attention with room for a batch.

    Args:
        batch_tokens: rows of a batch times its longest prompt and answer.
        positions: number of positions that the model was made for.
    """
    return {
        "use_past": True,
        "is_dynamic": True,
        "use_flash_attention": True,
        "block_size": BLOCK,
        "num_blocks": 2 * max(batch_tokens, LONGEST) // BLOCK,  # a row's last page is seldom full
        "seq_length": min(positions, LONGEST) // BLOCK * BLOCK,
    }


class PagedGenerator(MindSporeGenerator):
    """Answers greedily through mindformers; everything else as its base class does.

    mindformers' ``generate`` does not follow the shared rules in four cases, which the base class answers instead:
    sampling, ``min_new_tokens``, a prompt that ends in the pad token, and one longer than the network's ``seq_length``.

    Args:
        network: mindformers' Llama.
        pad_id: token that fills the right of shorter prompts.
        batch_tokens: rows times longest prompt and answer of one batch.
        sampling: how tokens are chosen.
    """

    def __init__(
        self, network: Any, pad_id: int, *, batch_tokens: int = BATCH_TOKENS, sampling: Sampling = GREEDY
    ) -> None:
        super().__init__(CachedForward(network), pad_id, batch_tokens=batch_tokens, sampling=sampling)
        self.network = network

    def generate(
        self,
        prompts: Mapping[int, list[int]],
        stop_ids: Iterable[int],
        limits: Limits,
        *,
        watch: Watch = lambda read, written: None,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield ``(number of the prompt, its answer)`` as answers are finished, every prompt once.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory.
        """
        lengths = check_prompts(prompts)
        stop = sorted(set(stop_ids))
        plain = self.sampling == GREEDY and not limits.min_new
        able = {index for index in prompts if plain and self._can_page(prompts[index], limits)}
        others = {index: prompt for index, prompt in prompts.items() if index not in able}
        if able:
            paged = {index: lengths[index] for index in able}
            self.warn_of_long(paged, limits.max_new)

            def run(indices: list[int]) -> Iterator[tuple[int, Answer]]:
                answers = self._answers([prompts[index] for index in indices], stop, limits)
                watch(sum(lengths[index] for index in indices), sum(len(answer.ids) for answer in answers))
                yield from zip(indices, answers, strict=True)

            yield from self.run_batches(paged, limits.max_new, run)
        if others:
            if plain:
                say(f"{len(others)} of {len(prompts)} prompts are answered without paged attention")
            yield from super().generate(others, stop, limits, watch=watch)

    def _can_page(self, prompt: list[int], limits: Limits) -> bool:
        # mindformers takes the last token that is not the pad for the end of a prompt
        return prompt[-1] != self.pad_id and len(prompt) + limits.max_new <= self.network.config.seq_length

    def _answers(self, prompts: list[list[int]], stop: list[int], limits: Limits) -> list[Answer]:
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self.pad_id, dtype=np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        with naming_a_full_device():
            whole = self.network.generate(
                ids.tolist(),
                do_sample=False,
                max_new_tokens=limits.max_new,
                # a list, since mindformers refuses a single number; -1 is no token, so nothing stops an answer
                eos_token_id=stop or [-1],
                pad_token_id=self.pad_id,
            )
        # mindformers writes answers over the padding, right behind each prompt
        return [_answer(ids[len(prompt) :].tolist(), stop) for prompt, ids in zip(prompts, whole, strict=True)]


def _answer(ids: list[int], stop: list[int]) -> Answer:
    return Answer(ids[:-1], "stop") if ids and ids[-1] in stop else Answer(ids, "length")
