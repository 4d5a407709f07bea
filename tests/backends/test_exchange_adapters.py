"""LoRA adapters between PEFT and mindformers: bit for bit, and the scaling goes along by itself."""

import json

import numpy as np
import pytest
import yaml
from exchange_files import LLAMA3, read_all, write_adapter, write_ckpt, write_hf_model, write_safetensors
from hypothesis import given
from hypothesis import strategies as st

from backends.exchange.adapters import adapter_from_mindformers, adapter_to_mindformers, adapter_to_peft
from backends.recipe.types import PetConfig
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import peft_to_mindformers
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError

MODULES = ["q_proj", "v_proj", "gate_proj", "down_proj"]


@given(
    rank=st.integers(1, 5),
    alpha=st.sampled_from([1, 16, 12.5]),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    modules=st.sets(st.sampled_from(MODULES), min_size=1).map(sorted),
    suffix=st.sampled_from([".ckpt", ".safetensors"]),
)
def test_there_and_back_is_the_same_adapter(tmp_path_factory, rank, alpha, dtype, modules, suffix):
    home = tmp_path_factory.mktemp("adapter")
    arrays = write_adapter(home / "peft", rank, dtype, modules=modules, lora_alpha=alpha, lora_dropout=0.1)
    (home / "peft/template.json").write_text("{}")
    file = home / f"lora{suffix}"
    adapter_to_mindformers(home / "peft", file)
    stored = open_weights(file)
    assert sorted(stored.names()) == sorted(map(peft_to_mindformers, arrays))
    adapter_to_peft(file, home / "again")
    assert read_all(home / "again") == read_all(home / "peft")
    before, after = ((home / name / "adapter_config.json").read_text() for name in ("peft", "again"))
    assert json.loads(after) == json.loads(before)
    assert (home / "again/template.json").is_file()


def test_a_safetensors_file_alone_keeps_the_scaling(tmp_path):
    write_adapter(tmp_path / "peft", lora_alpha=12)
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "lora.safetensors")
    (tmp_path / "lora.safetensors").rename(tmp_path / "sent.safetensors")
    adapter_to_peft(tmp_path / "sent.safetensors", tmp_path / "again")
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["lora_alpha"] == 12


@pytest.fixture
def foreign(tmp_path):
    """The arrays of a LoRA file that mindformers wrote, with nothing beside it."""
    arrays = write_adapter(tmp_path / "peft")
    return {peft_to_mindformers(name): array for name, array in arrays.items()}


def test_alpha_is_asked_for_only_where_nothing_records_it(tmp_path, foreign):
    file = write_ckpt(tmp_path / "x.ckpt", foreign)
    with pytest.raises(UserError, match=r"nothing says its lora_alpha .*--config FILE.*--lora-alpha N"):
        adapter_to_peft(file, tmp_path / "out")
    adapter_to_peft(file, tmp_path / "out", alpha=16, base="somewhere")
    assert read_all(tmp_path / "out") == read_all(tmp_path / "peft")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 16, ["q_proj", "v_proj"])
    assert config["base_model_name_or_path"] == "somewhere"


def test_another_alpha_than_the_recorded_one_is_refused(tmp_path):
    write_adapter(tmp_path / "peft")
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt")
    adapter_to_peft(tmp_path / "x.ckpt", tmp_path / "same", alpha=16)
    with pytest.raises(UserError, match="says lora_alpha 16, --lora-alpha says 8: leave that out"):
        adapter_to_peft(tmp_path / "x.ckpt", tmp_path / "out", alpha=8)
    with pytest.raises(UserError, match=r"says lora_alpha 16, .*other\.yaml says 6: leave that out"):
        adapter_to_peft(tmp_path / "x.ckpt", tmp_path / "out", recipe=write_recipe(tmp_path / "other.yaml"))


def write_recipe(file, **pet):
    file.parent.mkdir(parents=True, exist_ok=True)
    pet = {"lora_rank": 2, "lora_alpha": 6, "lora_dropout": 0.1, "target_modules": ".*wq|.*wv"} | pet
    file.write_text(yaml.safe_dump({"load_checkpoint": "base", "model": {"model_config": {"pet_config": pet}}}))
    return file


def test_the_recipe_around_or_named_gives_the_scaling(tmp_path, foreign):
    write_recipe(tmp_path / "run/recipe.yaml")
    (tmp_path / "run/checkpoint/rank_0").mkdir(parents=True)
    adapter_to_peft(write_ckpt(tmp_path / "run/checkpoint/rank_0/x.ckpt", foreign), tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["lora_alpha"], config["lora_dropout"], config["base_model_name_or_path"]) == (6, 0.1, "base")
    write_adapter(tmp_path / "run", base="/where/it/is", lora_alpha=6)
    adapter_to_peft(tmp_path / "run/checkpoint/rank_0/x.ckpt", tmp_path / "out1")
    assert json.loads((tmp_path / "out1/adapter_config.json").read_text())["base_model_name_or_path"] == "/where/it/is"
    named = write_recipe(tmp_path / "other.yaml", lora_alpha=3)
    adapter_to_peft(write_ckpt(tmp_path / "x.ckpt", foreign), tmp_path / "out2", recipe=named)
    assert json.loads((tmp_path / "out2/adapter_config.json").read_text())["lora_alpha"] == 3


@pytest.mark.parametrize(
    ("pet", "problem"),
    [
        ({"lora_rank": 4}, "rank 2 of q_proj, v_proj, but .* says rank 4"),
        ({"target_modules": "wq"}, "rank 2 of q_proj, v_proj, but .* of q_proj$"),
    ],
)
def test_a_recipe_of_another_lora_is_refused(tmp_path, foreign, pet, problem):
    recipe = write_recipe(tmp_path / "other.yaml", **pet)
    with pytest.raises(UserError, match=problem):
        adapter_to_peft(write_ckpt(tmp_path / "x.ckpt", foreign), tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


def test_a_run_that_trained_every_weight_says_no_scaling(tmp_path, foreign):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("load_checkpoint: base\n")
    file = write_ckpt(tmp_path / "run/x.ckpt", foreign)
    with pytest.raises(UserError, match="nothing says its lora_alpha"):
        adapter_to_peft(file, tmp_path / "out")
    adapter_to_peft(file, tmp_path / "out", alpha=3)
    with pytest.raises(UserError, match="no pet_config there"):
        adapter_to_peft(file, tmp_path / "out2", recipe=tmp_path / "run/recipe.yaml")


def test_targets_as_an_expression_come_back(tmp_path):
    write_adapter(tmp_path / "peft", target_modules=r".*\.(q|v)_proj")
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt")
    adapter_to_peft(tmp_path / "x.ckpt", tmp_path / "again")
    before, after = ((tmp_path / name / "adapter_config.json").read_text() for name in ("peft", "again"))
    assert json.loads(after) == json.loads(before)


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object is expected"),
        ('{"peft_type": "LORA", "r": 2}', "lora_alpha: found None"),
    ],
)
def test_a_damaged_record_is_said(tmp_path, foreign, recorded, problem):
    file = write_safetensors(tmp_path / "x.safetensors", foreign, {"adapter_config": recorded})
    with pytest.raises(UserError, match=f"the metadata of .*{problem}"):
        adapter_to_peft(file, tmp_path / "out")
    (tmp_path / "y.ckpt.hf").mkdir()
    (tmp_path / "y.ckpt.hf/adapter_config.json").write_text(recorded)
    with pytest.raises(UserError, match=rf"adapter_config\.json: .*{problem}"):
        adapter_to_peft(write_ckpt(tmp_path / "y.ckpt", foreign), tmp_path / "out")


def test_what_is_no_lora_is_left_out_and_counted(tmp_path, foreign, capsys):
    copies = {f"adam_m.{name}": array for name, array in foreign.items()}
    base = {"model.norm_out.weight": np.ones(16, np.float32), "global_step": np.array(3)}
    adapter_to_peft(write_ckpt(tmp_path / "x.ckpt", {**base, **foreign, **copies}), tmp_path / "out", alpha=1)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "peft")
    assert "8 LoRA matrices taken, 10 other tensors left out" in capsys.readouterr().err


def without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda arrays: {}, "holds no tensors"),
        (without("model.layers.1.attention.wq.mindpet_delta_lora_b"), r"1 LoRA matrices are missing, .*q_proj\.lora_B"),
        (lambda a: {**a, "model.layers.0.attention.wq.mindpet_delta_lora_a": np.ones((3, 16))}, "several ranks"),
        (lambda a: {**a, "model.layers.0.attention.wq.mindpet_delta_lora_a": np.ones(3)}, "has two dimensions"),
        (lambda a: {**a, "model.layers.0.attention.xx.mindpet_delta_lora_a": np.ones((2, 2))}, "not a LoRA matrix"),
        (lambda a: {"model.norm_out.weight": np.ones(3)}, "holds no LoRA matrices"),
    ],
)
def test_matrices_that_do_not_belong_together_are_refused(tmp_path, foreign, change, problem):
    with pytest.raises(UserError, match=problem):
        adapter_to_peft(write_ckpt(tmp_path / "x.ckpt", change(foreign)), tmp_path / "out", alpha=1)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 4}, "its matrices have rank 2, adapter_config.json says 4"),
        ({"lora_alpha": None}, "lora_alpha: found None"),
    ],
)
def test_what_mindformers_lora_cannot_do_is_refused(tmp_path, config, problem):
    write_adapter(tmp_path / "peft", **config)
    with pytest.raises(UserError, match=problem):
        adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["peft"]


def test_no_adapter_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="a PEFT adapter is expected"):
        adapter_to_mindformers(tmp_path, tmp_path / "x.ckpt")


def test_an_adapter_of_another_base_is_refused(tmp_path, capsys):
    write_hf_model(tmp_path / "base")
    write_hf_model(tmp_path / "wider", {**LLAMA3, "hidden_size": 32})
    write_adapter(tmp_path / "peft", base=tmp_path / "base")
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt")
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"q_proj\.lora_A\.weight \[2, 16\], expected \[2, 32\]"):
        adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt", base=tmp_path / "wider")
    write_adapter(tmp_path / "peft", base="gone")
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "x.ckpt")
    assert "its base gone is not here" in capsys.readouterr().err


def test_trained_parameters_become_the_adapter(tmp_path, foreign):
    (tmp_path / "run").mkdir()
    pet = PetConfig(lora_rank=2, lora_alpha=16, lora_dropout=0.0)
    others = {
        "model.norm_out.weight": np.ones(16),
        "adam_v.model.layers.0.attention.wq.mindpet_delta_lora_a": np.ones(1),
    }
    adapter_from_mindformers({**others, **foreign}, pet, "models/base", tmp_path / "run")
    assert read_all(tmp_path / "run") == read_all(tmp_path / "peft")
    config = json.loads((tmp_path / "run/adapter_config.json").read_text())
    assert (config["lora_alpha"], config["base_model_name_or_path"]) == (16, "models/base")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    # from an opened file, too
    file = write_safetensors(tmp_path / "x.safetensors", foreign)
    adapter_from_mindformers(open_tensors(file), pet, "models/base", tmp_path / "run")
    assert read_all(tmp_path / "run") == read_all(tmp_path / "peft")


@pytest.mark.parametrize(
    ("pet", "problem"),
    [
        (PetConfig(lora_rank=8), "the trained parameters: rank 2; pet_config.lora_rank is 8"),
        (PetConfig(lora_rank=2, target_modules=".*wo"), "LoRA of q_proj, v_proj; the recipe chooses o_proj"),
    ],
)
def test_trained_parameters_of_another_recipe_are_refused(tmp_path, foreign, pet, problem):
    with pytest.raises(UserError, match=problem):
        adapter_from_mindformers(foreign, pet, "", tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()
