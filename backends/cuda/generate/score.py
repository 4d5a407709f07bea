"""Log-probabilities on torch: of a few possible answers to a prompt, and of the supervised tokens of whole rows.

Choices take one forward pass a batch, laid out as :mod:`backends.generation.choice_layout` says; the prompt is
read once.

Shapes: b rows of the batch, s prompt tokens with padding, k - 1 tokens of all choices behind the prompt, t = s + k - 1
the sequence, v vocabulary, c choices, n tokens of all choices, m supervised tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.generation.choice_layout import ChoiceLayout
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2048  # of 128,256 words in float32: a gigabyte


@torch.inference_mode()
def choice_scores(model: Any, layout: ChoiceLayout, prompts: Sequence[list[int]], pad_id: int) -> list[list[float]]:
    """Return the summed log-probability of each choice after each prompt, float32 [b, c]."""
    ids, positions, real = layout.inputs(prompts, pad_id)
    output = model(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=_mask(model, layout, real),
        position_ids=torch.from_numpy(positions).to(model.device),
        use_cache=False,
        logits_to_keep=layout.size,
    )
    logits = output.logits.float()
    token, column, owner = torch.from_numpy(layout.targets).to(logits.device)
    found = logits[:, column, token] - logits.logsumexp(-1)[:, column]  # [b, n]
    return torch.zeros(len(found), layout.count, device=found.device).index_add_(1, owner, found).tolist()


def _mask(model: Any, layout: ChoiceLayout, real: np.ndarray) -> Tensor | None:
    """Return who sees whom: nothing or [b, t] where it is plainly causal, else what is added, [b, 1, t, t]."""
    if layout.size == 1:
        return None if real.all() else torch.from_numpy(real.astype(np.int64)).to(model.device)
    both = torch.from_numpy(layout.sees(real)).to(model.device)
    mask = torch.zeros(both.shape, dtype=model.dtype, device=model.device)
    return mask.masked_fill_(~both, torch.finfo(model.dtype).min)[:, None]


@torch.inference_mode()
def row_losses(model: Any, inputs: np.ndarray, targets: np.ndarray, real: np.ndarray) -> list[float]:
    """Return each row's Σ −log p of its targets, in nats; int64 [b, s], int64 [b, s] and bool [b, s] padded right."""
    hidden = model.base_model(
        input_ids=torch.from_numpy(inputs).to(model.device),
        attention_mask=None if real.all() else torch.from_numpy(real.astype(np.int64)).to(model.device),
        use_cache=False,
    ).last_hidden_state
    row, column = np.nonzero(targets != IGNORE_INDEX)
    wanted = torch.from_numpy(targets[row, column]).to(model.device)
    losses = torch.empty(len(row), dtype=torch.float64)  # [m]
    for start in range(0, len(row), LOGITS_AT_ONCE):
        part = slice(start, start + LOGITS_AT_ONCE)
        logits = model.lm_head(hidden[row[part], column[part]]).float()
        losses[part] = torch.nn.functional.cross_entropy(logits, wanted[part], reduction="none").double().cpu()
    sums = torch.zeros(len(inputs), dtype=torch.float64)
    return sums.index_add_(0, torch.from_numpy(row), losses).tolist()
