"""Data parallel training steps; imported after ``device.start``.

mindformers averages the workers' losses, each a mean over that worker's tokens: a token counts more on a worker that
has fewer. Here numerator and denominator are summed over the workers before they are divided, so that N workers have
the loss and the gradient of one worker with all rows.
"""

from __future__ import annotations

from typing import Any

import mindspore.common.dtype as mstype
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister
from mindformers.wrapper import MFTrainOneStepCell
from mindspore.ops import composite, functional, operations


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class DataParallelTrainOneStepCell(MFTrainOneStepCell):
    """mindformers' training step with the token mean taken over all workers."""

    def __init__(self, network: Any, optimizer: Any, **settings: Any) -> None:
        super().__init__(network, optimizer, **settings)
        self.all_reduce = operations.AllReduce()

    def grads_for_legacy(self, scaling_sens: Any, *inputs: Any) -> Any:
        """Loss of the whole step, gradient of this worker's sum, and the divisor of that gradient."""
        numerator, denominator = self.network(*inputs)
        total = self.all_reduce(functional.cast(denominator, mstype.float32))
        loss = self.all_reduce(functional.cast(numerator, mstype.float32)) / total
        sens = composite.ones_like(numerator) * functional.cast(scaling_sens, functional.dtype(numerator))
        none = self.zero_t * functional.cast(scaling_sens, functional.dtype(denominator))
        sens = (self.cast(sens, mstype.float32), self.cast(none, mstype.float32))
        grads = self.grad(self.network, self.weights)(*inputs, sens)
        return loss, grads, total
