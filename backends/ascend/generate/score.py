"""Log-probabilities on MindSpore: of a few possible answers to a prompt, and of the supervised tokens of whole rows.

Shapes: b rows of the batch, t tokens of a row, k logits looked at in a row, c choices, m supervised tokens of the
batch, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from backends.ascend.generate.cached_forward import DeviceFull
from backends.ascend.generate.decode import MindSporeGenerator
from backends.generation.batching import check_prompts, run_batches
from backends.generation.choice_layout import ChoiceLayout
from converters.common.errors import UserError
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2**28  # numbers in the logits of a batch: a gigabyte in float32


class ChoiceScorer:
    """Scores the same choices after many prompts.

    Args:
        generator: holds the model, its pad token and the tokens of a batch.
        choices: the token ids of every choice, each at least one.

    Raises:
        UsageError: a choice has no tokens.
    """

    def __init__(self, generator: MindSporeGenerator, choices: Sequence[list[int]]) -> None:
        self.generator = generator
        self.layout = ChoiceLayout(choices)

    def score(self, prompts: Mapping[int, list[int]]) -> Iterator[tuple[int, list[float]]]:
        """Yield ``(number of the prompt, summed log-probability of each choice)``, every prompt once.

        Args:
            prompts: token ids by number, each at least one.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory, or a log-probability is not a number.
        """
        lengths = check_prompts(prompts)
        behind = self.layout.size - 1
        self.generator.warn_of_long(lengths, behind)

        def run(indices: list[int]) -> Iterator[tuple[int, list[float]]]:
            scores = self._scores([prompts[index] for index in indices]).tolist()
            for index, row in zip(indices, scores, strict=True):
                if any(value != value for value in row):
                    raise UserError(f"row {index}: the model's log-probabilities are not numbers; try --dtype float32")
                yield index, row

        yield from run_batches(lengths, behind, self.generator.batch_tokens, run, DeviceFull)

    def _scores(self, prompts: Sequence[list[int]]) -> np.ndarray:
        """Return summed log-probabilities, float64 [b, c]."""
        layout, forward = self.layout, self.generator.forward
        ids, positions, real = layout.inputs(prompts, self.generator.pad_id)
        b, t = ids.shape
        wanted = np.arange(b)[:, None] * t + np.arange(t - layout.size, t)
        logits, _ = forward.run(ids, positions, layout.sees(real), wanted.ravel(), forward.empty(b))
        logits = logits.reshape(b, layout.size, -1)
        token, column, owner = layout.targets
        found = logits[:, column, token] - log_sum_exp(logits)[:, column]
        scores = np.zeros((b, layout.count))
        np.add.at(scores.T, owner, found.T)
        return scores


def row_losses(
    generator: MindSporeGenerator, rows: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[int, float]]:
    """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)``, every row once.

    Args:
        generator: holds the model, its pad token and the tokens of a batch.
        rows: ``(input_ids, labels)`` by number, int32 [s] each, at least two tokens; labels are not shifted.
    """
    lengths = {index: len(ids) - 1 for index, (ids, _) in rows.items()}
    generator.warn_of_long(lengths, 0)
    budget = min(generator.batch_tokens, max(1, LOGITS_AT_ONCE // generator.forward.config.vocab_size))

    def run(indices: list[int]) -> Iterator[tuple[int, float]]:
        yield from zip(indices, _losses(generator, [rows[index] for index in indices]), strict=True)

    yield from run_batches(lengths, 0, budget, run, DeviceFull)


def _losses(generator: MindSporeGenerator, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return one loss a row; logits are computed at supervised positions only."""
    b, t = len(rows), max(len(ids) for ids, _ in rows) - 1
    inputs = np.full((b, t), generator.pad_id, dtype=np.int64)
    targets = np.full((b, t), IGNORE_INDEX, dtype=np.int64)
    for i, (ids, labels) in enumerate(rows):
        inputs[i, : len(ids) - 1], targets[i, : len(ids) - 1] = ids[:-1], labels[1:]
    # padding lies behind, where nothing that counts sees it
    sees = np.broadcast_to(np.tril(np.ones((t, t), dtype=bool)), (b, t, t))
    positions = np.broadcast_to(np.arange(t), (b, t))
    row, column = np.nonzero(targets != IGNORE_INDEX)
    forward = generator.forward
    logits, _ = forward.run(inputs, positions, sees, row * t + column, forward.empty(b))
    found = log_sum_exp(logits) - logits[np.arange(len(row)), targets[row, column]]
    return np.bincount(row, weights=found, minlength=b).tolist()


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Return log Σ exp over the last axis, float64."""
    top = logits.max(-1, keepdims=True)
    return np.log(np.exp(logits - top).sum(-1, dtype=np.float64)) + top[..., 0]
