"""What a run leaves behind: the PEFT adapter or the Hugging Face model, and mindformers' own checkpoint beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from backends.ascend.train.job import Job
from backends.ascend.train.state import hf_names
from backends.exchange.adapters import adapter_from_mindformers
from backends.exchange.models import config_from_recipe
from backends.recipe.types import ModelConfig, Recipe
from backends.weights.dtypes import FLOATS, numpy_types
from backends.weights.files import MODEL_CONFIG, adding_files
from backends.weights.safetensors_files import ShardWriter
from converters.common.reader import read_json

MINDFORMERS = "mindformers"


def save_weights(values: dict[str, np.ndarray], recipe: Recipe, job: Job, folder: Path, dtype: str = "float32") -> None:
    """Write the adapter, or the whole model, into an existing directory.

    Args:
        values: trained parameters by mindformers' names.
        recipe: of the run.
        job: of the run.
        folder: an existing directory.
        dtype: of a whole model's weights; an adapter keeps its own.
    """
    if recipe.pet is not None:
        adapter_from_mindformers(values, recipe.pet, job.base, folder)
        return
    kind = numpy_types()[FLOATS[dtype]]
    with ShardWriter(folder) as writer:
        for name, value in hf_names(values).items():
            writer.add(name, value.astype(kind, copy=False))
    config = model_config(recipe, job) | {"dtype": dtype}
    (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def model_config(recipe: Recipe, job: Job) -> dict[str, Any]:
    """``config.json`` of the trained model: the base's, or made from the recipe's sizes."""
    source = Path(recipe.load_checkpoint) / MODEL_CONFIG
    if recipe.load_checkpoint and source.is_file():
        config = read_json(source)
        config.pop("torch_dtype", None)
        return config
    stated = recipe.model.model_config
    sizes = {key: value for key, value in job.sizes.items() if hasattr(stated, key)}
    fields = {key: getattr(stated, key) for key in ModelConfig.__dataclass_fields__} | sizes
    return config_from_recipe(ModelConfig(**fields), recipe.path)


def save_product(values: dict[str, np.ndarray], recipe: Recipe, job: Job, folder: Path) -> None:
    """Put the trained weights at the top of the run directory, each file whole or absent."""
    with adding_files(folder) as temporary:
        save_weights(values, recipe, job, temporary, recipe.model.model_config.param_init_type)
        with ShardWriter(temporary, max_shard_bytes=None, stem=MINDFORMERS, metadata={}) as writer:
            for name, value in values.items():
                writer.add(name, value)
