"""What every backend refuses before a row is read: settings that cannot be run as they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.recipe.schedule import learning_rate
from backends.recipe.types import Recipe
from backends.weights.lora import target_layers
from converters.common.errors import UsageError, UserError

ADAMW = ("AdamW", "FP32StateAdamWeightDecay", "AdamWeightDecay", "FusedAdamW")
"""Names of AdamW in mindformers, past and present."""

Refusal = tuple[bool, str, Any, str]
"""Whether a setting is refused, its key, what was found, and what is done instead."""


def check_weights_named(recipe: Recipe, kinds: str) -> None:
    """Refuse to fine-tune nothing.

    Args:
        recipe: what is to be run.
        kinds: what ``load_checkpoint`` may be, for the message.

    Raises:
        UsageError: no weights are named.
    """
    if recipe.run_mode == "finetune" and not recipe.load_checkpoint:
        raise UsageError(f"no weights: set load_checkpoint={kinds} (run_mode=train starts from random weights)")


def check_settings(recipe: Recipe, more: Iterable[Refusal] = ()) -> None:
    """Refuse settings that no backend honours, and those that this one does not.

    Args:
        recipe: what is to be run.
        more: what this backend refuses beyond that.

    Raises:
        UsageError: LoRA names no layer, or the schedule is not known.
        UserError: names the setting, what was found and what is done instead.
    """
    if recipe.pet is not None:
        target_layers(recipe.pet)
    learning_rate(recipe.lr_schedule, 0, 1, 0)
    optimizer, rate = recipe.optimizer.type, recipe.optimizer.learning_rate
    refusals: list[Refusal] = [
        (optimizer not in ADAMW, "optimizer.type", optimizer, "AdamW"),
        (rate not in (None, recipe.lr_schedule.learning_rate), "optimizer.learning_rate", rate, "lr_schedule's alone"),
        (recipe.layer_scale, "layer_scale", recipe.layer_scale, "False"),
        (recipe.lr_scale, "lr_scale", recipe.lr_scale, "False"),
        (recipe.do_eval, "do_eval", recipe.do_eval, "False; evaluate the run afterwards"),
        *more,
    ]
    for refused, key, found, wanted in refusals:
        if refused:
            raise UserError(f"{key}: found {found!r}; this backend does {wanted}")
    if not recipe.train_dataset.get("drop_remainder", True):
        raise UserError("train_dataset.drop_remainder: found False; this backend does True (steps of equal weight)")
