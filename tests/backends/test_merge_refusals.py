"""What cannot be merged is refused in one line, and nothing lies under the final name afterwards."""

import json
import os
import shutil

import numpy as np
import pytest
from merge_files import base_tensors, write_adapter, write_base

from backends.merge.__main__ import main
from backends.weights.safetensors_files import ShardWriter, open_tensors
from converters.common.errors import UsageError, UserError


@pytest.fixture
def place(tmp_path):
    """A base and an adapter that fit each other, in a directory where nothing else may appear."""
    write_base(tmp_path / "base", shard_bytes=4000)
    write_adapter(tmp_path / "adapter", base=tmp_path / "base")
    return tmp_path


def refused(place, message, *words, error=UserError, base="base", adapters=("adapter",)):
    before = sorted(os.listdir(place))
    words = [*words, "--out", place / "out", *(["--base", place / base, "--no-verify"] if base else [])]
    for adapter in adapters:
        words += ["--adapter", f"{place / adapter}"]
    with pytest.raises(error, match=message) as caught:
        main([str(word) for word in words])
    assert type(caught.value) is error
    assert str(caught.value).count("\n") <= 1
    assert sorted(os.listdir(place)) == before


def set_config(folder, name="adapter_config.json", **changes):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def set_tensor(folder, stem, name, values):
    """Write a file again with one tensor changed, added (``values``) or taken out (None)."""
    tensors = open_tensors(folder)
    held = {known: tensors.read(known) for known in tensors} | {name: values}
    with ShardWriter(folder, stem=stem, max_shard_bytes=None) as writer:
        for known, array in held.items():
            if array is not None:
                writer.add(known, array)


def test_an_adapter_for_another_base_by_shape(place):
    write_adapter(place / "other")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    set_tensor(place / "other", "adapter_model", name, np.zeros((32, 4), np.float32))
    refused(place, r"q_proj is made for a weight \[32, 16\], .*base has \[16, 16\]", adapters=["other"])


def test_layers_that_the_base_lacks(place):
    tensors = open_tensors(place / "adapter")
    for half, shape in (("A", (4, 16)), ("B", (16, 4))):
        name = f"base_model.model.model.layers.7.self_attn.q_proj.lora_{half}.weight"
        set_tensor(place / "adapter", "adapter_model", name, np.zeros(shape, np.float32))
    assert len(open_tensors(place / "adapter")) == len(tensors) + 2
    refused(place, r"1 of 5 layers are not in .*base, model.layers.7.self_attn.q_proj first")


def test_a_recorded_base_with_other_weights(place):
    write_base(place / "tuned", seed=5)
    refused(place, r"was trained on weights \w{16}, those of .*tuned are \w{16}: another base", base="tuned")
    (place / "adapter" / "data.json").write_text(json.dumps({"base": "0123456789abcdef"}))
    refused(place, r"was trained on weights 0123456789abcdef")


def test_another_base_is_taken_when_the_user_insists(place, capsys):
    write_base(place / "tuned", seed=5)
    words = ["--base", place / "tuned", "--adapter", place / "adapter", "--out", place / "out", "--no-verify"]
    assert main([*map(str, words), "--allow-base-mismatch"]) == 0
    assert "merging all the same" in capsys.readouterr().err


def test_a_base_that_cannot_be_compared_is_said(place, capsys):
    set_config(place / "adapter", base_model_name_or_path="Qwen/Qwen2.5-3B-Instruct")
    words = ["--base", place / "base", "--adapter", place / "adapter", "--out", place / "out", "--no-verify"]
    assert main([*map(str, words)]) == 0
    assert "names Qwen/Qwen2.5-3B-Instruct; that" in capsys.readouterr().err


def test_a_missing_shard(place):
    next((place / "base").glob("model-00002-of-*")).unlink()
    refused(place, "shards are missing, model-00002-of-")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("kind", ["F32", "BF16", "F16"])
def test_a_nan_in_the_base(tmp_path, kind, name, value):
    write_base(tmp_path / "base", kind)
    write_adapter(tmp_path / "adapter")
    bad = base_tensors(kind)[name]
    bad.reshape(-1)[-1] = value
    set_tensor(tmp_path / "base", "model", name, bad)
    refused(tmp_path, f"{name} holds a NaN or an infinity")


def test_a_nan_in_the_adapter(place):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
    set_tensor(place / "adapter", "adapter_model", name, np.full((4, 16), np.nan, np.float32))
    refused(place, "v_proj.lora_A.weight holds a NaN or an infinity")


def test_a_sum_or_a_value_that_the_type_cannot_hold(place):
    refused(place, "q_proj: the sum is not finite in float16", "--dtype", "float16", adapters=["adapter:1e9"])
    refused(place, "the weighted sum is not finite", base=None, adapters=["adapter:1e40", "adapter"])
    set_config(place / "adapter", base_model_name_or_path="")
    write_base(place / "large")
    set_tensor(place / "large", "model", "model.norm.weight", np.full(16, 1e6, np.float32))
    refused(place, r"model.norm.weight: 1e\+06 does not fit float16", "--dtype", "float16", base="large")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA is merged"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"a_method_of_tomorrow": {"x": 1}}, "a_method_of_tomorrow is {'x': 1}"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only plain LoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"r": 8}, "has rank 4 in the weights and 8 here"),
        ({"rank_pattern": {"v_proj": 2}}, "v_proj has rank 4 in the weights and 2 here"),
        ({"lora_alpha": None}, "lora_alpha is None; without a number the scaling is not known"),
    ],
)
def test_what_is_not_plain_lora(place, changes, message):
    set_config(place / "adapter", **changes)
    refused(place, message)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("base_model.model.lm_head.weight", np.zeros((20, 16), np.float32), "lm_head.weight is not a LoRA matrix"),
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            np.zeros((4, 20), np.float32),
            "lora_embedding_A is not a LoRA matrix of a linear layer; embeddings under LoRA",
        ),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", None, "q_proj has lora_A only"),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
            np.zeros((4, 16), np.float32),
            r"A \[4, 16\] and B \[4, 16\] are not \[r, in\] and \[out, r\]",
        ),
    ],
)
def test_tensors_that_are_not_pairs_of_matrices(place, name, values, message):
    set_tensor(place / "adapter", "adapter_model", name, values)
    refused(place, message)


def test_paths_that_hold_no_adapter_or_no_base(place):
    refused(place, "no such run, adapter directory or file", error=UsageError, adapters=["nothing"])
    refused(place, "no adapter_config.json there", error=UsageError, adapters=["base"])
    refused(place, "an adapter, not a base", error=UsageError, base="adapter")
    refused(place, "no such model directory or file", error=UsageError, base="nothing")
    (place / "adapter" / "adapter_model.safetensors").rename(place / "adapter" / "adapter_model.bin")
    refused(place, "adapter_model.bin is a pickle and is not opened", error=UsageError)
    (place / "base" / "config.json").unlink()
    write_adapter(place / "second")
    refused(place, "name the model directory", error=UsageError, adapters=["second"])


def test_a_quantised_base(place):
    set_config(place / "base", "config.json", quantization_config={"quant_method": "gptq"})
    refused(place, r"quantised \(gptq\)")


def test_options_that_do_not_go_together(place):
    refused(place, "--rank is for a sum of adapters", "--rank", 4, error=UsageError)
    refused(place, "--rank is 0", "--rank", 0, error=UsageError, base=None)
    refused(place, "--format bin is for whole models", "--format", "bin", error=UsageError, base=None)
    refused(place, "one adapter alone is nothing to merge", error=UsageError, base=None)
    refused(place, "GB above 0", "--max-shard-size", 0, error=UsageError)
    set_config(place / "base", "config.json", model_type="qwen2")
    refused(place, "Meta's form is for Llama, this is 'qwen2'", "--format", "pth", error=UsageError)


def test_nothing_that_exists_is_written_over(place, tmp_path):
    words = ["--base", place / "base", "--adapter", place / "adapter", "--no-verify"]
    for out in (place / "base", place / "adapter", place):
        with pytest.raises(UsageError, match="which is read; write elsewhere"):
            main([*map(str, words), "--out", str(out), "--overwrite"])
    assert main([*map(str, words), "--out", str(place / "out")]) == 0
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        main([*map(str, words), "--out", str(place / "out")])
    assert main([*map(str, words), "--out", str(place / "out"), "--overwrite"]) == 0


def test_adapters_of_different_templates_or_bases(place, capsys):
    write_adapter(place / "second", base=place / "base", template="alpaca")
    pair = ["adapter", "second"]
    refused(place, r"trained in different templates: .* in bare \(\w+\) and .* in alpaca", base=None, adapters=pair)
    words = [word for name in pair for word in ("--adapter", str(place / name))] + ["--out", str(place / "out")]
    assert main([*words, "--allow-template-mismatch"]) == 0
    assert "the merged weights get bare" in capsys.readouterr().err
    assert json.loads((place / "out" / "template.json").read_text())["name"] == "bare"
    write_base(place / "tuned", seed=5)
    write_adapter(place / "third", base=place / "tuned")
    third = {"base": None, "adapters": ["adapter", "third"]}
    shutil.rmtree(place / "out")
    refused(place, "adapters of different bases: .*adapter is for .*base, .*third for", **third)
    for name, mark in (("adapter", "a" * 16), ("third", "b" * 16)):
        (place / name / "data.json").write_text(json.dumps({"base": mark}))
    refused(place, "adapter is for a{16}, .*third for b{16}", **third)


def test_layers_of_different_shapes_do_not_add_up(place):
    write_adapter(place / "second")
    for half, shape in (("A", (4, 8)), ("B", (16, 4))):
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight"
        set_tensor(place / "second", "adapter_model", name, np.zeros(shape, np.float32))
    refused(place, r"q_proj is \[16, 16\] in .* and \[16, 8\] in", base=None, adapters=["adapter", "second"])


def test_another_template_than_the_trained_one(place):
    refused(place, r"was trained in template bare \(\w+\), not alpaca", "--template", "alpaca")


def test_a_full_disk_leaves_nothing(place, monkeypatch):
    def full(self, name, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    refused(place, "No space left on device")
