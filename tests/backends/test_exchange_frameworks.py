"""The exchange against the frameworks themselves: their names, their readers, their logits."""

import json
import subprocess
import sys

import numpy as np
import pytest
from exchange_files import LLAMA3, QWEN2, read_all, write_adapter, write_hf_model, write_safetensors

from backends import exchange
from backends.exchange.adapters import adapter_from_mindformers, adapter_to_mindformers, adapter_to_peft
from backends.recipe.types import PetConfig
from backends.weights.llama import LlamaShape
from backends.weights.lora import hf_modules
from backends.weights.names import to_mindformers
from backends.weights.safetensors_files import open_tensors

pytestmark = pytest.mark.backend

# MindSpore's context is global and sticky: it runs in a process of its own
WITH_MINDSPORE = """
import json, sys
import mindspore as ms
from mindformers import LlamaForCausalLM
for home, names in json.loads(sys.argv[1]).items():
    found = {"names": [LlamaForCausalLM.convert_name(name) for name in names]}
    for suffix in ("ckpt", "safetensors"):
        loaded = ms.load_checkpoint(f"{home}/m.{suffix}", format=suffix)
        found[suffix] = {name: [str(value.dtype), list(value.shape)] for name, value in loaded.items()}
        ms.save_checkpoint(loaded, f"{home}/again.{suffix}", format=suffix)
    with open(f"{home}/found.json", "w") as file:
        json.dump(found, file)
"""


def test_mindspore_reads_what_is_written_and_the_other_way(tmp_path):
    """bfloat16 bits of any kind, through MindSpore's own loading and saving; the names are mindformers' own."""
    pytest.importorskip("mindformers")
    shapes = {}
    for kind, config in (("llama3", LLAMA3), ("qwen2", QWEN2)):
        home = tmp_path / kind
        write_hf_model(home / "hf", config, "bfloat16")
        for suffix in ("ckpt", "safetensors"):
            exchange.to_mindformers(home / "hf", home / f"m.{suffix}")
        shapes[home] = LlamaShape.from_config(config, "").parameter_shapes()
    work = json.dumps({str(home): list(names) for home, names in shapes.items()})
    command = [sys.executable, "-c", WITH_MINDSPORE, work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for home, expected in shapes.items():
        found = json.loads((home / "found.json").read_text())
        assert found["names"] == list(map(to_mindformers, expected))
        for suffix in ("ckpt", "safetensors"):
            assert found[suffix] == {to_mindformers(name): ["BFloat16", list(expected[name])] for name in expected}
            exchange.to_hf(home / f"again.{suffix}", home / suffix, config=home / "hf")
            assert read_all(home / suffix) == read_all(home / "hf")


def logits(folder):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits.numpy()


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen2"])
def test_transformers_computes_the_same_after_there_and_back(tmp_path, kind):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
    }
    torch.manual_seed(0)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
        for layer in model.model.layers:  # they start at zero, and would hide a loss
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=kind == "llama-tied"))
    model.save_pretrained(tmp_path / "hf", max_shard_size="5KB")
    exchange.to_mindformers(tmp_path / "hf", tmp_path / "m.ckpt")
    exchange.to_hf(tmp_path / "m.ckpt", tmp_path / "again")
    assert np.array_equal(logits(tmp_path / "again"), logits(tmp_path / "hf"))


def test_safetensors_itself_reads_every_shard(tmp_path):
    from safetensors.numpy import load_file

    arrays = write_hf_model(tmp_path / "hf", dtype="float16", shard_bytes=1000)
    files = list((tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 3
    found = {name: array for file in files for name, array in load_file(file).items()}
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in arrays.items()}


@pytest.fixture
def trained(tmp_path):
    """An adapter as the CUDA backend writes it, on a base of its own, and the recipe's settings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from backends.cuda.model import add_lora
    from backends.cuda.train.saving import save_weights

    torch.manual_seed(0)
    known = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: LLAMA3[key] for key in (*known, "num_key_value_heads")}
    base = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.4))
    base.save_pretrained(tmp_path / "base")
    pet = PetConfig(lora_rank=3, lora_alpha=12, lora_dropout=0.1, target_modules=".*wq|.*wv|.*w2")
    model = add_lora(base, pet, 0, str(tmp_path / "base"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    (tmp_path / "cuda").mkdir()
    save_weights(model, tmp_path / "cuda")
    return tmp_path / "cuda", pet


def peft_logits(adapter, base):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits.numpy()


def test_both_backends_have_the_same_product(tmp_path, trained):
    """What CUDA wrote, through mindformers' names and back, is the same file and the same settings."""
    from peft import LoraConfig

    cuda, pet = trained
    adapter_to_mindformers(cuda, tmp_path / "lora.safetensors")
    (tmp_path / "ascend").mkdir()
    adapter_from_mindformers(
        open_tensors(tmp_path / "lora.safetensors"), pet, str(tmp_path / "base"), tmp_path / "ascend"
    )
    ours, theirs = (folder / "adapter_model.safetensors" for folder in (tmp_path / "ascend", cuda))
    assert ours.read_bytes() == theirs.read_bytes()
    assert LoraConfig.from_pretrained(tmp_path / "ascend") == LoraConfig.from_pretrained(cuda)
    config = json.loads((tmp_path / "ascend/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(hf_modules(pet))
    ascend = peft_logits(tmp_path / "ascend", tmp_path / "base")
    assert np.array_equal(ascend, peft_logits(cuda, tmp_path / "base"))
    assert not np.allclose(ascend, logits(tmp_path / "base"))


def test_peft_loads_an_adapter_that_came_back(tmp_path):
    def finite(arrays):
        for name in arrays:
            arrays[name] = np.random.default_rng(1).normal(size=arrays[name].shape).astype(np.float32)

    write_hf_model(tmp_path / "base", change=finite)
    write_adapter(tmp_path / "peft", base=tmp_path / "base", modules=("down_proj", "gate_proj"))
    tensors = open_tensors(tmp_path / "peft")
    numbers = np.random.default_rng(2)
    arrays = {name: numbers.normal(size=tensors.shape(name)).astype(np.float32) for name in tensors}
    write_safetensors(tmp_path / "peft/adapter_model.safetensors", arrays)
    adapter_to_mindformers(tmp_path / "peft", tmp_path / "lora.ckpt")
    adapter_to_peft(tmp_path / "lora.ckpt", tmp_path / "again")
    before, after = (peft_logits(tmp_path / name, tmp_path / "base") for name in ("peft", "again"))
    assert np.array_equal(before, after)
    assert not np.allclose(after, logits(tmp_path / "base"))
