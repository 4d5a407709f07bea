"""What a run writes: checkpoints to resume from, and its product.

Weights are stored as every backend stores them, a PEFT adapter or a Hugging Face model; mindformers' own checkpoint
lies beside the product.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from backends.ascend.device import speak
from backends.ascend.train.job import Job, layout_of, remove_start
from backends.exchange.adapters import adapter_from_mindformers
from backends.exchange.models import config_from_recipe
from backends.recipe.types import ModelConfig, Recipe
from backends.run.directory import Run
from backends.run.resume import remove_old_checkpoints, write_result, write_state
from backends.weights.dtypes import FLOATS, numpy_types
from backends.weights.files import ADAPTER_WEIGHTS, MODEL_CONFIG, adding_files
from backends.weights.model_config import has_config, load_config
from backends.weights.names import peft_to_mindformers, to_hf, to_mindformers
from backends.weights.safetensors_files import ShardWriter, Tensors, open_tensors
from converters.common.errors import UserError
from converters.common.reader import read_json

MINDFORMERS = "mindformers"
OPTIMIZER = "optimizer"
STEP = "global_step"


def trained_values(optimizer: Any) -> dict[str, np.ndarray]:
    """Return the values of the trained parameters, by mindformers' names."""
    return {parameter.name: parameter.asnumpy() for parameter in optimizer.parameters}


def save_moments(optimizer: Any, folder: Path) -> None:
    """Write AdamW's moments and the number of steps done into ``optimizer.safetensors``.

    Args:
        optimizer: mindformers' AdamW.
        folder: an existing directory.
    """
    with ShardWriter(folder, max_shard_bytes=None, stem=OPTIMIZER) as writer:
        for moments in (optimizer.exp_avg, optimizer.exp_avg_sq):
            for moment in moments:
                writer.add(moment.name, moment.asnumpy())
        writer.add(STEP, optimizer.global_step.asnumpy())


def restore(optimizer: Any, folder: Path) -> None:
    """Restore parameters, moments and number of steps from a checkpoint.

    Args:
        optimizer: mindformers' AdamW; its parameters are set, too.
        folder: the checkpoint.

    Raises:
        UserError: the checkpoint lacks a tensor or has one of another shape.
    """
    weights, moments = open_tensors(folder), open_tensors(folder / f"{OPTIMIZER}.safetensors")
    adapter = (folder / ADAPTER_WEIGHTS).is_file()
    # from the file's names to those of the optimizer's parameters
    names = {(peft_to_mindformers if adapter else to_mindformers)(name): name for name in weights.names()}
    for parameter in optimizer.parameters:
        _set(parameter, weights, names.get(parameter.name, parameter.name))
    for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq):
        _set(moment, moments, moment.name)
    _set(optimizer.global_step, moments, STEP)


def _set(parameter: Any, tensors: Tensors, name: str) -> None:
    from mindspore import Tensor

    values = tensors.read(name)
    if tuple(values.shape) != tuple(parameter.shape):
        raise UserError(f"{tensors.path}: {name} has shape {list(values.shape)}, expected {list(parameter.shape)}")
    parameter.set_data(Tensor(values, dtype=parameter.dtype))


def save_weights(values: dict[str, np.ndarray], recipe: Recipe, job: Job, folder: Path, dtype: str = "float32") -> None:
    """Write the adapter, or the whole model, into an existing directory.

    Args:
        values: trained parameters by mindformers' names.
        recipe: the run's recipe.
        job: the run's job.
        folder: an existing directory.
        dtype: type of a whole model's weights; an adapter keeps its own.
    """
    if recipe.pet is not None:
        adapter_from_mindformers(values, recipe.pet, job.base, folder)
        return
    kind = numpy_types()[FLOATS[dtype]]
    with ShardWriter(folder) as writer:
        for name, value in values.items():
            writer.add(to_hf(name), value.astype(kind, copy=False))
    config = model_config(recipe, job) | {"dtype": dtype}
    (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def model_config(recipe: Recipe, job: Job) -> dict[str, Any]:
    """Return ``config.json`` of the trained model: the base's, or one made from the recipe's sizes."""
    if recipe.load_checkpoint and has_config(recipe.load_checkpoint):
        config = load_config(recipe.load_checkpoint)
        # the older name of "dtype", which the caller sets
        config.pop("torch_dtype", None)
        return config
    stated = recipe.model.model_config
    sizes = {key: value for key, value in job.sizes.items() if hasattr(stated, key)}
    fields = {key: getattr(stated, key) for key in ModelConfig.__dataclass_fields__} | sizes
    return config_from_recipe(ModelConfig(**fields), recipe.path)


def save_final_weights(values: dict[str, np.ndarray], recipe: Recipe, job: Job, folder: Path) -> None:
    """Put the trained weights at the top of the run directory, each file whole or absent."""
    with adding_files(folder) as temporary:
        save_weights(values, recipe, job, temporary, recipe.model.model_config.param_init_type)
        with ShardWriter(temporary, max_shard_bytes=None, stem=MINDFORMERS, metadata={}) as writer:
            for name, value in values.items():
                writer.add(name, value)


def save_checkpoint(run: Run, recipe: Recipe, job: Job, optimizer: Any, step: int) -> None:
    """Write one checkpoint (weights, moments, ``state.json``), then delete those that are too old."""
    with run.writing_checkpoint(step) as folder:
        save_weights(trained_values(optimizer), recipe, job, folder)
        save_moments(optimizer, folder)
        write_state(
            folder,
            recipe,
            step=step,
            total=job.steps,
            backend="ascend",
            dtype=job.dtype,
            layout=layout_of(job),
            rows_sha256=read_json(run.path / "data.json")["rows_sha256"],
        )
    remove_old_checkpoints(run, recipe)


def finish(run: Run, recipe: Recipe, job: Job, values: dict[str, np.ndarray], rows: list[dict[str, Any]]) -> None:
    """Write the product, then the result, whose presence marks the run as finished.

    Args:
        run: the run directory.
        recipe: the run's recipe.
        job: the run's job.
        values: trained parameters by mindformers' names.
        rows: the lines of the log.
    """
    save_final_weights(values, recipe, job, run.path)
    write_result(run, recipe, rows, sum(value.size for value in values.values()), speak)
    remove_start(run)
