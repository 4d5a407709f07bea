"""The arithmetic of one optimizer step: losses and gradients over its micro-batches and processes."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from backends.cuda.processes import Processes
from backends.cuda.train.batches import MicroBatch, micro_batches, share_of_process
from backends.cuda.train.fused import can_chunk_loss, head_loss
from backends.cuda.train.optimizer import Optimizer
from backends.recipe.types import Recipe
from backends.run.rows import TrainingRows, row_names
from converters.common.console import say
from converters.common.errors import UserError


class Stepper:
    """Forward and backward passes of one optimizer step, in micro-batches that fit the memory.

    Args:
        model: in training mode on its device.
        recipe: gives the seed and the first size of a micro-batch.
        data: all rows.
        device: the model's.
        dtype: of the matrix products.
        packed: whether rows are laid end to end.
        processes: that share the rows of a step.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        data: TrainingRows,
        device: torch.device,
        dtype: torch.dtype,
        packed: bool,
        processes: Processes,
    ) -> None:
        self.model, self.data, self.device, self.packed = model, data, device, packed
        self.dtype, self.processes, self.seed = dtype, processes, recipe.seed
        self.capacity = recipe.data.micro_batch_tokens

    def gradients(self, rows: np.ndarray, step: int, optimizer: Optimizer) -> float:
        """Compute a step's gradient and loss, both over all processes.

        Args:
            rows: numbers of the step's rows, all processes' together.
            step: index of the step, from 0.
            optimizer: its parameters get the gradient.

        Returns:
            Mean −log p of a supervised token of the step, in nats.

        Raises:
            UserError: the loss is not finite, or one row alone is too much for the memory.
        """
        # counted over all processes: dividing by it makes their summed gradients the mean over the step's tokens
        supervised = int(self.data.supervised[rows].sum())
        if supervised == 0:
            raise UserError(f"step {step + 1}: none of its {len(rows)} rows has a supervised token")
        share = share_of_process(rows, self.data.rows.lengths, self.processes.index, self.processes.count)
        while True:
            try:
                loss = self._accumulate(share, step, supervised)
                break
            except torch.OutOfMemoryError:
                # micro-batches that did fit have left their gradients and will be done again
                optimizer.clear()
                self._shrink(share)
        loss = self.processes.sum(loss, self.device)
        if not np.isfinite(loss):
            raise UserError(f"step {step + 1}: the loss is {loss}; {self._culprits(share)}")
        # after the check, so that a loss that is not finite is reported with its rows
        self.processes.sum_gradients(optimizer.parameters)
        return loss

    def _accumulate(self, rows: np.ndarray, step: int, supervised: int) -> float:
        # a step's dropout depends on nothing that happened before it, and differs between processes
        key = hashlib.sha256(f"{self.seed}/{step}/{self.processes.index}".encode()).digest()
        torch.manual_seed(int.from_bytes(key[:8], "little", signed=True))
        total = 0.0
        for batch in micro_batches(
            self.data.rows,
            rows,
            self.capacity,
            self.device,
            packed=self.packed,
            pad_id=self.data.tokenizer.pad_id,
        ):
            # no supervised token, so no gradient to compute
            if len(batch.targets) == 0:
                continue
            loss = sum_nll(self.model, batch, self.dtype) / supervised
            loss.backward()
            total += float(loss.detach())
        return total

    def _shrink(self, rows: np.ndarray) -> None:
        torch.cuda.empty_cache()
        longest = int(self.data.tokens[rows].max())
        if self.capacity > longest:
            # the capacity may have been far above what this step has, so that the smaller of both is halved
            self.capacity = max(longest, min(self.capacity, int(self.data.tokens[rows].sum())) // 2)
            say(f"out of memory: micro-batches of {self.capacity:,} tokens from here on (the maths stays the same)")
        # last, since it costs a second forward pass
        elif not self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
            say("out of memory: activation checkpointing is on from here on (slower, the maths stays the same)")
        else:
            raise UserError(
                f"out of memory with one row of {longest:,} tokens at a time; lower model.model_config.seq_length"
            )

    def _culprits(self, rows: np.ndarray) -> str:
        """Name the rows whose own loss is not finite."""
        bad: list[int] = []
        with torch.no_grad():
            for row in rows:
                (batch,) = micro_batches(
                    self.data.rows, np.array([row]), self.capacity, self.device, packed=self.packed, pad_id=0
                )
                if len(batch.targets) and not torch.isfinite(sum_nll(self.model, batch, self.dtype)):
                    bad.append(int(row))
        bad = self.processes.gather(bad)
        return row_names(self.data.rows.ids, bad) if bad else "no row gives that alone"


def sum_nll(model: Any, batch: MicroBatch, dtype: torch.dtype) -> torch.Tensor:
    """Return Σ −log p(next token) over the supervised positions of a micro-batch, in nats; a float32 scalar.

    Logits are computed at supervised positions only, and the loss in float32.

    Args:
        model: a Hugging Face causal model, with or without LoRA.
        batch: the micro-batch.
        dtype: of the matrix products.
    """
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    if batch.layout is not None:
        inputs["packed_rows"] = batch.layout
    else:
        inputs["attention_mask"] = batch.attention_mask
    device = batch.input_ids.device
    # weights that are trained stay in float32; autocast lowers the products alone
    lower = dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype) if lower else nullcontext():
        if can_chunk_loss(whole):
            # [n, s, h] → [n·s, h] → [k, h]
            hidden = whole.base_model(**inputs).last_hidden_state.flatten(0, 1)
            return head_loss(whole, hidden.index_select(0, batch.supervised), batch.targets)
        if batch.layout is not None:
            logits = whole(**inputs, logits_to_keep=batch.supervised).logits.squeeze(0)
        else:
            # logits_to_keep takes the same columns of every row, so they are picked afterwards: [n·s, v] → [k, v]
            logits = whole(**inputs).logits.flatten(0, 1)[batch.supervised]
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
