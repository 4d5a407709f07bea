import hashlib

import numpy as np
import pytest

from backends.recipe.types import PetConfig
from backends.weights.lora import hf_modules, initial_lora_a, target_layers
from converters.common.errors import UserError


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        (".*wq|.*wv", ["wq", "wv"]),
        ("wq|wk|wv|wo", ["wq", "wk", "wv", "wo"]),
        (".*wq|.*wk|.*wv|.*wo|.*w1|.*w2|.*w3", ["wq", "wk", "wv", "wo", "w1", "w2", "w3"]),
        (".*", ["wq", "wk", "wv", "wo", "w1", "w2", "w3"]),
        ("w[12]$", ["w1", "w2"]),
        ("q_proj|v_proj", ["wq", "wv"]),
        ("down_proj", ["w2"]),
    ],
)
def test_expressions_choose_layers_by_their_own_name(pattern, layers):
    assert target_layers(PetConfig(target_modules=pattern)) == layers


def test_names_on_the_hugging_face_side():
    assert hf_modules(PetConfig(target_modules=".*wq|.*wv")) == ["q_proj", "v_proj"]
    assert hf_modules(PetConfig(target_modules="w1|w2|w3")) == ["gate_proj", "down_proj", "up_proj"]


def test_layers_can_be_taken_out():
    assert target_layers(PetConfig(target_modules=".*", exclude_layers=["w[123]", "wo"])) == ["wq", "wk", "wv"]


@pytest.mark.parametrize(
    ("pet", "message"),
    [
        (PetConfig(target_modules=r".*\.layers\.[2-9]\d.*?(wq|wv)"), "chooses none of wq, wk.*without its path"),
        (PetConfig(target_modules="(wq"), "is not a regular expression"),
        (PetConfig(target_modules="wq", exclude_layers=["w"]), "chooses none"),
    ],
)
def test_what_chooses_nothing_is_refused(pet, message):
    with pytest.raises(UserError, match=message):
        target_layers(pet)


def test_the_start_of_lora_a_is_fixed_to_the_bit():
    start = initial_lora_a(seed=0, layer=3, name="wq", rank=8, width=64)
    assert start.shape == (8, 64)
    assert start.dtype == np.float32
    assert hashlib.sha256(start.tobytes()).hexdigest()[:16] == "d3d6bffdab730ae2"


def test_the_start_depends_on_seed_layer_and_name_and_stays_in_bounds():
    starts = [initial_lora_a(seed, layer, name, 4, 100) for seed in (0, 1) for layer in (0, 1) for name in ("wq", "wv")]
    assert len({start.tobytes() for start in starts}) == 8
    for start in starts:
        assert np.abs(start).max() <= 0.1
        assert np.abs(start).max() > 0.09
