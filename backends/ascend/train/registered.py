"""What this backend adds to mindformers' registry; imported after :func:`backends.ascend.device.start`.

* :class:`StepOrderDataset`: rows in the order that all backends share. mindformers' own shuffling is MindSpore's, which
  no other framework repeats.
* training steps whose loss is the token mean over all workers, and those that MindSpore's CPU build can compute.
* :class:`PackedLlamaForCausalLM`: rows that hold several conversations.

It also replaces two things that MindSpore's CPU build has no kernel for: ``mint.argmax`` and the barrier of workers.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import mindspore.common.dtype as mstype
import mindspore.dataset as ms_dataset
import numpy as np
from mindformers import LlamaConfig, LlamaForCausalLM
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, mint, nn, ops
from mindspore.ops import composite, functional, operations

from mindrecord.tokens.order import rows_of_step


@MindFormerRegister.register(MindFormerModuleType.DATASET_LOADER)
class StepOrderDataset:
    """The rows of the steps ``first_step … steps`` of a run, one after the other, as one MindSpore dataset.

    Reads the MindRecord file through MindSpore's own reader.
    """

    def __new__(
        cls,
        dataset_dir: str,
        rows: int,
        step_rows: int,
        first_step: int,
        steps: int,
        seed: int,
        shuffle: bool,
        num_shards: int | None = None,
        shard_id: int | None = None,
        num_parallel_workers: int = 1,
        **_: Any,
    ) -> Any:
        """Build the dataset.

        Args:
            dataset_dir: the MindRecord file; the name of the argument is mindformers'.
            rows: in the file.
            step_rows: of one optimizer step, over all workers.
            first_step: steps that are done already.
            steps: of the whole run.
            seed: of the order.
            shuffle: whether an epoch has an order of its own.
            num_shards: workers that share a step's rows; None: each takes all of them.
            shard_id: which of them this is.
            num_parallel_workers: threads that read.
        """
        # mindformers calls the registered class and wants a MindSpore dataset: hence __new__
        epochs: dict[int, list[np.ndarray]] = {}
        for step in range(first_step, steps):
            indices = rows_of_step(rows, step_rows, step, seed, shuffle)
            # the batch size is a multiple of the workers, so that all shares have the same size
            share = np.array_split(indices, num_shards)[shard_id or 0] if num_shards else indices
            # rows that do not fill a step are left out, so an epoch has rows // step_rows steps
            epochs.setdefault(step // (rows // step_rows), []).append(share)
        # MindSpore takes no row twice in one list, so that each epoch is a dataset of its own
        parts = [
            ms_dataset.MindDataset(
                dataset_dir,
                columns_list=["input_ids", "labels"],
                num_parallel_workers=num_parallel_workers,
                sampler=ms_dataset.SubsetSampler(np.concatenate(indices).tolist()),
            )
            for indices in epochs.values()
        ]
        return reduce(add, parts)


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class DataParallelTrainOneStepCell(MFTrainOneStepCell):
    """mindformers' training step with the token mean taken over all workers.

    mindformers averages the workers' losses, each of which is a mean over that worker's tokens. So a token counts more
    on a worker with fewer tokens. Here numerator and denominator are summed over the workers before they are divided.
    So N workers have the loss and the gradient of one worker with all rows.
    """

    def __init__(self, network: Any, optimizer: Any, **settings: Any) -> None:
        super().__init__(network, optimizer, **settings)
        self.all_reduce = operations.AllReduce()

    def grads_for_legacy(self, scaling_sens: Any, *inputs: Any) -> Any:
        """Compute the step; mindformers divides the gradient by the third value and sums it over the workers.

        Args:
            scaling_sens: the loss scale.
            inputs: ids and labels of this worker's rows.

        Returns:
            Mean loss of a token over all workers, gradient of the sum over this worker's tokens, tokens of all workers.
        """
        numerator, denominator = self.network(*inputs)
        total = self.all_reduce(functional.cast(denominator, mstype.float32))
        loss = self.all_reduce(functional.cast(numerator, mstype.float32)) / total
        # the numerator alone is differentiated; the denominator counts tokens and gets a weight of 0
        sens = composite.ones_like(numerator) * functional.cast(scaling_sens, functional.dtype(numerator))
        none = self.zero_t * functional.cast(scaling_sens, functional.dtype(denominator))
        sens = (self.cast(sens, mstype.float32), self.cast(none, mstype.float32))
        grads = self.grad(self.network, self.weights)(*inputs, sens)
        return loss, grads, total


_not_finite = ops.MultitypeFuncGraph("not_finite")


@_not_finite.register("Tensor")
def _tensor_not_finite(gradient: Tensor) -> Tensor:
    """Return 1.0 if a gradient holds a value that is not finite, else 0.0; float32 [1], any shape in."""
    bad = ops.LogicalNot()(ops.IsFinite()(gradient))
    return ops.ReduceMax()(ops.Cast()(bad, mstype.float32).reshape((-1,))).reshape((1,))


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class CPUTrainOneStepCell(MFTrainOneStepCell):
    """mindformers' training step, clipping and all, with an overflow check that a CPU can compute."""

    def get_overflow_status(self, status: Any, compute_output: Any) -> Any:
        """Return whether a gradient is not finite; ``status``, a register of Ascend cards, is not used."""
        return self._get_distributed_overflow_status_on_infnan_mode(_not_finite, compute_output)


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class CPUDataParallelTrainOneStepCell(CPUTrainOneStepCell, DataParallelTrainOneStepCell):
    """The CPU's overflow check (from the first base) and the mean over all workers' tokens (from the second)."""


def skip_cpu_barrier() -> None:
    """Let mindformers read a checkpoint without its barrier, which has no CPU kernel.

    Workers would wait there until one of them has prepared the file. Here the file is whole before they start.
    """
    from mindformers.trainer import utils

    utils.barrier = lambda: None


def use_cpu_argmax() -> None:
    """Let mindformers' text generator use ``ops.argmax``: outside a graph, ``mint.argmax`` has no CPU kernel."""

    def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return ops.argmax(input, dim, keepdim)

    mint.argmax = argmax


class OwnRowMask(nn.Cell):
    """mindformers' causal mask, which also hides from a token everything before its own conversation's BOS.

    A packed row holds several conversations end to end (:func:`mindrecord.tokens.pack.pack_rows`); a token may look
    back as far as the BOS of its own conversation. mindformers 1.9.0 offers three other ways, none of which works here:

    * Its loader's ``eod_reset`` drops the labels, so that questions would be trained on, and it resets at every end
      token, also at those between turns.
    * A mask given as ``attention_mask`` is cast to uint8. Without flash attention it is added to the scores, where 0
      and 1 hide nothing.
    * ``actual_seq_len`` needs flash attention.

    So the model makes the mask itself, from the ids.

    Positions need no reset: rotary attention depends on the distance of two tokens only (Su et al. 2021, RoFormer,
    §3.2.2).

    Args:
        causal: mindformers' mask of earlier tokens that are not the pad, [b, 1, s, s]; 1 where flash attention must
            not look, or what is added to the scores there.
        bos_id: the token that begins each conversation.
    """

    def __init__(self, causal: nn.Cell, bos_id: int):
        super().__init__()
        self.causal = causal
        self.bos_id = bos_id
        self.dtype = causal.dtype
        self.hidden = Tensor([1.0], causal.dtype) if causal.use_flash_attention else causal.multiply_data

    def construct(self, tokens: Tensor) -> Tensor:
        """Return the mask of ``tokens`` int32 [b, s], in shape and dtype of mindformers' own."""
        mask = self.causal(tokens)  # [b, 1, s, s]
        # [b, s], the number of the conversation that each token belongs to
        row = ops.cumsum(ops.cast(ops.equal(tokens, self.bos_id), mstype.float32), 1)  # float32 counts to 2 ** 24
        # [b, s, 1] against [b, 1, s] → [b, s, s]: True where two tokens are of different conversations
        other = ops.not_equal(ops.expand_dims(row, 2), ops.expand_dims(row, 1))
        other = ops.expand_dims(ops.cast(other, self.dtype), 1)  # [b, 1, s, s]
        return ops.cast(ops.cast(mask, self.dtype) * (1 - other) + self.hidden * other, mask.dtype)


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class PackedLlamaForCausalLM(LlamaForCausalLM):
    """``LlamaForCausalLM`` for training on packed rows; on rows of one conversation it computes the same.

    Raises:
        ValueError: a setting takes the mask away from the model.
    """

    def __init__(self, config: LlamaConfig = None):
        # each of these replaces or drops the mask that the model makes from the ids
        for name in ("use_attn_mask_compression", "use_eod_attn_mask_compression", "use_ring_attention", "use_past"):
            if getattr(config, name, False):
                raise ValueError(f"{name} is on; packed rows need it off")
        if config.parallel_config.seq_split_num > 1:
            raise ValueError("seq_split_num is more than 1; packed rows need whole sequences")
        super().__init__(config)
        # the spelling is mindformers'
        self.model.casual_mask = OwnRowMask(self.model.casual_mask, config.bos_token_id)
