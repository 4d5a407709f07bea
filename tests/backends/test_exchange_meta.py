"""Meta's layout and llama2.c's: shards joined, rotary pairs into halves, and a trained model that keeps its story."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exchange_files import PARAMS, write_llama2c, write_meta

from backends import exchange
from backends.exchange.llama2c import llama2c_source, write_tokenizer
from backends.exchange.meta import meta_source
from backends.exchange.models import write_hf, write_mindformers
from backends.weights.rotary import halves_from_pairs
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parents[2]
STORIES = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data")) / "stories"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball."
)


@pytest.fixture
def stories():
    if not (STORIES / "stories260K.bin").is_file():
        pytest.skip(f"no stories260K.bin in {STORIES}; SHARED_DATA=DIR says where it is")
    return STORIES


def test_rotary_pairs_become_halves():
    weight = np.arange(2 * 6)[:, None].repeat(3, 1)  # two heads of width 6; the row says where it was
    assert halves_from_pairs(weight, 2)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def rotated(vector, angles, halves):
    """Turn one head's vector by position-dependent angles, in either layout."""
    pairs = vector.reshape(2, -1).T if halves else vector.reshape(-1, 2)
    cos, sin = np.cos(angles), np.sin(angles)
    out = np.stack([pairs[:, 0] * cos - pairs[:, 1] * sin, pairs[:, 0] * sin + pairs[:, 1] * cos], 1)
    return out.T.reshape(-1) if halves else out.reshape(-1)


def test_scores_are_the_same_in_either_layout():
    draw = np.random.default_rng(0)
    q, k, x, y = draw.normal(size=(8, 5)), draw.normal(size=(8, 5)), draw.normal(size=5), draw.normal(size=5)
    here, there = np.outer([3, 7], 10000.0 ** (-np.arange(4) / 4))
    before = rotated(q @ x, here, False) @ rotated(k @ y, there, False)
    q, k = halves_from_pairs(q, 1), halves_from_pairs(k, 1)
    assert rotated(q @ x, here, True) @ rotated(k @ y, there, True) == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama2c_file_is_taken_apart(tmp_path, tied):
    arrays = write_llama2c(tmp_path / "m.bin", tied)
    source = llama2c_source(tmp_path / "m.bin")
    assert source.config["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in source.items) is not tied
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        expected = {
            "self_attn.v_proj": arrays["wv"][layer],
            "self_attn.k_proj": halves_from_pairs(arrays["wk"][layer], 1),
            "self_attn.q_proj": halves_from_pairs(arrays["wq"][layer], 2),
            "mlp.down_proj": arrays["w2"][layer],
            "mlp.up_proj": arrays["w3"][layer],
            "post_attention_layernorm": arrays["ffn_norm"][layer],
        }
        for name, array in expected.items():
            assert source.items[f"{prefix}.{name}.weight"].read().tobytes() == array.tobytes()
    if not tied:
        assert source.items["lm_head.weight"].read().tobytes() == arrays["head"].tobytes()


def test_a_llama2c_file_of_another_size_or_format_is_refused(tmp_path):
    file = tmp_path / "m.bin"
    write_llama2c(file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"bytes, where its header's sizes make"):
        llama2c_source(file)
    file.write_bytes(b"24ka" + bytes(252))
    with pytest.raises(UserError, match=r"not a llama2\.c model of its first format"):
        llama2c_source(file)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"not a llama2\.c model"):
        llama2c_source(file)
    with pytest.raises(UsageError, match="no such file"):
        llama2c_source(tmp_path / "absent.bin")


def test_the_vocabulary_splits_words_as_llama2c_does(stories, tmp_path):
    from converters.tokenizers.load import load_tokenizer

    write_tokenizer(stories / "tok512.bin", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 512)
    ids = tokenizer.encode_batch([STORY])[0]
    assert ids[:7] == [403, 407, 261, 378, 432, 383, 286]
    assert tokenizer.decode(ids) == STORY
    assert tokenizer.decode(tokenizer.encode_batch(["naïve 計"])[0]) == "naïve 計"  # bytes, where no piece is


def test_another_file_is_no_vocabulary(tmp_path):
    for content in (b"", b"\x07\x00\x00\x00" + bytes(20), b"text, not pieces and scores"):
        (tmp_path / "tok.bin").write_bytes(content)
        with pytest.raises(UserError, match=r"not a vocabulary of llama2\.c"):
            write_tokenizer(tmp_path / "tok.bin", tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        write_tokenizer(tmp_path / "absent.bin", tmp_path)


@pytest.mark.backend
@pytest.mark.parametrize(("shards", "axis"), [(1, 1), (2, 1), (2, 0)])
def test_shards_are_joined_bit_for_bit(tmp_path, shards, axis):
    weights = write_meta(tmp_path / "meta", shards, axis)
    source = meta_source(tmp_path / "meta")
    assert (source.config["intermediate_size"], source.config["vocab_size"]) == (6, 12)
    expected = {
        "model.embed_tokens.weight": weights["tok_embeddings.weight"],
        "lm_head.weight": weights["output.weight"],
        "model.layers.1.self_attn.q_proj.weight": halves_from_pairs(weights["layers.1.attention.wq.weight"], 4),
        "model.layers.1.self_attn.k_proj.weight": halves_from_pairs(weights["layers.1.attention.wk.weight"], 2),
        "model.layers.0.self_attn.o_proj.weight": weights["layers.0.attention.wo.weight"],
        "model.layers.0.mlp.down_proj.weight": weights["layers.0.feed_forward.w2.weight"],
        "model.layers.0.input_layernorm.weight": weights["layers.0.attention_norm.weight"],
    }
    for name, bits in expected.items():
        assert source.items[name].dtype == "BF16"
        assert source.items[name].read().tobytes() == bits.tobytes()


@pytest.mark.backend
def test_damage_in_metas_files_is_said(tmp_path):
    import torch

    write_meta(tmp_path / "meta", 2)
    last = tmp_path / "meta/consolidated.01.pth"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"consolidated\.01\.pth: not a whole weights file"):
        meta_source(tmp_path / "meta")
    torch.save({"norm.weight": torch.ones(8)}, last)
    with pytest.raises(UserError, match="shard 01 holds other weights"):
        meta_source(tmp_path / "meta")
    torch.save([torch.ones(8)], last)
    with pytest.raises(UserError, match="not a mapping of names"):
        meta_source(tmp_path / "meta")
    (tmp_path / "meta/consolidated.00.pth").unlink()
    with pytest.raises(UsageError, match=r"consolidated\.00\.pth is missing"):
        meta_source(tmp_path / "meta")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.backend
def test_a_pickle_that_would_run_code_is_not_run(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    write_meta(tmp_path / "meta")
    torch.save({"norm.weight": Bomb()}, tmp_path / "meta/consolidated.00.pth")
    with pytest.raises(UserError, match="not a whole weights file"):
        meta_source(tmp_path / "meta")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.backend
@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({**PARAMS, "use_scaled_rope": True}, "use_scaled_rope without its factors"),
        ({**PARAMS, "n_layers": 3}, "9 missing: model.layers.2"),
        ({"dim": 8}, "dim, n_layers, n_heads are expected"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, params, problem):
    write_meta(tmp_path / "meta", params=params)
    with pytest.raises(UserError, match=problem):
        meta_source(tmp_path / "meta")


@pytest.mark.backend
def test_a_trained_model_in_metas_shards_gives_the_same_bits(stories, tmp_path):
    """The trained stories model, taken for Meta's: two shards of it give the same bits as the llama2.c file."""
    import torch

    source = llama2c_source(stories / "stories260K.bin")
    write_mindformers(source, tmp_path / "st.safetensors")
    stored = open_tensors(tmp_path / "st.safetensors")
    folder = tmp_path / "meta"
    folder.mkdir()
    names = {"model.tok_embeddings.embedding_weight": "tok_embeddings.weight", "model.norm_out.weight": "norm.weight"}
    weights = {names.get(name, name.removeprefix("model.")): stored.read(name) for name in stored}
    weights["output.weight"] = weights["tok_embeddings.weight"]
    for number in range(2):
        part = {}
        for name, array in weights.items():
            heads = {"wq": 8, "wk": 4}.get(name.split(".")[-2])
            if heads:  # back to pairs
                rows, width = array.shape
                array = array.reshape(heads, 2, rows // heads // 2, width).transpose(0, 2, 1, 3).reshape(rows, width)
            axis = {"tok_embeddings": 1, "wo": 1, "w2": 1}.get(name.split(".")[-2], 0)
            piece = array if array.ndim == 1 else np.split(array, 2, axis)[number]
            part[name] = torch.from_numpy(piece.copy())
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    params = {"dim": 64, "n_layers": 5, "n_heads": 8, "n_kv_heads": 4, "norm_eps": 1e-5}
    (folder / "params.json").write_text(json.dumps(params))
    again = meta_source(folder)
    for name, item in source.items.items():
        assert again.items[name].read().tobytes() == item.read().tobytes()


@pytest.mark.backend
@pytest.mark.parametrize("backend", ["cuda", "ascend"])
def test_the_stories_model_tells_its_story_on_both_backends(stories, tmp_path, backend):
    """There and back through mindformers' file, then greedy through the command."""
    if backend == "ascend":
        pytest.importorskip("mindformers")
    write_hf(llama2c_source(stories / "stories260K.bin"), tmp_path / "hf")
    write_tokenizer(stories / "tok512.bin", tmp_path / "hf")
    exchange.to_mindformers(tmp_path / "hf", tmp_path / "stories.ckpt")
    command = [sys.executable, "-m", f"backends.{backend}", "generate", "--ckpt", str(tmp_path / "stories.ckpt")]
    command += ["--template", "bare", "--prompt", "Once upon a time", "--max-new-tokens", "50", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert ("Once upon a time" + done.stdout).startswith(STORY)
    assert "converting into" in done.stderr
