"""Small models and adapters on the disk, written without a framework."""

import json

import ml_dtypes
import numpy as np

from backends.exchange.layout import Layout
from backends.weights.mindspore_ckpt import CkptWriter
from backends.weights.safetensors_files import ShardWriter, open_tensors

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
LLAMA2 = {**LLAMA3, "num_key_value_heads": 4, "rope_theta": 10000.0}
QWEN2 = {**LLAMA3, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True}


def random_bits(shape, dtype, seed):
    """Any bits at all: NaN, infinities and denormals have to survive too."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), np.uint8).view(kind).reshape(shape)


def write_hf_model(folder, config=LLAMA3, dtype="float32", shard_bytes=None, change=None):
    """Write a model directory; ``change`` edits its {name: array} before it is written. Returns the arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = Layout.from_config(config, "test").shapes()
    arrays = {name: random_bits(shape, DTYPES[dtype], i) for i, (name, shape) in enumerate(shapes.items())}
    if change is not None:
        change(arrays)
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "template.json").write_text('{"name": "bare"}')
    with ShardWriter(folder, max_shard_bytes=shard_bytes) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    return arrays


def write_ckpt(file, arrays):
    """Write a MindSpore checkpoint."""
    with CkptWriter(file) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    return file


def write_safetensors(file, arrays, metadata=None):
    """Write one safetensors file."""
    with ShardWriter(file.parent, max_shard_bytes=None, metadata=metadata or {}, stem=file.stem) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    return file


def write_adapter(folder, rank=2, dtype="float32", base="", modules=("q_proj", "v_proj"), **config):
    """Write a PEFT adapter for LLAMA3's sizes. Returns its arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    widths = {"q_proj": (16, 16), "v_proj": (8, 16), "gate_proj": (24, 16), "down_proj": (16, 24)}
    arrays = {}
    for layer in range(2):
        for module in modules:
            place = "mlp" if module in ("gate_proj", "down_proj") else "self_attn"
            prefix = f"base_model.model.model.layers.{layer}.{place}.{module}"
            out, width = widths[module]
            arrays[f"{prefix}.lora_A.weight"] = random_bits((rank, width), DTYPES[dtype], len(arrays))
            arrays[f"{prefix}.lora_B.weight"] = random_bits((out, rank), DTYPES[dtype], len(arrays))
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "lora_dropout": 0.0}
    fields |= {"target_modules": sorted(modules), "base_model_name_or_path": str(base), "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    write_safetensors(folder / "adapter_model.safetensors", dict(sorted(arrays.items())))
    return arrays


def read_all(path):
    """Return {name: (dtype, shape, bytes)} of a safetensors file or directory."""
    tensors = open_tensors(path)
    return {name: (tensors.dtype(name), tensors.shape(name), tensors.read(name).tobytes()) for name in tensors}
