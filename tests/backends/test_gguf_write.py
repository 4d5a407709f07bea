"""GGUF files out: there and back is the same model to the type's precision, with the tokenizer and the template."""

import json

import numpy as np
import pytest
from gguf_files import GEMMA, LLAMA, LLAMA3_ROPE, QWEN2, TEXTS, permuted, train_bpe, weights, write_model

from backends.exchange.__main__ import main as exchange_command
from backends.exchange.gguf_check import check_ids
from backends.exchange.to_gguf import write_gguf, write_gguf_lora
from backends.merge.__main__ import main as merge_command
from backends.merge.run import merge
from backends.weights.gguf_model import gguf_config, open_gguf_tensors
from backends.weights.safetensors_files import ShardWriter, open_tensors
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.gguf_file import open_gguf
from converters.text.template import get_template
from converters.tokenizers.load import load_tokenizer

FAMILIES = {
    "llama3": ({**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 64}, "llama-bpe"),
    "linear": ({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.5}}, "smollm"),
    "qwen2": (QWEN2, "qwen2"),
    "gemma": (GEMMA, "gpt-2"),
}
# half the step of a block whose largest number is 1: 1/127 of it; and the unit roundoffs
ERRORS = {"F32": 2.0**-23, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.5 / 127}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ERRORS)
def test_there_and_back(tmp_path, family, kind):
    config, pre = FAMILIES[family]
    arrays = weights(config)
    folder = write_model(tmp_path / "hf", config, arrays)
    train_bpe(folder, pre)
    file = tmp_path / "m.gguf"
    write_gguf(open_tensors(folder), config, folder, file, kind=kind, name="small", chat_template="{{ x }}")
    found = open_gguf_tensors(file)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        again = found.read(name).astype(np.float32)
        if array.ndim == 1:
            np.testing.assert_allclose(again, array, atol=2**-23)
        elif kind == "Q8_0":
            # each block of 32 numbers has a scale of its own, in float16
            largest = np.abs(array).reshape(-1, 32).max(1, keepdims=True)
            assert (np.abs(again - array).reshape(-1, 32) <= largest * (ERRORS[kind] + 2**-11) * 1.01).all()
        else:
            # below 2^-14 the steps of float16 are all 2^-24
            np.testing.assert_allclose(again, array, rtol=ERRORS[kind], atol=2**-25 if kind == "F16" else 0)
    made = gguf_config(file)
    for key in ("model_type", "rope_theta", "rope_scaling", "rms_norm_eps", "head_dim", "num_key_value_heads"):
        assert made.get(key) == config.get(key), key
    gguf = open_gguf(file)
    assert gguf.fields["tokenizer.ggml.pre"] == pre
    assert gguf.fields["tokenizer.chat_template"] == "{{ x }}"
    ours, theirs = load_tokenizer(file), load_tokenizer(folder)
    assert ours.encode_batch(TEXTS) == theirs.encode_batch(TEXTS)
    assert (ours.eos_id, ours.pad_id, ours.specials) == (theirs.eos_id, theirs.pad_id, theirs.specials)
    assert check_ids(gguf, ours) > 100


def test_rotary_settings_in_the_spelling_of_transformers_5_are_written(tmp_path):
    config = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    config |= {"head_dim": 64, "rope_parameters": {"rope_theta": 500000.0, **LLAMA3_ROPE}}
    folder = write_model(tmp_path / "hf", config, weights(config))
    train_bpe(folder, "smollm")
    write_gguf(open_tensors(folder), config, folder, tmp_path / "m.gguf")
    made = gguf_config(tmp_path / "m.gguf")
    assert (made["rope_theta"], made["rope_scaling"]) == (500000.0, LLAMA3_ROPE)


def test_a_sentencepiece_tokenizer_goes_there_and_back(tmp_path):
    from converters.tokenizers.gguf_vocabulary import merges_from_scores

    pieces = {"▁": -9.0, **dict.fromkeys("thean is", -9.0), "th": -1.0, "the": -2.0, "▁the": -3.0, "▁t": -4.0}
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    added = [
        {"id": i, "content": names[i], "special": True, "normalized": False, "single_word": False, "lstrip": False}
        | {"rstrip": False}
        for i in range(3)
    ]
    content = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": [list(pair) for pair in merges_from_scores(pieces)],
        },
    }
    folder = write_model(tmp_path / "hf", LLAMA, weights(LLAMA))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    write_gguf(open_tensors(folder), LLAMA, folder, tmp_path / "m.gguf", adds_bos=True)
    ours, theirs = load_tokenizer(tmp_path / "m.gguf"), load_tokenizer(folder)
    texts = ["the thesis is  the tea", " the", "th the\n", "é 计 🙂"]
    assert ours.encode_batch(texts) == theirs.encode_batch(texts)
    assert (ours.bos_id, ours.eos_id, ours.unk_id) == (1, 2, 0)
    assert check_ids(open_gguf(tmp_path / "m.gguf"), ours) > 100


def write_adapter(
    folder, base, config, rank=4, alpha=6, modules=("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
):
    """A PEFT adapter by hand; returns its arrays."""
    from backends.weights.llama import LlamaShape

    shapes = LlamaShape.from_config(config, "test").parameter_shapes()
    draw = np.random.default_rng(3)
    arrays = {}
    for layer in range(2):
        for module in modules:
            out, width = shapes[f"model.layers.{layer}.{module}.weight"]
            name = f"base_model.model.model.layers.{layer}.{module}.lora_"
            arrays[f"{name}A.weight"] = draw.normal(size=(rank, width)).astype(np.float32)
            arrays[f"{name}B.weight"] = draw.normal(size=(out, rank)).astype(np.float32)
    folder.mkdir()
    with ShardWriter(folder, stem="adapter_model") as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none"}
    settings |= {"target_modules": [one.split(".")[-1] for one in modules], "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return arrays


@pytest.mark.parametrize("config", [LLAMA, QWEN2])
def test_an_adapter_is_written_in_the_order_of_its_base(tmp_path, config):
    base = write_model(tmp_path / "hf", config, weights(config))
    arrays = write_adapter(tmp_path / "lora", base, config)
    done = write_gguf_lora(tmp_path / "lora", tmp_path / "lora.gguf")
    assert (done.rank, done.alpha, done.layers) == (4, 6.0, 6)
    gguf = open_gguf(tmp_path / "lora.gguf")
    wanted = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 6.0}
    assert {key: gguf.fields[key] for key in wanted} == wanted
    assert gguf.fields["general.architecture"] == config["model_type"]
    assert len(gguf.tensors) == len(arrays)
    prefix = "base_model.model.model.layers.1.self_attn.k_proj.lora_"

    def stored(name):
        tensor = gguf.tensors[name]
        data = np.fromfile(tensor.file, "<f4", tensor.nbytes // 4, offset=tensor.start)
        return data.reshape(tensor.shape)

    a, b = stored("blk.1.attn_k.weight.lora_a"), stored("blk.1.attn_k.weight.lora_b")
    np.testing.assert_array_equal(a, arrays[f"{prefix}A.weight"])
    # what llama.cpp adds to its own weight is the update in the order of its own weight
    update = arrays[f"{prefix}B.weight"] @ arrays[f"{prefix}A.weight"]
    expected = permuted(update, 2) if config is LLAMA else update
    np.testing.assert_allclose(b @ a, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        stored("blk.0.ffn_up.weight.lora_b"), arrays["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    )


def test_what_cannot_be_written_is_refused(tmp_path):
    folder = write_model(tmp_path / "hf", LLAMA, weights(LLAMA))
    with pytest.raises(UsageError, match=r"no tokenizer\.json there"):
        write_gguf(open_tensors(folder), LLAMA, folder, tmp_path / "m.gguf")
    train_bpe(folder, "smollm")
    large = {**weights(LLAMA), "model.embed_tokens.weight": np.full((320, 32), 1e6, np.float32)}
    with pytest.raises(UserError, match=r"token_embd\.weight holds 1e.06, which does not fit F16; BF16 has room"):
        write_gguf(open_tensors(write_model(tmp_path / "big", LLAMA, large)), LLAMA, folder, tmp_path / "m.gguf")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation", "behavior": "Isolated"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no name that is known here for its way of splitting text"):
        write_gguf(open_tensors(folder), LLAMA, folder, tmp_path / "m.gguf")
    write_adapter(tmp_path / "lora", tmp_path / "gone", LLAMA)
    with pytest.raises(UsageError, match=r"its base .*gone is not there; name it with --base"):
        write_gguf_lora(tmp_path / "lora", tmp_path / "lora.gguf")
    assert not list(tmp_path.glob("*.gguf"))
    assert not list(tmp_path.glob(".tmp*"))


def trained(tmp_path, config=LLAMA):
    """A base with a tokenizer, and an adapter of it with a template."""
    base = write_model(tmp_path / "hf", config, weights(config))
    train_bpe(base, "smollm")
    arrays = write_adapter(tmp_path / "lora", base, config)
    write_json(tmp_path / "lora" / "template.json", get_template("alpaca").to_json())
    return base, arrays


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_merged_model_is_one_file_with_tokenizer_and_template(tmp_path, kind):
    base, arrays = trained(tmp_path)
    done = merge(tmp_path / "lora", tmp_path / "out", base=base, format="gguf", gguf_type=kind, verify=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.gguf",
        "merge.json",
        "template.json",
        "Modelfile",
    }
    found = open_gguf_tensors(tmp_path / "out/model.gguf")
    name = "model.layers.1.self_attn.k_proj.weight"
    prefix = "base_model.model.model.layers.1.self_attn.k_proj.lora_"
    expected = weights(LLAMA)[name] + 6 / 4 * arrays[f"{prefix}B.weight"] @ arrays[f"{prefix}A.weight"]
    step = np.abs(expected).max() * ERRORS[kind] * 1.1
    assert 0 < np.abs(found.read(name).astype(np.float32) - expected).max() <= step
    fields = open_gguf(tmp_path / "out/model.gguf").fields
    assert "### Instruction" in fields["tokenizer.chat_template"]
    # the template opens with BOS, which llama.cpp adds by this setting
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert "\nFROM ./model.gguf\n" in (tmp_path / "out/Modelfile").read_text()
    said = json.loads((tmp_path / "out/merge.json").read_text())
    assert (said["format"], said["gguf"]["type"]) == ("gguf", kind)
    assert 0 < said["gguf"]["largest_error"] < 0.01
    assert f"model.gguf: {kind}, read back" in done.as_text()
    assert load_tokenizer(tmp_path / "out/model.gguf").encode_batch(TEXTS) == load_tokenizer(base).encode_batch(TEXTS)


def test_an_adapter_merges_into_a_gguf_file(tmp_path):
    base, _ = trained(tmp_path)
    merge(tmp_path / "lora", tmp_path / "from-hf", base=base, verify=False)
    write_gguf(open_tensors(base), LLAMA, base, tmp_path / "m.gguf", kind="F32")
    merge(tmp_path / "lora", tmp_path / "from-gguf", base=tmp_path / "m.gguf", verify=False, allow_base_mismatch=True)
    one, other = open_tensors(tmp_path / "from-hf"), open_tensors(tmp_path / "from-gguf")
    assert set(one) == set(other)
    assert all(one.read(name).tobytes() == other.read(name).tobytes() for name in one)
    assert load_tokenizer(tmp_path / "from-gguf").encode_batch(TEXTS) == load_tokenizer(base).encode_batch(TEXTS)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    base, _ = trained(tmp_path)
    with pytest.raises(UsageError, match="--dtype float16: the type of a GGUF file is that of --gguf-type"):
        merge(tmp_path / "lora", tmp_path / "out", base=base, format="gguf", dtype="float16")
    command = ["--base", str(base), "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="--gguf-type Q8_0 is for --format gguf"):
        merge_command([*command, "--gguf-type", "Q8_0"])
    assert not (tmp_path / "out").exists()


def test_the_command_writes_an_adapter(tmp_path, capsys):
    trained(tmp_path)
    assert exchange_command(["to-gguf-lora", str(tmp_path / "lora"), "-o", str(tmp_path / "lora.gguf")]) == 0
    assert "rank 4, alpha 6, 6 linear layers" in capsys.readouterr().err
    assert open_gguf(tmp_path / "lora.gguf").fields["adapter.type"] == "lora"
