"""What MindSpore's CPU build lacks, put in its place; imported after :func:`backends.ascend.device.start`.

Three things are missing there: the overflow check of mindformers' training step, which is an instruction of the Ascend
910, and kernels for ``mint.argmax`` and for the barrier of several workers.
"""

from __future__ import annotations

from typing import Any

from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, mint, ops
from mindspore.common import dtype as mstype

from backends.ascend.train.step import DataParallelTrainOneStepCell

_not_finite = ops.MultitypeFuncGraph("not_finite")


@_not_finite.register("Tensor")
def _tensor_not_finite(gradient: Tensor) -> Tensor:
    """1.0 where a gradient holds a value that is not finite, float32[1]."""
    bad = ops.LogicalNot()(ops.IsFinite()(gradient))
    return ops.ReduceMax()(ops.Cast()(bad, mstype.float32).reshape((-1,))).reshape((1,))


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class CPUTrainOneStepCell(MFTrainOneStepCell):
    """mindformers' training step, clipping and all, with an overflow check that a CPU can compute."""

    def get_overflow_status(self, status: Any, compute_output: Any) -> Any:
        """Whether a gradient is not finite; ``status`` is the register that only an Ascend card has."""
        return self._get_distributed_overflow_status_on_infnan_mode(_not_finite, compute_output)


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class CPUDataParallelTrainOneStepCell(CPUTrainOneStepCell, DataParallelTrainOneStepCell):
    """The same with several workers, whose tokens share one mean."""


def skip_cpu_barrier() -> None:
    """Let mindformers read a checkpoint without its barrier, which has no CPU kernel.

    Its workers would wait there for a file that one of them puts in place; here the file is whole before they start.
    """
    from mindformers.trainer import utils

    utils.barrier = lambda: None


def use_cpu_argmax() -> None:
    """Let mindformers' text generator take ``ops.argmax``, which has a CPU kernel where ``mint.argmax`` has none."""

    def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return ops.argmax(input, dim, keepdim)

    mint.argmax = argmax
