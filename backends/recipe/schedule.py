"""The learning rate of mindformers' ``CosineWithWarmUpLR``, in plain Python.

Step indices start at 0, as mindformers' optimizers count them: with a warm-up the first step has the rate
``warmup_lr_init`` (0), step ``k`` of ``w`` warm-up steps has ``lr · k / w``, and from there half a cosine
leads to ``lr_end`` (mindformers/core/lr/lr_schedule.py, ``CosineWithWarmUpLR.construct``).
"""

from __future__ import annotations

import math

from backends.recipe.types import LrSchedule
from converters.common.errors import UserError


def warmup_steps(schedule: LrSchedule, total_steps: int, steps_per_epoch: int) -> int:
    """Return the number of steps of the linear warm-up.

    Args:
        schedule: ``lr_schedule`` of the recipe; ``warmup_ratio`` outranks ``warmup_epochs``, which outranks
            ``warmup_steps``.
        total_steps: steps over which the schedule runs; ``warmup_ratio`` is a share of them, rounded down.
        steps_per_epoch: optimizer steps of one epoch, for ``warmup_epochs``.
    """
    if schedule.warmup_ratio is not None:
        return int(total_steps * schedule.warmup_ratio)
    if schedule.warmup_epochs:
        return schedule.warmup_epochs * steps_per_epoch
    return schedule.warmup_steps


def learning_rate(schedule: LrSchedule, step: int, total_steps: int, warmup: int) -> float:
    """Return the learning rate of one optimizer step.

    Args:
        schedule: ``lr_schedule`` of the recipe.
        step: index of the step, from 0.
        total_steps: steps over which the cosine falls (``total_steps`` of the recipe, or the run's steps at -1).
        warmup: steps of the warm-up (:func:`warmup_steps`).

    Raises:
        UserError: the schedule's type is not one that is known.
    """
    peak, start, end = schedule.learning_rate, schedule.warmup_lr_init, schedule.lr_end
    if schedule.type not in ("CosineWithWarmUpLR", "ConstantWarmUpLR"):
        raise UserError(f"lr_schedule.type: found {schedule.type!r}, expected CosineWithWarmUpLR or ConstantWarmUpLR")
    # asked before the warm-up, as in mindformers: from total_steps on the rate is lr_end, even inside a warm-up
    if schedule.type == "CosineWithWarmUpLR" and step >= total_steps:
        return end
    if step < warmup:
        return start + (peak - start) * step / warmup
    if schedule.type == "ConstantWarmUpLR":
        return peak
    # max(1, …) as in mindformers: a warm-up as long as the run leaves no cosine to divide by
    progress = (step - warmup) / max(1, total_steps - warmup)
    return end + (peak - end) * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
