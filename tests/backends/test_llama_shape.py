"""The one geometry of a Llama: every view of it says the same sizes."""

import math

import pytest

from backends.recipe.types import ModelConfig
from backends.weights.llama import LlamaShape, check_shapes
from backends.weights.lora import LINEAR_LAYERS
from backends.weights.names import mindformers_to_peft, peft_to_mindformers, to_hf, to_mindformers
from converters.common.errors import UserError

SHAPES = {
    "llama": LlamaShape(layers=2, hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocab=100),
    "biased": LlamaShape(2, 32, 48, 4, 4, 8, 100, qkv_bias=True, o_bias=True),
    "qwen2": LlamaShape(3, 32, 48, 4, 1, 8, 100, tied=True, qkv_bias=True, architecture="qwen2"),
    "wide heads": LlamaShape(1, 24, 48, 4, 2, 16, 100, tied=True),
}
each = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@each
def test_configuration_and_recipe_state_the_same_sizes(shape):
    assert LlamaShape.from_config(shape.to_config(), "") == shape
    recipe = ModelConfig(**shape.to_model_config(), head_dim=shape.head_dim)
    assert LlamaShape.from_recipe(recipe) == shape
    assert LlamaShape.from_recipe(recipe).architecture == shape.architecture


@each
def test_parameters_are_those_of_the_shapes(shape):
    shapes = shape.parameter_shapes()
    assert shape.parameters == sum(math.prod(widths) for widths in shapes.values())
    matrices = [widths for name, widths in shapes.items() if name.endswith("_proj.weight")]
    assert shape.matrix_parameters == sum(map(math.prod, matrices)) + shape.vocab * shape.hidden
    assert len(matrices) == 7 * shape.layers
    assert [to_hf(to_mindformers(name)) for name in shapes] == list(shapes)


@each
def test_an_adapter_has_two_matrices_for_every_linear_layer(shape):
    adapter = shape.adapter_shapes(LINEAR_LAYERS, 3)
    assert shape.lora_parameters(LINEAR_LAYERS, 3) == sum(map(math.prod, adapter.values()))
    assert [mindformers_to_peft(peft_to_mindformers(name)) for name in adapter] == list(adapter)
    weights = shape.parameter_shapes()
    for name, widths in adapter.items():
        module, half = name.removeprefix("base_model.model.").split(".lora_")
        out, width = weights[f"{module}.weight"]
        assert widths == {"A.weight": (3, width), "B.weight": (out, 3)}[half]


def test_a_size_that_is_missing_is_named():
    config = SHAPES["llama"].to_config() | {"vocab_size": None}
    with pytest.raises(UserError, match=r"config\.json: vocab_size: found None, expected a whole number"):
        LlamaShape.from_config(config, "config.json")


def test_differences_are_listed():
    expected = SHAPES["llama"].parameter_shapes()
    found = expected | {"model.norm.weight": (31,), "more": (1,)}
    del found["lm_head.weight"]
    with pytest.raises(UserError) as caught:
        check_shapes(found, expected, "FILE", "CONFIG")
    assert str(caught.value) == (
        "FILE does not fit CONFIG: 1 missing: lm_head.weight; 1 extra: more; "
        "1 of another shape: model.norm.weight [31], expected [32]"
    )
