"""Whole models between Hugging Face and mindformers: bit for bit, one to one, and refused where it would not be."""

import errno
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import yaml
from exchange_files import LLAMA2, LLAMA3, QWEN2, random_bits, read_all, write_ckpt, write_hf_model, write_safetensors
from hypothesis import given
from hypothesis import strategies as st

from backends import exchange
from backends.exchange.models import config_from_recipe, hf_source, mindformers_source, write_hf
from backends.recipe.types import ModelConfig
from backends.weights.llama import LlamaShape
from backends.weights.mindspore_ckpt import CkptWriter, open_weights
from backends.weights.names import to_mindformers
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError


@st.composite
def configs(draw):
    """Sizes of any small Llama or Qwen2 that mindformers can hold."""
    kv_heads, repeat, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 2 * draw(st.integers(1, 3))
    qwen = draw(st.booleans())
    return {
        **(QWEN2 if qwen else LLAMA3),
        "vocab_size": draw(st.integers(1, 9)),
        "hidden_size": kv_heads * repeat * head_dim,
        "num_attention_heads": kv_heads * repeat,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw(st.integers(1, 9)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": not qwen and draw(st.booleans()),
    }


@given(
    config=configs(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    shard_bytes=st.sampled_from([None, 200, 2000]),
    suffix=st.sampled_from([".ckpt", ".safetensors"]),
)
def test_there_and_back_is_the_same_model(tmp_path_factory, config, dtype, shard_bytes, suffix):
    home = tmp_path_factory.mktemp("exchange")
    arrays = write_hf_model(home / "hf", config, dtype, shard_bytes)
    file = home / f"model{suffix}"
    exchange.to_mindformers(home / "hf", file)
    stored = open_weights(file)
    assert sorted(stored.names()) == sorted(map(to_mindformers, arrays))
    for name, array in arrays.items():
        assert stored.read(to_mindformers(name)).tobytes() == array.tobytes()
    exchange.to_hf(file, home / "again", max_shard_bytes=shard_bytes or 10**9)
    assert read_all(home / "again") == read_all(home / "hf")
    for name in ("config.json", "tokenizer.json", "template.json"):
        assert json.loads((home / "again" / name).read_text()) == json.loads((home / "hf" / name).read_text())


@pytest.fixture
def hf(tmp_path):
    write_hf_model(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def mindformers(hf, tmp_path):
    """The arrays of a mindformers file, to be written in any state of disrepair."""
    tensors = open_tensors(hf)
    return {to_mindformers(name): tensors.read(name) for name in tensors}


def to_hf(tmp_path, arrays, **options):
    options.setdefault("config", tmp_path / "hf")
    write_hf(mindformers_source(write_ckpt(tmp_path / "m.ckpt", arrays), **options), tmp_path / "out")


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path, mindformers):
    del mindformers["model.layers.1.attention.wq.weight"]
    mindformers["model.layers.2.ffn_norm.weight"] = np.ones(16, np.float32)
    mindformers["lm_head.weight"] = np.ones((41, 16), np.float32)
    with pytest.raises(UserError) as caught:
        to_hf(tmp_path, mindformers)
    message = str(caught.value)
    assert "1 missing: model.layers.1.self_attn.q_proj.weight" in message
    assert "1 extra: model.layers.2.post_attention_layernorm.weight" in message
    assert "1 of another shape: lm_head.weight [41, 16], expected [40, 16]" in message
    assert str(tmp_path / "m.ckpt") in message
    assert not (tmp_path / "out").exists()


def test_long_lists_are_shortened(tmp_path, mindformers):
    kept = {name: array for name, array in mindformers.items() if "layers.1" not in name}
    with pytest.raises(UserError, match=r"9 missing: model\.layers\.1"):
        to_hf(tmp_path, kept)
    with pytest.raises(UserError, match=r"20 missing: .* and 10 more"):
        to_hf(tmp_path, {"model.norm_out.weight": mindformers["model.norm_out.weight"]})


def test_optimizer_copies_and_training_values_are_left_out_and_counted(tmp_path, mindformers, capsys):
    more = {f"adam_{half}.{name}": array for half in "mv" for name, array in mindformers.items()}
    more["exp_avg_sq_row_model.norm_out.weight"] = np.ones(16, np.float32)
    more["global_step"] = np.array(3, np.int32)
    more["learning_rate"] = np.array(0.1, np.float32)
    to_hf(tmp_path, {**more, **mindformers})
    assert read_all(tmp_path / "out") == read_all(tmp_path / "hf")
    said = capsys.readouterr().err
    assert (
        "21 optimizer copies (adam_m.*); 21 optimizer copies (adam_v.*); 1 optimizer copies (exp_avg_sq_row.*)" in said
    )
    assert "2 training values (global_step, learning_rate)" in said


def test_a_lora_is_not_lost_in_silence(tmp_path, mindformers, capsys):
    mindformers["model.layers.0.attention.wq.mindpet_delta_lora_a"] = np.ones((2, 16), np.float32)
    with pytest.raises(UserError, match=r"holds a LoRA \(1 matrices\)"):
        to_hf(tmp_path, mindformers)
    to_hf(tmp_path, mindformers, with_lora=True)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "hf")
    assert "1 LoRA matrices" in capsys.readouterr().err


def test_unknown_names_are_refused(tmp_path, mindformers):
    with pytest.raises(UserError, match=r"not weights of mindformers' Llama: model\.layers\.0\.moe\.gate"):
        to_hf(tmp_path, {**mindformers, "model.layers.0.moe.gate": np.ones(1, np.float32)})
    with pytest.raises(UserError, match="qkv_concat"):
        to_hf(tmp_path, {**mindformers, "model.layers.0.attention.w_qkv.weight": np.ones(1, np.float32)})


def test_a_tied_head_is_left_out_where_it_is_the_embedding(tmp_path, capsys):
    config = {**LLAMA3, "tie_word_embeddings": True}

    def with_head(arrays):
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]

    write_hf_model(tmp_path / "hf", config, change=with_head)
    exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")
    assert "lm_head.weight" not in open_weights(tmp_path / "m.ckpt")
    assert "left out (tie_word_embeddings)" in capsys.readouterr().err


def test_a_tied_head_that_is_another_is_refused(tmp_path):
    def with_head(arrays):
        arrays["lm_head.weight"] = np.zeros((40, 16), np.float32)

    write_hf_model(tmp_path / "hf", {**LLAMA3, "tie_word_embeddings": True}, change=with_head)
    with pytest.raises(UserError, match=r"lm_head\.weight is not the embedding"):
        exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")


def test_stored_rotary_tables_are_left_out_and_counted(tmp_path, capsys):
    def with_tables(arrays):
        for layer in range(2):
            arrays[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)

    write_hf_model(tmp_path / "hf", LLAMA2, change=with_tables)
    exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")
    assert "2 stored rotary tables left out" in capsys.readouterr().err


def test_types_are_rounded_once_and_the_configuration_says_so(tmp_path):
    def numbers(arrays):
        for name in arrays:
            arrays[name] = np.random.default_rng(0).normal(size=arrays[name].shape).astype(np.float32)

    arrays = write_hf_model(tmp_path / "hf", change=numbers)
    exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.safetensors", dtype="bfloat16")
    exchange.to_hf(tmp_path / "m.safetensors", tmp_path / "out")
    found = read_all(tmp_path / "out")
    for name, array in arrays.items():
        assert found[name] == ("BF16", array.shape, array.astype(ml_dtypes.bfloat16).tobytes())
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_what_does_not_fit_a_type_is_refused(tmp_path):
    def large(arrays):
        for name in arrays:
            arrays[name] = np.full(arrays[name].shape, 1e6, np.float32)

    write_hf_model(tmp_path / "hf", change=large)
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight: 1e\+06 does not fit float16; choose bfloat16"):
        exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt", dtype="float16")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hf"]


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_full_disk_leaves_nothing(tmp_path, hf, monkeypatch, suffix):
    def full(self, name, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CkptWriter, "add", full)
    monkeypatch.setattr("backends.weights.safetensors_files.ShardWriter.add", full)
    with pytest.raises(UserError, match="No space left on device"):
        exchange.to_mindformers(hf, tmp_path / f"m{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hf"]


def test_outputs_that_would_destroy_something_are_refused(tmp_path, hf):
    with pytest.raises(UsageError, match="among the model's own shards"):
        exchange.to_mindformers(hf, hf / "x.safetensors")
    with pytest.raises(UsageError, match=r"name a \.ckpt or a \.safetensors"):
        exchange.to_mindformers(hf, tmp_path / "x.bin")
    (tmp_path / "dir.ckpt").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        exchange.to_mindformers(hf, tmp_path / "dir.ckpt")
    exchange.to_mindformers(hf, tmp_path / "m.ckpt")
    with pytest.raises(UsageError, match="is there already"):
        exchange.to_hf(tmp_path / "m.ckpt", hf)
    assert read_all(hf)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "gemma"}, "'gemma': only llama and qwen2"),
        ({"head_dim": 8}, "does not fit"),
        ({"mlp_bias": True}, "missing"),
        ({"hidden_size": None}, "hidden_size: found None"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers: found 'two'"),
    ],
)
def test_other_architectures_are_refused(tmp_path, hf, change, problem):
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=problem):
        exchange.to_mindformers(hf, tmp_path / "m.ckpt")


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"head_dim": 8}, "head_dim 8: mindformers' Llama takes"), ({"mlp_bias": True}, "no bias there")],
)
def test_what_mindformers_cannot_hold_is_refused(tmp_path, change, problem):
    write_hf_model(tmp_path / "hf", {**LLAMA3, **change})
    with pytest.raises(UserError, match=problem):
        exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")


def test_pickled_weights_are_not_read(tmp_path, hf):
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pickled weights"):
        exchange.to_mindformers(hf, tmp_path / "m.ckpt")
    with pytest.raises(UsageError, match=r"no config\.json there"):
        hf_source(tmp_path)


RECIPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "n_kv_heads": 2,
    "seq_length": 64,
}


def write_recipe(file, load_checkpoint="", **model_config):
    recipe = {"load_checkpoint": str(load_checkpoint), "model": {"model_config": {**RECIPE, **model_config}}}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe))
    return file


def test_a_recipe_gives_the_configuration(tmp_path, mindformers):
    to_hf(tmp_path, mindformers, config=write_recipe(tmp_path / "llama.yaml"))
    assert read_all(tmp_path / "out") == read_all(tmp_path / "hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert LlamaShape.from_config(config, "") == LlamaShape.from_config(LLAMA3, "")
    assert (config["rope_theta"], config["torch_dtype"]) == (500000.0, "float32")


def test_the_run_around_a_file_gives_the_configuration(tmp_path, mindformers):
    run = tmp_path / "run"
    write_recipe(run / "recipe.yaml")
    (run / "template.json").write_text('{"name": "mine"}')
    (run / "checkpoints/rank_0").mkdir(parents=True)
    file = write_ckpt(run / "checkpoints/rank_0/llama-1_5.ckpt", mindformers)
    exchange.to_hf(file, tmp_path / "out")
    assert read_all(tmp_path / "out") == read_all(tmp_path / "hf")
    assert json.loads((tmp_path / "out/template.json").read_text()) == {"name": "mine"}


def test_a_fine_tunes_sizes_are_those_of_its_start(tmp_path, hf, mindformers):
    write_recipe(tmp_path / "run/recipe.yaml", load_checkpoint=hf, hidden_size=4096)
    (tmp_path / "run/template.json").write_text('{"name": "the run is in another template than its start"}')
    exchange.to_hf(write_ckpt(tmp_path / "run/x.ckpt", mindformers), tmp_path / "out")
    assert read_all(tmp_path / "out") == read_all(hf)
    assert (tmp_path / "out/template.json").read_bytes() == (tmp_path / "run/template.json").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()


def test_without_a_configuration_it_is_asked_for(tmp_path, mindformers):
    file = write_safetensors(tmp_path / "m.safetensors", mindformers)
    with pytest.raises(UserError, match=r"nothing says the model's configuration .*--config"):
        exchange.to_hf(file, tmp_path / "out")


def test_a_damaged_shard_is_said(tmp_path):
    write_hf_model(tmp_path / "hf", shard_bytes=2000)
    shard = sorted((tmp_path / "hf").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{shard.name}: cut off"):
        exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")
    shutil.rmtree(tmp_path / "hf")


def test_recipes_settings_without_a_counterpart_are_refused():
    with pytest.raises(UserError, match="extend_method 'PI'"):
        config_from_recipe(ModelConfig(extend_method="PI"), "r")
    with pytest.raises(UserError, match="attn_proj_has_bias without"):
        config_from_recipe(ModelConfig(attn_proj_has_bias=True), "r")


@pytest.mark.parametrize(("both", "kind"), [(False, "qwen2"), (True, "llama")])
def test_biases_of_a_recipe_choose_the_architecture(both, kind):
    config = config_from_recipe(ModelConfig(**RECIPE, qkv_has_bias=True, attn_proj_has_bias=both), "r")
    layout = LlamaShape.from_config(config, "r")
    assert (config["model_type"], layout.qkv_bias, layout.o_bias) == (kind, True, both)


def test_random_bits_hold_what_must_survive():
    values = random_bits((64, 64), np.float16, 0).astype(np.float32)
    assert np.isnan(values).any()
    assert (np.abs(values[np.isfinite(values)]) < 6e-5).any()
