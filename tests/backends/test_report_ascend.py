"""The reports' recipes on Ascend: what mindformers' Llama holds of Qwen2.5, Qwen1.5 and Llama-2; Gemma is refused."""

import math

import pytest

from backends.ascend.sizes import lora_shapes, model_sizes, parameter_shapes
from backends.ascend.train.config import mindformers_config
from backends.ascend.train.job import Job
from backends.recipe.load import load_recipe
from converters.common.errors import UserError
from converters.common.shipped import DEFAULT_RECIPE

# all parameters, tensors of the adapter, parameters of the adapter: as `plan` and transformers count them
CARRIED = {
    "qwen2_5_3b_rte": (3_085_938_688, 144, 1_843_200),
    "qwen2_5_3b_mnli": (3_085_938_688, 144, 1_843_200),
    "qwen1_8b_novel": (1_836_828_672, 336, 7_495_680),
    "llama2_7b_webqa": (6_738_415_616, 448, 159_907_840),
}


def recipe_of(name):
    return load_recipe(DEFAULT_RECIPE.parent / f"{name}.yaml")


def job(recipe, tmp_path, **changes):
    settings = {
        "run": str(tmp_path),
        "device": "npu",
        "dtype": "bfloat16",
        "sizes": model_sizes(recipe),
        "rows": 6400,
        "steps": 100,
        "steps_per_epoch": 100,
        "first_step": 0,
        "checkpoint": None,
        "data": "/data/rows.mindrecord",
        "start": "/data/start.safetensors",
        "base": "/base",
        "pad_id": 2,
        "bos_id": 0,
    }
    return Job(**(settings | changes))


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("name", CARRIED)
def test_mindformers_llama_has_the_models_weights(name):
    recipe = recipe_of(name)
    parameters, tensors, trainable = CARRIED[name]
    sizes = model_sizes(recipe)
    assert count(parameter_shapes(sizes)) == parameters
    adapter = lora_shapes(sizes, recipe)
    assert (len(adapter), count(adapter)) == (tensors, trainable)


@pytest.mark.parametrize("name", CARRIED)
@pytest.mark.parametrize(("device", "dtype"), [("npu", "bfloat16"), ("cpu", "float32")])
def test_the_recipe_is_completed_for_mindformers(name, device, dtype, tmp_path):
    recipe = recipe_of(name)
    raw, _ = mindformers_config(recipe, job(recipe, tmp_path, device=device, dtype=dtype))
    model = raw["model"]["model_config"]
    assert model["qkv_has_bias"] is name.startswith("qwen")
    assert model["compute_dtype"] == dtype
    assert raw["lr_schedule"]["learning_rate"] == recipe.lr_schedule.learning_rate


@pytest.mark.parametrize("name", ["gemma_2b_qqp", "gemma_2b_cola"])
def test_gemma_is_refused(name, tmp_path):
    recipe = recipe_of(name)
    with pytest.raises(UserError, match=r"model_config\.type: found 'GemmaConfig'; this backend does LlamaConfig"):
        mindformers_config(recipe, job(recipe, tmp_path))
