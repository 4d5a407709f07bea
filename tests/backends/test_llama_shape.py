"""The one geometry of a Llama: every view of it says the same sizes."""

import json
import math

import pytest

from backends.recipe.load import load_recipe
from backends.recipe.types import ModelConfig
from backends.weights.llama import LlamaShape, check_shapes
from backends.weights.lora import LINEAR_LAYERS
from backends.weights.model_config import checkpoint_differences
from backends.weights.names import mindformers_to_peft, peft_to_mindformers, to_hf, to_mindformers
from backends.weights.rotary import rotary_settings
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


@pytest.mark.parametrize(
    ("keys", "base", "scaling"),
    [
        ({}, 10000.0, {}),
        ({"rope_theta": 100000.0}, 100000.0, {}),
        ({"rope_theta": 100000.0, "rope_scaling": None}, 100000.0, {}),
        ({"rope_parameters": {"rope_theta": 100000, "rope_type": "default"}}, 100000.0, {}),
        # both: transformers 5 reads its own key
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 100000.0}}, 100000.0, {}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            5e5,
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
            5e5,
            {"rope_type": "linear", "factor": 2.0},
        ),
    ],
)
def test_the_rotary_base_is_read_in_both_spellings(keys, base, scaling):
    config = SHAPES["llama"].to_config() | keys
    assert rotary_settings(config) == (base, scaling)
    assert LlamaShape.from_config(config, "").rotary_base == base


def test_what_a_recipe_states_and_its_checkpoint_has_otherwise_is_said_in_a_line_each(tmp_path):
    config = SHAPES["llama"].to_config() | {
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "rms_norm_eps": 9.99999974e-06,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))

    def lines(**stated):
        model_config = {"seq_length": 64, **stated}
        recipe = {"load_checkpoint": str(tmp_path), "model": {"model_config": model_config}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        return checkpoint_differences(load_recipe(tmp_path / "recipe.yaml"))

    # a float32 of 1e-5 is 1e-5
    assert lines(theta=100000, rms_norm_eps="1e-5", vocab_size=100, tie_word_embeddings=True, head_dim=8) == []
    found = lines(
        theta=500000.0, rms_norm_eps=1e-6, vocab_size=99, tie_word_embeddings=False, head_dim=16, num_layers=2
    )
    assert [line.split(" → ")[0].removeprefix("model: the recipe says ") for line in found] == [
        "head_dim 16",
        "vocab_size 99",
        "tie_word_embeddings False",
        "theta 500000.0",
        "rms_norm_eps 1e-06",
    ]
    assert all(line.endswith("in the checkpoint, which is what counts") for line in found)
    [line] = lines(seq_length=65)
    assert line.startswith("model: seq_length 65 is more than the 64 positions that the checkpoint was made for")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    assert lines(theta=1) == []
