"""What is checked before a row is read: weights that are there, and settings this backend can honour."""

from __future__ import annotations

from pathlib import Path

from backends.cuda.model import read_config
from backends.recipe.schedule import learning_rate
from backends.recipe.types import Recipe
from backends.run.rows import NO_DATA
from backends.weights.lora import target_layers
from converters.common.errors import UsageError, UserError

ADAMW = ("AdamW", "FP32StateAdamWeightDecay", "AdamWeightDecay", "FusedAdamW")


def check_inputs(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be run as it is written.

    Raises:
        UsageError: weights or data are missing.
        UserError: a setting asks for what this backend does not do.
    """
    weights = recipe.load_checkpoint
    if recipe.run_mode == "finetune" and not weights:
        raise UsageError(
            "no weights: set load_checkpoint=DIR to a Hugging Face model directory "
            "(run_mode=train starts from random weights)"
        )
    if weights and Path(weights).is_file():
        raise UserError(f"load_checkpoint: {weights} is a file; this backend reads Hugging Face model directories")
    if weights:
        read_config(weights)
    if not recipe.data.train:
        raise UsageError(NO_DATA)
    if recipe.pet is not None:
        target_layers(recipe.pet)
    learning_rate(recipe.lr_schedule, 0, 1, 0)
    config = recipe.model.model_config
    random_start = not weights
    rate = recipe.optimizer.learning_rate
    asked = [
        (recipe.optimizer.type not in ADAMW, "optimizer.type", recipe.optimizer.type, "AdamW"),
        (rate not in (None, recipe.lr_schedule.learning_rate), "optimizer.learning_rate", rate, "lr_schedule's alone"),
        (recipe.layer_scale, "layer_scale", recipe.layer_scale, "False"),
        (recipe.lr_scale, "lr_scale", recipe.lr_scale, "False"),
        (recipe.do_eval, "do_eval", recipe.do_eval, "False; evaluate the run afterwards"),
        (random_start and config.type != "LlamaConfig", "model_config.type", config.type, "LlamaConfig"),
        (random_start and config.extend_method != "None", "model_config.extend_method", config.extend_method, "None"),
        (random_start and config.scaling_factor != 1.0, "model_config.scaling_factor", config.scaling_factor, "1.0"),
        (
            random_start and config.qkv_has_bias != config.attn_proj_has_bias,
            "model_config.qkv_has_bias",
            config.qkv_has_bias,
            f"{config.attn_proj_has_bias}, as attn_proj_has_bias: a new model has both biases or none",
        ),
        (
            random_start and config.head_dim is None and config.hidden_size % config.num_heads != 0,
            "model_config.hidden_size",
            config.hidden_size,
            f"a multiple of num_heads {config.num_heads}",
        ),
        (
            random_start and config.num_heads % config.kv_heads != 0,
            "model_config.n_kv_heads",
            config.kv_heads,
            f"a divisor of num_heads {config.num_heads}",
        ),
    ]
    for bad, key, found, wanted in asked:
        if bad:
            raise UserError(f"{key}: found {found!r}; this backend does {wanted}")
    if not recipe.train_dataset.get("drop_remainder", True):
        raise UserError("train_dataset.drop_remainder: found False; this backend does True (steps of equal weight)")
