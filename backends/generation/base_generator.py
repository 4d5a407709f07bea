"""What the generators of both backends share: order and size of batches, padding, stop tokens, limits and sampling.

A backend adds its forward pass and its cache of keys and values. An answer does not depend on the batch it was made in:
prompts are padded on the left, positions count from a row's first real token, padding is masked, and a sampled row
draws from its own stream of random numbers. Finished rows leave the batch.

Shapes: b rows of the batch, s prompt tokens with padding, n tokens generated so far, v vocabulary, c choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from backends.generation.batching import check_prompts, run_batches, uniforms
from backends.generation.choice_layout import ChoiceLayout
from backends.generation.types import BATCH_TOKENS, GREEDY, Answer, Limits, Sampling
from converters.common.console import say
from converters.common.errors import UserError
from mindrecord.tokens.encode import IGNORE_INDEX

Watch = Callable[[int, int], None]
"""Called after a forward pass: prompt tokens read, new tokens written."""
Array = Any
"""``numpy.ndarray`` or ``torch.Tensor``; the code below uses only operations that both have."""


class Batch(ABC):
    """Prompts that are answered together; each :meth:`step` adds one token to every row.

    Args:
        rows: token ids of each prompt, by the number that the caller gave it.
        pad_id: token put before shorter prompts; it is masked.
        stop_ids: tokens that end an answer.
        limits: how long answers may and must be.
        sampling: how tokens are chosen.

    Attributes:
        indices: the caller's numbers of the rows whose answer is not finished.
        n: tokens generated so far.
        on_read: called with the number of prompt tokens that a forward pass has read.
        prompt: int64 [b, s].
        mask: [b, s + limits.max_new], 0 at padding, 1 at real tokens and at the room for the answer.
        positions: int64 [b, s + limits.max_new], from each row's first real token.
        tokens: the answers so far, int64 [b, limits.max_new]; the first n columns are filled.
        uniforms: random numbers that tokens are drawn with, float32 [b, limits.max_new]; None in greedy decoding.
        seen: tokens of prompt and answer, bool [b, v]; None without a repetition penalty.
    """

    library: ClassVar[Any]
    """``numpy`` or ``torch``: whose arrays these are."""
    mask_type: ClassVar[type] = bool
    """NumPy type of the mask that the backend's model expects."""
    row_fields: ClassVar[tuple[str, ...]] = ("prompt", "mask", "positions", "tokens", "uniforms", "seen")
    """Attributes with one entry per row; finished rows are removed from each of them."""

    def __init__(
        self,
        rows: Mapping[int, list[int]],
        pad_id: int,
        stop_ids: Sequence[int],
        limits: Limits,
        sampling: Sampling,
    ) -> None:
        self.limits, self.sampling = limits, sampling
        self.on_read: Callable[[int], None] = lambda tokens: None
        self.indices, self.prompts = list(rows), list(rows.values())
        self.n = 0
        b, s = len(rows), max(map(len, self.prompts))
        prompt = np.full((b, s), pad_id, dtype=np.int64)
        # the answer's room is real from the start: mask and positions need not grow with each token
        real = np.ones((b, s + limits.max_new), dtype=bool)
        for i, ids in enumerate(self.prompts):
            # padding goes to the left, so that the next token of every row stands in the same column
            prompt[i, s - len(ids) :] = ids
            real[i, : s - len(ids)] = False
        self.prompt, self.mask = self.array(prompt), self.array(real.astype(self.mask_type))
        # padding would get position -1; it is masked, so 0 does as well and is a valid index
        self.positions = self.array((real.cumsum(1) - 1).clip(0))
        self.tokens = self.array(np.zeros((b, limits.max_new), dtype=np.int64))
        self.stop = self.array(np.array(list(stop_ids), dtype=np.int64))
        drawn = uniforms(self.indices, limits.max_new, sampling.seed) if sampling.temperature > 0 else None
        self.uniforms = None if drawn is None else self.array(drawn)
        # [b, v] is large and most runs have no penalty: built when first needed
        self.seen: Array | None = None

    @abstractmethod
    def array(self, values: np.ndarray) -> Array:
        """Convert a NumPy array to the backend's library, on the device where it computes."""

    @abstractmethod
    def next_logits(self) -> Array:
        """Return the logits of the next token only, [b, v]; the caller may overwrite them."""

    @abstractmethod
    def sample(self, logits: Array, uniforms: Array) -> Array:
        """Draw one token per row.

        Args:
            logits: [b, v].
            uniforms: random numbers in [0, 1), [b].

        Returns:
            Token ids, int64 [b].
        """

    @abstractmethod
    def keep_cache(self, rows: Array | None) -> None:
        """Reduce the cache of keys and values to these rows, int64 [rows left]; None empties it."""

    def step(self) -> list[tuple[int, Answer]]:
        """Add one token to every row and take the finished rows out of the batch.

        Returns:
            ``(the caller's number, its answer)`` of each row that this token finished.
        """
        chosen = self._choose(self.next_logits())
        self.tokens[:, self.n] = chosen
        self.n += 1
        stopped = (chosen[:, None] == self.stop).any(1)
        # `| True` makes an array of True of either library
        ended = stopped if self.n < self.limits.max_new else stopped | True
        return self._take_out(ended, stopped) if bool(ended.any()) else []

    def said(self, index: int) -> list[int]:
        """Return the tokens generated so far for a row that is not finished.

        Args:
            index: the caller's number of the row.
        """
        return self.tokens[self.indices.index(index), : self.n].tolist()

    def _choose(self, logits: Array) -> Array:
        """Choose the next token of every row, [b], from logits [b, v]."""
        if self.n < self.limits.min_new:
            # -inf stays -inf through the penalty and has probability 0, so the minimum holds however tokens are chosen
            logits[:, self.stop] = -np.inf
        if self.sampling.repetition_penalty != 1:
            logits = self._penalise(logits, self.sampling.repetition_penalty)
        if self.uniforms is None:
            return logits.argmax(-1)
        return self.sample(logits, self.uniforms[:, self.n])

    def _penalise(self, logits: Array, penalty: float) -> Array:
        """Make tokens of prompt and answer less likely (Keskar et al. 2019, CTRL), [b, v] → [b, v]."""
        b, v = logits.shape
        if self.seen is None:
            seen = np.zeros((b, v), dtype=bool)
            for row, prompt in zip(seen, self.prompts, strict=True):
                row[prompt] = True
            self.seen = self.array(seen)
        else:
            self.seen[self.array(np.arange(b)), self.tokens[:, self.n - 1]] = True  # only the newest token can be new
        where = self.library.where
        # dividing a negative logit would make its token more likely, so that one is multiplied
        return where(self.seen, where(logits > 0, logits / penalty, logits * penalty), logits)

    def _take_out(self, ended: Array, stopped: Array) -> list[tuple[int, Answer]]:
        """Remove the rows that ended, bool [b], and return their answers."""
        # tolist is what both libraries have, from any device
        done, by_stop = np.array(ended.tolist()), stopped.tolist()
        rows = np.flatnonzero(done).tolist()
        texts = self.tokens[rows, : self.n].tolist()
        answers = [
            # a stop token that comes as the last one allowed still counts as a stop, and is no part of the answer
            (self.indices[row], Answer(ids[:-1], "stop") if by_stop[row] else Answer(ids, "length"))
            for row, ids in zip(rows, texts, strict=True)
        ]
        self.indices = [index for index, out in zip(self.indices, done, strict=True) if not out]
        if not self.indices:
            # the cache is the largest thing in memory: freed before the next batch is built
            self.keep_cache(None)
            return answers
        keep = self.array(np.flatnonzero(~done))
        self.keep_cache(keep)
        for name in self.row_fields:
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, values[keep])
        return answers


class Generator(ABC):
    """A loaded model that answers prompts and computes how likely given texts are.

    Args:
        pad_id: token that fills shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
    """

    out_of_memory: ClassVar[type[BaseException]]
    """The exception that the backend raises when the device's memory is full."""
    wider_types: ClassVar[str] = "--dtype float32"
    """The option an error message suggests when log-probabilities are NaN."""
    pass_tokens: int | None = None
    """Tokens of one forward pass where a pass must be short (on a CPU); None leaves ``batch_tokens`` alone in force."""

    def __init__(self, pad_id: int, *, batch_tokens: int = BATCH_TOKENS, sampling: Sampling = GREEDY) -> None:
        self.pad_id, self.batch_tokens, self.sampling = pad_id, batch_tokens, sampling

    @property
    @abstractmethod
    def positions(self) -> int | None:
        """Tokens of prompt and answer that the model was made for; None where it does not say."""

    @abstractmethod
    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> Batch:
        """Start a batch without computing anything; the caller calls :meth:`Batch.step` until it is empty.

        Args:
            rows: token ids of each prompt, at least one, by number.
            stop_ids: tokens that end an answer.
            limits: how long answers may and must be.
        """

    @abstractmethod
    def choice_scores(self, layout: ChoiceLayout, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Score every choice after every prompt in one forward pass.

        Args:
            layout: the choices, laid out behind a prompt.
            prompts: token ids, at least one each.

        Returns:
            Σ log p of each choice's tokens, in nats, [b, c].
        """

    @abstractmethod
    def row_losses(self, inputs: np.ndarray, targets: np.ndarray, real: np.ndarray) -> list[float]:
        """Return each row's Σ −log p of its targets, in nats; logits are computed at supervised positions only.

        Args:
            inputs: token ids, int64 [b, s], padded on the right.
            targets: the token that follows each, or ``IGNORE_INDEX``, int64 [b, s].
            real: True where a token is not padding, bool [b, s].

        Returns:
            One sum per row, [b]; 0 for a row without a supervised token.
        """

    @property
    def loss_batch_tokens(self) -> int:
        """The most tokens of a batch of :meth:`losses`."""
        return self.batch_tokens

    def obstacle_to_choices(self, longest: int) -> str | None:
        """Say why choices of several tokens cannot be scored in one pass; None if they can.

        Args:
            longest: tokens of the longest row, its choices included.
        """
        return None

    @abstractmethod
    def free_memory(self) -> None:
        """Give cached memory back to the device after it was full."""

    def generate(
        self,
        prompts: Mapping[int, list[int]],
        stop_ids: Iterable[int],
        limits: Limits,
        *,
        watch: Watch = lambda read, written: None,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield ``(number of the prompt, its answer)`` as answers are finished, every prompt once.

        Args:
            prompts: token ids by number, each at least one; the rows that a resumed job still lacks keep their numbers.
            stop_ids: tokens that end an answer.
            limits: how long answers may and must be.
            watch: called after every forward pass with the prompt tokens it read and the new tokens it wrote.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory.
        """
        lengths = check_prompts(prompts)
        self.warn_of_long(lengths, limits.max_new)
        stop = sorted(set(stop_ids))

        def run(indices: list[int]) -> Iterator[tuple[int, Answer]]:
            batch = self.start({index: prompts[index] for index in indices}, stop, limits)
            batch.on_read = lambda tokens: watch(tokens, 0)
            while batch.indices:
                rows = len(batch.indices)
                finished = batch.step()
                watch(0, rows)
                yield from finished

        # a step reads one token of every row, so that rows are what makes it long
        yield from self.run_batches(lengths, limits.max_new, run, most_rows=self.pass_tokens)

    def scorer(self, choices: Sequence[list[int]]) -> ChoiceScorer:
        """Return a scorer of these choices, each a list of at least one token id."""
        return ChoiceScorer(self, choices)

    def losses(self, rows: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[int, float]]:
        """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)``, every row once.

        Args:
            rows: ``(input_ids, labels)`` by number, int32 [s] each, at least two tokens; labels are not shifted.
        """
        # the last token of a row is a target only: the model never reads it
        lengths = {index: len(ids) - 1 for index, (ids, _) in rows.items()}
        self.warn_of_long(lengths, 0)

        def run(indices: list[int]) -> Iterator[tuple[int, float]]:
            b, s = len(indices), max(lengths[index] for index in indices)
            inputs = np.full((b, s), self.pad_id, dtype=np.int64)
            targets = np.full((b, s), IGNORE_INDEX, dtype=np.int64)
            real = np.zeros((b, s), dtype=bool)
            for i, index in enumerate(indices):
                (ids, labels), length = rows[index], lengths[index]
                # inputs and targets are the row shifted by one: position i predicts token i + 1
                inputs[i, :length], targets[i, :length], real[i, :length] = ids[:-1], labels[1:], True
            yield from zip(indices, self.row_losses(inputs, targets, real), strict=True)

        yield from self.run_batches(lengths, 0, run, self.of_one_pass(self.loss_batch_tokens))

    def run_batches(
        self,
        lengths: Mapping[int, int],
        max_new_tokens: int,
        run: Callable[[list[int]], Iterator[tuple[int, Any]]],
        batch_tokens: int | None = None,
        most_rows: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Run every row in planned batches; arguments as :func:`backends.generation.batching.run_batches`."""
        budget = batch_tokens or self.batch_tokens
        yield from run_batches(
            lengths, max_new_tokens, budget, run, self.out_of_memory, self.free_memory, most_rows=most_rows
        )

    def of_one_pass(self, batch_tokens: int) -> int:
        """Return the tokens of a batch that is read in a single forward pass."""
        return min(batch_tokens, self.pass_tokens or batch_tokens)

    def warn_of_long(self, lengths: Mapping[int, int], max_new_tokens: int) -> None:
        """Print how many rows are longer than the positions that the model was made for.

        Args:
            lengths: tokens of every prompt, by its number.
            max_new_tokens: tokens that may follow each.
        """
        positions = self.positions
        over = sum(length + max_new_tokens > positions for length in lengths.values()) if positions else 0
        if over:
            say(
                f"{over} of {len(lengths)} prompts with room for {max_new_tokens} new tokens go beyond the "
                f"{positions} positions that the model was made for; its answers there are not to be relied on"
            )


class ChoiceScorer:
    """Scores the same choices (of a multiple-choice question, say) after many prompts.

    Args:
        generator: the model.
        choices: the token ids of every choice, each at least one.

    Raises:
        UsageError: a choice has no tokens.
    """

    def __init__(self, generator: Generator, choices: Sequence[list[int]]) -> None:
        self.generator = generator
        self.layout = ChoiceLayout(choices)

    def score(self, prompts: Mapping[int, list[int]]) -> Iterator[tuple[int, list[float]]]:
        """Yield ``(number of the prompt, summed log-probability of each choice)``, every prompt once.

        Args:
            prompts: token ids by number, each at least one.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory, a log-probability is not a number, or the model's
                attention cannot tell the choices apart.
        """
        lengths = check_prompts(prompts)
        # all tokens of the choices but the last of each stand behind the prompt
        behind = self.layout.size - 1
        self.generator.warn_of_long(lengths, behind)
        longest = max(lengths.values(), default=0) + behind
        if behind and (obstacle := self.generator.obstacle_to_choices(longest)):
            raise UserError(
                f"choices of several tokens cannot be scored with this model: {obstacle}; take --way generate"
            )

        def run(indices: list[int]) -> Iterator[tuple[int, list[float]]]:
            scores = self.generator.choice_scores(self.layout, [prompts[index] for index in indices])
            for index, row in zip(indices, scores, strict=True):
                # only NaN differs from itself
                if any(value != value for value in row):
                    raise UserError(
                        f"row {index}: the model's log-probabilities are not numbers; try {self.generator.wider_types}"
                    )
                yield index, row

        budget = self.generator.of_one_pass(self.generator.batch_tokens)
        yield from self.generator.run_batches(lengths, behind, run, budget)
