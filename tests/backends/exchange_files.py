"""Small models and adapters on the disk, written without a framework."""

import json
import struct

import ml_dtypes
import numpy as np

from backends.weights.llama import LlamaShape
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
    shapes = LlamaShape.from_config(config, "test").parameter_shapes()
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


PARAMS = {"dim": 8, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 4}


def write_llama2c(file, tied=True, dim=8, hidden=6, layers=2, heads=2, kv_heads=1, vocab=5, context=4):
    """Write a model of random bits. Returns the arrays, stacked over layers, in the file's order."""
    kv = dim // heads * kv_heads
    shapes = {
        "tok": (vocab, dim),
        "attention_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv, dim),
        "wv": (layers, kv, dim),
        "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "norm": (dim,),
        "tables": (2, context, dim // heads // 2),
    }
    if not tied:
        shapes["head"] = (vocab, dim)
    arrays = {name: random_bits(shape, np.float32, i) for i, (name, shape) in enumerate(shapes.items())}
    header = np.array([dim, hidden, layers, heads, kv_heads, vocab if tied else -vocab, context], "<i4")
    file.write_bytes(header.tobytes() + b"".join(array.tobytes() for array in arrays.values()))
    return arrays


def meta_weights():
    shapes = {"tok_embeddings.weight": (12, 8), "norm.weight": (8,), "output.weight": (12, 8)}
    for layer in range(2):
        inner = {
            "attention.wq": (8, 8),
            "attention.wk": (4, 8),
            "attention.wv": (4, 8),
            "attention.wo": (8, 8),
            "feed_forward.w1": (6, 8),
            "feed_forward.w2": (8, 6),
            "feed_forward.w3": (6, 8),
            "attention_norm": (8,),
            "ffn_norm": (8,),
        }
        shapes |= {f"layers.{layer}.{name}.weight": shape for name, shape in inner.items()}
    return {name: random_bits(shape, np.int16, i) for i, (name, shape) in enumerate(shapes.items())}


def write_meta(folder, shards=1, embedding_axis=1, params=PARAMS):
    """Write Meta's directory in bfloat16, split as its model parallelism splits. Returns the bits, whole."""
    import torch

    folder.mkdir()
    weights = meta_weights()
    (folder / "params.json").write_text(json.dumps(params))
    for number in range(shards):
        part = {"rope.freqs": torch.ones(2)}
        for name, array in weights.items():
            module = name.split(".")[-2]
            axis = {"tok_embeddings": embedding_axis, "wo": 1, "w2": 1}.get(module, 0)
            whole = array.ndim == 1
            piece = array if whole else np.split(array, shards, axis)[number]
            part[name] = torch.from_numpy(piece.copy()).view(torch.bfloat16)
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    return weights


def write_vocabulary(file):
    """Write a vocabulary of llama2.c that has bytes only."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    data = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece.encode() for piece in pieces)
    file.write_bytes(struct.pack("<i", 6) + data)
