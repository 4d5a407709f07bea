"""The torch backend's generator: a Hugging Face causal model under the shared rules of answering and scoring.

Choices take one forward pass a batch, laid out as :mod:`backends.generation.choice_layout` says; the prompt is read
once.

Shapes: b rows of the batch, s tokens of a row with padding, t of a prompt and all choices behind it, c choices,
n tokens of all choices, m supervised tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.cuda.attention import obstacle_to_packing
from backends.cuda.generate.decode import TorchBatch
from backends.cuda.generate.one_token import use_grouped_attention
from backends.generation.base_generator import Generator
from backends.generation.choice_layout import ChoiceLayout
from backends.generation.types import BATCH_TOKENS, GREEDY, Limits, Sampling
from mindrecord.tokens.encode import IGNORE_INDEX

LOGITS_AT_ONCE = 2048  # of 128,256 words in float32: a gigabyte


class TorchGenerator(Generator):
    """Answers prompts with a Hugging Face causal model.

    Args:
        model: the model, with or without adapters, in evaluation mode on its device.
        pad_id: token that fills shorter prompts; it is masked.
        batch_tokens: rows times longest prompt and answer of one batch; memory and speed, never the answers.
        sampling: how tokens are chosen.
        use_cache: keep keys and values; without them every step reads the whole text again.
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
        """Tokens of prompt and answer that the model was made for; None where ``config.json`` does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def start(self, rows: Mapping[int, list[int]], stop_ids: Sequence[int], limits: Limits) -> TorchBatch:
        """Begin one batch, to be stepped by the caller."""
        return TorchBatch(
            self.model,
            rows,
            self.pad_id,
            stop_ids,
            limits,
            self.sampling,
            use_cache=self.use_cache,
            pass_tokens=self.pass_tokens,
        )

    def obstacle_to_choices(self, longest: int) -> str | None:
        """Say what makes the model attend otherwise than the given mask says; None if nothing does."""
        return obstacle_to_packing(self.model.config, longest)

    @torch.inference_mode()
    def choice_scores(self, layout: ChoiceLayout, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Return Σ log p of each choice after each prompt, in nats, [b, c]; computed in float32."""
        ids, positions, real = layout.inputs(prompts, self.pad_id)
        output = self.model(
            input_ids=torch.from_numpy(ids).to(self.model.device),
            attention_mask=self._choice_mask(layout, real),
            position_ids=torch.from_numpy(positions).to(self.model.device),
            use_cache=False,
            logits_to_keep=layout.size,
        )
        logits = output.logits.float()  # [b, k, v]
        # each int64 [n]
        token, column, owner = torch.from_numpy(layout.targets).to(logits.device)
        # log p at the wanted entries only: log_softmax would make a second [b, k, v]
        found = logits[:, column, token] - logits.logsumexp(-1)[:, column]  # [b, n]
        return torch.zeros(len(found), layout.count, device=found.device).index_add_(1, owner, found).tolist()

    def _choice_mask(self, layout: ChoiceLayout, real: np.ndarray) -> Tensor | None:
        """Return the attention mask in the form that transformers takes.

        Choices of one token need plain causal attention: None without padding, int64 [b, t] with it. Longer ones need
        a mask of their own, added to the scores: [b, 1, t, t].
        """
        model = self.model
        if layout.size == 1:
            return None if real.all() else torch.from_numpy(real.astype(np.int64)).to(model.device)
        # [b, t, t] → [b, 1, t, t], the same for all heads
        both = torch.from_numpy(layout.sees(real)).to(model.device)
        mask = torch.zeros(both.shape, dtype=model.dtype, device=model.device)
        return mask.masked_fill_(~both, torch.finfo(model.dtype).min)[:, None]

    @torch.inference_mode()
    def row_losses(self, inputs: np.ndarray, targets: np.ndarray, real: np.ndarray) -> list[float]:
        """Return each row's Σ −log p of its targets, in nats, [b]; see the base class for the arguments."""
        model = self.model
        # without the head, [b, s, hidden size]: it is applied below where a target is
        hidden = model.base_model(
            input_ids=torch.from_numpy(inputs).to(model.device),
            attention_mask=None if real.all() else torch.from_numpy(real.astype(np.int64)).to(model.device),
            use_cache=False,
        ).last_hidden_state
        row, column = np.nonzero(targets != IGNORE_INDEX)  # [m] each
        wanted = torch.from_numpy(targets[row, column]).to(model.device)
        losses = torch.empty(len(row), dtype=torch.float64)  # [m]
        for start in range(0, len(row), LOGITS_AT_ONCE):
            part = slice(start, start + LOGITS_AT_ONCE)
            logits = model.lm_head(hidden[row[part], column[part]]).float()
            # not cross_entropy, whose float32 sums over a large vocabulary are 10⁻⁵ off on a CPU; summed in float64,
            # where the order of many tokens leaves no visible trace
            at_target = logits.gather(1, wanted[part, None])
            losses[part] = (logits.logsumexp(-1, keepdim=True) - at_target)[:, 0].double().cpu()
        sums = torch.zeros(len(inputs), dtype=torch.float64)
        return sums.index_add_(0, torch.from_numpy(row), losses).tolist()

    def free_memory(self) -> None:
        """Give what torch keeps for later allocations back to the device."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
