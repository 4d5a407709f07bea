"""Merging into a base, from files to files, without torch."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from merge_files import SHAPES, base_tensors, write_adapter, write_base

from backends.merge.__main__ import main, split_weight
from backends.merge.adapters import open_adapter
from backends.merge.combine import target_modules
from backends.weights.mindspore_ckpt import CkptWriter, open_weights
from backends.weights.names import peft_to_mindformers, to_mindformers
from backends.weights.safetensors_files import ShardWriter, open_tensors
from converters.common.errors import UsageError, UserError

Q = "model.layers.0.self_attn.q_proj"


def merge(*words):
    return main([*map(str, words), *(["--no-verify"] if "--base" in words else [])])


def update(folder, module=Q, scaling=2.0):
    tensors = open_tensors(folder)
    a, b = (tensors.read(f"base_model.model.{module}.lora_{half}.weight") for half in "AB")
    return (b * np.float32(scaling)) @ a


@pytest.mark.parametrize(("kind", "dtype"), [("F32", np.float32), ("BF16", ml_dtypes.bfloat16), ("F16", np.float16)])
def test_sums_are_float32_and_rounded_once(tmp_path, kind, dtype):
    base = write_base(tmp_path / "base", kind)
    adapter = write_adapter(tmp_path / "adapter", base=base, size=0.01)
    assert merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out") == 0
    merged, before = open_tensors(tmp_path / "out"), base_tensors(kind)
    assert merged.names() == list(before)
    for name, values in before.items():
        if "q_proj" in name or "v_proj" in name:
            exact = values.astype(np.float32) + update(adapter, name.removesuffix(".weight"))
            np.testing.assert_array_equal(merged.read(name), exact.astype(dtype))
            assert not np.array_equal(merged.read(name), values)
        else:
            np.testing.assert_array_equal(merged.read(name), values)


def test_dtype_and_its_record(tmp_path):
    base = write_base(tmp_path / "base", "F32")
    adapter = write_adapter(tmp_path / "adapter", base=base)
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out", "--dtype", "bfloat16")
    merged = open_tensors(tmp_path / "out")
    assert {merged.dtype(name) for name in merged} == {"BF16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["dtype"] == ["bfloat16"]
    change = report["changes"][Q]
    before = base_tensors()[f"{Q}.weight"]
    delta = update(adapter)
    assert change["update"] == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(before), rel=1e-4)
    lost = merged.read(f"{Q}.weight").astype(np.float32) - (before + delta)
    assert change["rounding"] == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(delta), rel=1e-4)
    assert change["largest"] == pytest.approx(np.abs(delta).max() / np.abs(before).max(), rel=1e-4)
    assert report["verified"]["logits"] == "not compared (--no-verify)"
    assert 0 < report["verified"]["tensors"]["largest_part_of_rounding_bound"] <= 1


def test_the_report_tells_what_it_was_made_of(tmp_path):
    from backends.checkpoint.fingerprint import fingerprint, weight_files

    base = write_base(tmp_path / "base")
    one = write_adapter(tmp_path / "one", base=base)
    two = write_adapter(tmp_path / "two", base=base, rank=2, alpha=3, targets=["o_proj"])
    merge("--base", base, "--adapter", f"{one}:0.5", "--adapter", f"{two}:-2", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["base"] == {"path": str(base), "fingerprint": fingerprint(weight_files(base))}
    assert [part["weight"] for part in report["adapters"]] == [0.5, -2]
    assert [part["scaling"] for part in report["adapters"]] == [[2.0], [1.5]]
    assert report["adapters"][0]["fingerprint"] == fingerprint([one / "adapter_model.safetensors"])
    assert report["template"].startswith("bare ")


def test_shards_come_in_and_go_out(tmp_path):
    base = write_base(tmp_path / "base", shard_bytes=4000)
    assert (base / "model.safetensors.index.json").is_file()
    adapter = write_adapter(tmp_path / "adapter", base=base)
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "whole")
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "cut", "--max-shard-size", 5e-6)
    assert [file.name for file in (tmp_path / "whole").glob("*.safetensors*")] == ["model.safetensors"]
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    whole, cut = open_tensors(tmp_path / "whole"), open_tensors(tmp_path / "cut")
    assert set(whole.names()) == set(cut.names()) == set(index["weight_map"])
    for name in whole:
        np.testing.assert_array_equal(whole.read(name), cut.read(name))


def test_merged_into_the_base_is_the_merged_adapter_in_the_base(tmp_path):
    base = write_base(tmp_path / "base")
    one = write_adapter(tmp_path / "one", base=base)
    two = write_adapter(tmp_path / "two", base=base, rank=3, alpha=7, targets=["q_proj", "down_proj"], use_rslora=True)
    pair = ["--adapter", f"{one}:0.7", "--adapter", f"{two}:-0.4"]
    merge("--base", base, *pair, "--out", tmp_path / "direct")
    merge(*pair, "--out", tmp_path / "mixed")
    merge("--base", base, "--adapter", tmp_path / "mixed", "--out", tmp_path / "by-way")
    direct, by_way = open_tensors(tmp_path / "direct"), open_tensors(tmp_path / "by-way")
    for name in direct:
        np.testing.assert_allclose(direct.read(name), by_way.read(name), rtol=0, atol=1e-7)
    plain = base_tensors()
    changed = {name for name in direct if not np.array_equal(direct.read(name), plain[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj", "down_proj"}


def test_a_tied_output_layer_is_parted_from_the_embedding(tmp_path):
    base = write_base(tmp_path / "base", tied=True)
    adapter = write_adapter(tmp_path / "adapter", base=base, targets=["q_proj"])
    a, b = np.ones((1, 16), np.float32), np.full((20, 1), 0.5, np.float32)
    embedding = base_tensors(tied=True)["model.embed_tokens.weight"]
    old = open_tensors(adapter)
    held = {name: old.read(name) for name in old}
    held |= {
        "base_model.model.lm_head.lora_A.weight": a,
        "base_model.model.lm_head.lora_B.weight": b,
        "base_model.model.lm_head.base_layer.weight": embedding,
    }

    def rewrite():
        with ShardWriter(adapter, stem="adapter_model", max_shard_bytes=None) as writer:
            for name, values in held.items():
                writer.add(name, values)

    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"alpha_pattern": {"lm_head": 1}}
    settings["rank_pattern"] = {"lm_head": 1}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    rewrite()
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out")
    merged = open_tensors(tmp_path / "out")
    np.testing.assert_array_equal(merged.read("model.embed_tokens.weight"), embedding)
    np.testing.assert_array_equal(merged.read("lm_head.weight"), embedding + np.float32(0.5))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    held["base_model.model.lm_head.base_layer.weight"] = embedding * 2
    rewrite()
    with pytest.raises(UserError, match="brings a lm_head that differs from that of"):
        merge("--base", base, "--adapter", adapter, "--out", tmp_path / "other")


def writer_of(file):
    return (
        CkptWriter(file) if file.suffix == ".ckpt" else ShardWriter(file.parent, max_shard_bytes=None, stem=file.stem)
    )


def mindformers_base(file, kind="F32"):
    writer = (
        CkptWriter(file) if file.suffix == ".ckpt" else ShardWriter(file.parent, max_shard_bytes=None, stem=file.stem)
    )
    with writer:
        for name, values in base_tensors(kind).items():
            writer.add(to_mindformers(name), values)
    return file


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_mindformers_files_merge_as_hugging_face_ones(tmp_path, ending):
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base=base)
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "hf")
    ms_base = mindformers_base(tmp_path / f"base{ending}")
    lora = tmp_path / f"lora{ending}"
    tensors = open_tensors(adapter)
    with writer_of(lora) as writer:
        for name in tensors:
            writer.add(peft_to_mindformers(name), tensors.read(name))
        writer.add("adam_m." + peft_to_mindformers(name), tensors.read(name))
    outs = [tmp_path / "from-peft.safetensors", tmp_path / "from-ms.ckpt"]
    merge("--base", ms_base, "--adapter", adapter, "--out", outs[0])
    merge("--base", ms_base, "--adapter", lora, "--lora-alpha", 8, "--out", outs[1])
    merge("--base", base, "--adapter", lora, "--lora-alpha", 8, "--out", tmp_path / "hf-from-ms")
    wanted = open_tensors(tmp_path / "hf")
    for out in outs:
        found = open_weights(out)
        assert set(found.names()) == {to_mindformers(name) for name in wanted}
        for name in wanted:
            np.testing.assert_array_equal(found.read(to_mindformers(name)), wanted.read(name))
        assert json.loads((tmp_path / f"{out.name}.hf" / "merge.json").read_text())["changes"]
    assert (tmp_path / f"{outs[0].name}.hf" / "template.json").is_file()
    again = open_tensors(tmp_path / "hf-from-ms")
    for name in wanted:
        np.testing.assert_array_equal(again.read(name), wanted.read(name))


def test_the_scaling_of_a_mindformers_file_is_never_guessed(tmp_path):
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    tensors = open_tensors(adapter)
    with ShardWriter(tmp_path, max_shard_bytes=None, stem="lora") as writer:
        for name in tensors:
            writer.add(peft_to_mindformers(name), tensors.read(name))
    with pytest.raises(UserError, match="nothing says its lora_alpha"):
        merge("--base", base, "--adapter", tmp_path / "lora.safetensors", "--out", tmp_path / "out")
    with pytest.raises(UsageError, match="--lora-alpha is for mindformers LoRA files"):
        merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out", "--lora-alpha", 16)


def test_a_training_checkpoint_as_base_gives_away_its_lora_and_moments(tmp_path, capsys):
    adapter = write_adapter(tmp_path / "adapter")
    with ShardWriter(tmp_path, max_shard_bytes=None, stem="step") as writer:
        for name, values in base_tensors().items():
            writer.add(to_mindformers(name), values)
        writer.add("model.layers.0.attention.wq.mindpet_delta_lora_a", np.zeros((4, 16), np.float32))
        writer.add("global_step", np.zeros(1, np.int32))
    merge("--base", tmp_path / "step.safetensors", "--adapter", adapter, "--out", tmp_path / "out.safetensors")
    assert "2 parameters of training" in capsys.readouterr().err
    assert set(open_weights(tmp_path / "out.safetensors").names()) == {to_mindformers(name) for name in base_tensors()}


def test_what_is_cut_off_at_writing_is_noticed(tmp_path, monkeypatch):
    """The check reads files back: a writer that loses a tensor's update does not get past it."""
    from backends.merge import into_base as whole

    base, adapter = write_base(tmp_path / "base", "BF16"), write_adapter(tmp_path / "adapter")
    good = whole.add_update
    monkeypatch.setattr(whole, "add_update", lambda w, a, b, *rest: good(w, a, b * np.float32(0.5), *rest))
    with pytest.raises(UserError, match=r"q_proj.weight: what was written is not base and adapters"):
        merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base"]


def test_weights_are_parted_from_paths(tmp_path):
    assert split_weight("a:0.5") == ("a", 0.5)
    assert split_weight("a:-1e-1") == ("a", -0.1)
    assert split_weight("runs/a") == ("runs/a", None)
    assert split_weight("C:/runs/a") == ("C:/runs/a", None)
    odd = tmp_path / "run:2"
    odd.mkdir()
    assert split_weight(str(odd)) == (str(odd), None)
    assert split_weight(f"{odd}:3") == (str(odd), 3.0)
    with pytest.raises(UsageError, match="a finite number is expected"):
        split_weight("a:nan")


def test_every_module_of_a_llama_can_be_merged(tmp_path):
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", targets=[module.split(".")[1] for module in SHAPES])
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "merge.json").read_text())["changes"]) == 14


def test_a_tokenizer_that_is_not_read_here_goes_along(tmp_path, capsys):
    base = write_base(tmp_path / "base")
    (base / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    adapter = write_adapter(tmp_path / "adapter", base=base)
    (adapter / "tokenizer.model").write_bytes((base / "tokenizer.model").read_bytes())
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out")
    assert "the tokenizer goes along but cannot be used here" in capsys.readouterr().err
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    assert not (tmp_path / "out" / "Modelfile").exists()


def test_the_template_and_the_tokenizer_go_along(tmp_path, tiny_tokenizer):
    base = write_base(tmp_path / "base", tokenizer=tiny_tokenizer)
    config = json.loads((base / "tokenizer_config.json").read_text()) | {"chat_template": "of the base's authors"}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "LICENSE").write_text("terms")
    adapter = write_adapter(tmp_path / "adapter", base=base, template="llama3")
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "out")
    found = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "template.json", "chat_template.jinja", "Modelfile", "LICENSE", "merge.json"} <= found
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert 'PARAMETER stop "<|eot_id|>"' in (tmp_path / "out" / "Modelfile").read_text()
    adapter = write_adapter(tmp_path / "stranger", base=base, template=None)
    merge("--base", base, "--adapter", adapter, "--out", tmp_path / "plain")
    assert not (tmp_path / "plain" / "template.json").exists()
    assert "chat_template" in json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("chosen", [0, [0, 1]])
def test_an_adapter_of_some_layers_names_every_layer_in_a_sum(tmp_path, chosen):
    adapter = open_adapter(write_adapter(tmp_path / "some", layers_to_transform=chosen))
    assert target_modules([adapter]) == sorted(adapter.modules)
    assert target_modules([open_adapter(write_adapter(tmp_path / "all"))]) == ["q_proj", "v_proj"]


def test_called_from_python_it_returns_what_it_wrote(tmp_path):
    import backends.merge

    base = write_base(tmp_path / "base", "BF16")
    pair = [write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two", seed=2)]
    report = backends.merge.merge(pair, tmp_path / "out", base=base, weights=[0.5, -1.0], verify=False)
    assert isinstance(report, backends.merge.MergeReport)
    assert report.as_json() == json.loads((tmp_path / "out" / "merge.json").read_text())
    assert [adapter.weight for adapter in report.adapters] == [0.5, -1.0]
    assert (report.dtypes, set(report.changes) >= {Q}) == (["bfloat16"], True)
    assert report.as_text().endswith(f"0.5 × {pair[0]} + -1 × {pair[1]} merged into {base}")
    summed = backends.merge.merge(pair, tmp_path / "sum", rank=3)
    assert set(summed.summed.ranks.values()) == {3}
    assert "cut to rank 3: " in summed.as_text()
    for weights in ([1.0], [1.0, float("nan")]):
        with pytest.raises(UsageError, match="a finite number for each of 2 adapters"):
            backends.merge.merge(pair, tmp_path / "more", weights=weights)


@pytest.mark.parametrize(("kind", "size", "said"), [("BF16", 0.002, True), ("BF16", 0.5, False), ("F32", 0.002, False)])
def test_an_update_that_rounding_would_take_is_said_before_anything_is_written(tmp_path, capsys, kind, size, said):
    import backends.merge

    base = write_base(tmp_path / "base", kind)
    adapter = write_adapter(tmp_path / "a", targets=("q_proj", "v_proj", "down_proj"), size=size)
    report = backends.merge.merge(adapter, tmp_path / "out", base=base, verify=False)
    worst = max(change.rounding for change in report.changes.values())
    heard = capsys.readouterr().err
    assert (worst > 0.1) == said
    assert ("note: rounding to bfloat16 will change this update by about" in heard) == said
    backends.merge.merge(adapter, tmp_path / "whole", base=base, verify=False, dtype="float32")
    assert "will change this update" not in capsys.readouterr().err
