"""Log-probabilities on torch: of a few possible answers to a prompt, and of the supervised tokens of whole rows.

Choices take one forward pass a batch, laid out as :mod:`backends.generation.choice_layout` says; the prompt is
read once.

Shapes: b rows of the batch, s prompt tokens with padding, k - 1 tokens of all choices behind the prompt, t = s + k - 1
the sequence, v vocabulary, c choices, n tokens of all choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.decode import TorchGenerator
from backends.generation.batching import check_prompts, run_batches
from backends.generation.choice_layout import ChoiceLayout
from converters.common.errors import UserError
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2048  # of 128,256 words in float32: a gigabyte


class ChoiceScorer:
    """Scores the same choices after many prompts.

    Args:
        generator: holds the model, its pad token and the tokens of a batch.
        choices: the token ids of every choice, each at least one.

    Raises:
        UsageError: a choice has no tokens.
    """

    def __init__(self, generator: TorchGenerator, choices: Sequence[list[int]]) -> None:
        self.generator = generator
        self.layout = ChoiceLayout(choices)

    def score(self, prompts: Mapping[int, list[int]]) -> Iterator[tuple[int, list[float]]]:
        """Yield ``(number of the prompt, summed log-probability of each choice)``, every prompt once.

        Args:
            prompts: token ids by number, each at least one.

        Raises:
            UsageError: a prompt is empty.
            UserError: a single row does not fit into memory, a log-probability is not a number, or the model's
                attention is not plain.
        """
        lengths = check_prompts(prompts)
        behind = self.layout.size - 1
        self.generator.warn_of_long(lengths, behind)
        if behind:
            self._check_attention(max(lengths.values(), default=0) + behind)

        def run(indices: list[int]) -> Iterator[tuple[int, list[float]]]:
            scores = self._scores([prompts[index] for index in indices]).tolist()
            for index, row in zip(indices, scores, strict=True):
                if any(value != value for value in row):
                    raise UserError(
                        f"row {index}: the model's log-probabilities are not numbers; try --dtype bfloat16 or float32"
                    )
                yield index, row

        yield from run_batches(
            lengths, behind, self.generator.batch_tokens, run, torch.OutOfMemoryError, torch.cuda.empty_cache
        )

    def _check_attention(self, longest: int) -> None:
        """Refuse models that see otherwise than by the mask they are given."""
        if obstacle := obstacle_to_packing(self.generator.model.config, longest):
            raise UserError(
                f"choices of several tokens cannot be scored with this model: {obstacle}; take --way generate"
            )

    @torch.inference_mode()
    def _scores(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return summed log-probabilities, float32 [b, c]."""
        layout, model = self.layout, self.generator.model
        ids, positions, real = layout.inputs(prompts, self.generator.pad_id)
        output = model(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=self._mask(real),
            position_ids=torch.from_numpy(positions).to(model.device),
            use_cache=False,
            logits_to_keep=layout.size,
        )
        logits = output.logits.float()
        token, column, owner = torch.from_numpy(layout.targets).to(logits.device)
        found = logits[:, column, token] - logits.logsumexp(-1)[:, column]  # [b, n]
        return torch.zeros(len(found), layout.count, device=found.device).index_add_(1, owner, found)

    def _mask(self, real: np.ndarray) -> Tensor | None:
        """Return who sees whom: nothing or [b, t] where it is plainly causal, else what is added, [b, 1, t, t]."""
        model = self.generator.model
        if self.layout.size == 1:
            return None if real.all() else torch.from_numpy(real.astype(np.int64)).to(model.device)
        both = torch.from_numpy(self.layout.sees(real)).to(model.device)
        mask = torch.zeros(both.shape, dtype=model.dtype, device=model.device)
        return mask.masked_fill_(~both, torch.finfo(model.dtype).min)[:, None]


def row_losses(
    generator: TorchGenerator, rows: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[int, float]]:
    """Yield ``(number of the row, Σ −log p of its supervised tokens, in nats)``, every row once.

    Args:
        generator: holds the model, its pad token and the tokens of a batch.
        rows: ``(input_ids, labels)`` by number, int32 [s] each, at least two tokens; labels are not shifted.
    """
    lengths = {index: len(ids) - 1 for index, (ids, _) in rows.items()}
    generator.warn_of_long(lengths, 0)

    def run(indices: list[int]) -> Iterator[tuple[int, float]]:
        yield from zip(indices, _losses(generator, [rows[index] for index in indices]), strict=True)

    yield from run_batches(lengths, 0, generator.batch_tokens, run, torch.OutOfMemoryError, torch.cuda.empty_cache)


@torch.inference_mode()
def _losses(generator: TorchGenerator, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return one loss a row; logits are computed at supervised positions only."""
    model = generator.model
    b, s = len(rows), max(len(ids) for ids, _ in rows) - 1
    inputs = np.full((b, s), generator.pad_id, dtype=np.int64)
    targets = np.full((b, s), IGNORE_INDEX, dtype=np.int64)
    real = np.zeros((b, s), dtype=np.int64)
    for i, (ids, labels) in enumerate(rows):
        inputs[i, : len(ids) - 1], targets[i, : len(ids) - 1], real[i, : len(ids) - 1] = ids[:-1], labels[1:], 1
    hidden = model.base_model(
        input_ids=torch.from_numpy(inputs).to(model.device),
        attention_mask=None if real.all() else torch.from_numpy(real).to(model.device),
        use_cache=False,
    ).last_hidden_state
    row, column = np.nonzero(targets != IGNORE_INDEX)
    wanted = torch.from_numpy(targets[row, column]).to(model.device)
    losses = torch.empty(len(row), dtype=torch.float64)
    for start in range(0, len(row), LOGITS_AT_ONCE):
        part = slice(start, start + LOGITS_AT_ONCE)
        logits = model.lm_head(hidden[row[part], column[part]]).float()
        losses[part] = torch.nn.functional.cross_entropy(logits, wanted[part], reduction="none").double().cpu()
    sums = torch.zeros(b, dtype=torch.float64)
    return sums.index_add_(0, torch.from_numpy(row), losses).tolist()
