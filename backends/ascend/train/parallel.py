"""How workers divide the work of a recipe, and which of its settings this backend or a device cannot run."""

from __future__ import annotations

from typing import Any

from backends.recipe.types import Recipe
from backends.run.resume import check_settings
from converters.common.errors import UserError


def check_recipe(recipe: Recipe, device: str, workers: int) -> None:
    """Refuse a recipe with settings that this backend or device cannot run.

    Args:
        recipe: what to train.
        device: ``npu`` or ``cpu``.
        workers: number of processes.

    Raises:
        UsageError: LoRA names no layer, or the schedule is not known.
        UserError: names the setting, what was found and what is done instead.
    """
    config, arch, parallel = recipe.model.model_config, recipe.model.arch.type, _settings(recipe)
    check_settings(
        recipe,
        [
            (config.type != "LlamaConfig", "model_config.type", config.type, "LlamaConfig"),
            (arch != "LlamaForCausalLM", "arch.type", arch, "LlamaForCausalLM"),
            (config.qkv_concat, "model_config.qkv_concat", True, "False: LoRA names wq, wk and wv apart"),
            (config.use_past, "model_config.use_past", True, "False in training"),
        ],
    )
    if parallel_layout(recipe, workers) != "recipe":
        return
    for key in ("model_parallel", "pipeline_stage"):
        if device == "cpu" and int(parallel.get(key, 1)) > 1:
            raise UserError(
                f"parallel_config.{key} {parallel[key]}: MindSpore's CPU build has no backend for it; "
                f"set parallel_config.{key}=1, and --workers N splits the rows instead"
            )
    if cards_of(recipe) != workers:
        raise UserError(
            f"parallel_config: data_parallel {parallel.get('data_parallel', 1)} × model_parallel × pipeline_stage make "
            f"{cards_of(recipe)} workers, not {workers}; change one of them"
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.raw.get("parallel_config") or {}


def shards(recipe: Recipe) -> int:
    """Return the number of cards that one copy of the model is split over, by ``parallel_config``."""
    parallel = _settings(recipe)
    return int(parallel.get("model_parallel", 1)) * int(parallel.get("pipeline_stage", 1))


def cards_of(recipe: Recipe) -> int:
    """Return the number of cards that ``parallel_config`` asks for: cards of one copy times copies."""
    return shards(recipe) * int(_settings(recipe).get("data_parallel", 1))


def parallel_layout(recipe: Recipe, workers: int) -> str:
    """Return how workers divide the work.

    Returns:
        ``one``: a single worker. ``data``: each worker has the whole model and a share of the rows. ``recipe``: the
        model is split over cards, as ``parallel_config`` says.
    """
    if workers == 1:
        return "one"
    return "recipe" if shards(recipe) > 1 else "data"


def is_cut(recipe: Recipe, workers: int) -> bool:
    """Whether the model is split over several cards, so that no worker alone can write the trained weights."""
    return parallel_layout(recipe, workers) == "recipe"


def share_of_worker(recipe: Recipe, workers: int) -> int:
    """Return the number of a step's rows that one copy of the model takes.

    Raises:
        UserError: a step's rows cannot be dealt out evenly.
    """
    batch = recipe.runner_config.batch_size
    copies = workers
    if parallel_layout(recipe, workers) == "recipe":
        copies = int(_settings(recipe).get("data_parallel", 1))
    if batch % copies:
        raise UserError(f"runner_config.batch_size {batch}: cannot be dealt out to {copies} workers evenly")
    return batch // copies
