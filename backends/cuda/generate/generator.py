"""The torch backend's generator: a Hugging Face causal model under the shared rules of answering and scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.decode import TorchBatch
from backends.cuda.generate.one_token import use_grouped_attention
from backends.cuda.generate.score import choice_scores, row_losses
from backends.generation.base_generator import Generator
from backends.generation.choice_layout import ChoiceLayout
from backends.generation.types import BATCH_TOKENS, GREEDY, Limits, Sampling


class TorchGenerator(Generator):
    """Answers prompts with a Hugging Face causal model.

    Args:
        model: the model, with or without adapters, in evaluation mode on its device.
        pad_id: token that fills shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
        use_cache: keep keys and values; without, every step reads the whole text again.
    """

    out_of_memory = torch.OutOfMemoryError
    wider_types = "--dtype bfloat16 or float32"

    def __init__(
        self,
        model: Any,
        pad_id: int,
        *,
        batch_tokens: int = BATCH_TOKENS,
        sampling: Sampling = GREEDY,
        use_cache: bool = True,
    ) -> None:
        super().__init__(pad_id, batch_tokens=batch_tokens, sampling=sampling)
        # LoRA layers live inside the base model; PEFT's own wrapper only adds a call
        self.model = model.get_base_model() if hasattr(model, "peft_config") else model
        use_grouped_attention(self.model)
        self.use_cache = use_cache

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer that the model was made for; None where it does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> TorchBatch:
        """Begin one batch, to be stepped by the caller."""
        return TorchBatch(self.model, rows, self.pad_id, stop_ids, limits, self.sampling, use_cache=self.use_cache)

    def obstacle_to_choices(self, longest: int) -> str | None:
        """Name what makes the model see otherwise than by the mask it is given."""
        return obstacle_to_packing(self.model.config, longest)

    def choice_scores(self, layout: ChoiceLayout, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Return the summed log-probability of each choice after each prompt."""
        return choice_scores(self.model, layout, prompts, self.pad_id)

    def row_losses(self, inputs: np.ndarray, targets: np.ndarray, real: np.ndarray) -> list[float]:
        """Return each row's Σ −log p of its targets, in nats."""
        return row_losses(self.model, inputs, targets, real)

    def free_memory(self) -> None:
        """Give what torch keeps for later allocations back to the device."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
