"""Small bases and adapters as files, made with numpy."""

import json
import shutil
from pathlib import Path

import numpy as np

from backends.weights.dtypes import numpy_types
from backends.weights.safetensors_files import ShardWriter
from converters.text.template import get_template

HIDDEN, WIDE, VOCAB, LAYERS = 16, 24, 20, 2
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def base_tensors(kind="F32", seed=0, tied=False):
    """Weights of a tiny Llama by Hugging Face name, of the type that safetensors calls ``kind``."""
    random = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": random.normal(0, 0.1, (VOCAB, HIDDEN))}
    for layer in range(LAYERS):
        for module, shape in SHAPES.items():
            tensors[f"model.layers.{layer}.{module}.weight"] = random.normal(0, 0.1, shape)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = random.normal(1, 0.1, HIDDEN)
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = random.normal(1, 0.1, HIDDEN)
    tensors["model.norm.weight"] = random.normal(1, 0.1, HIDDEN)
    if not tied:
        tensors["lm_head.weight"] = random.normal(0, 0.1, (VOCAB, HIDDEN))
    return {name: values.astype(np.float32).astype(numpy_types()[kind]) for name, values in tensors.items()}


def write_base(folder, kind="F32", *, seed=0, shard_bytes=None, tied=False, tokenizer=None, **config):
    """Write a model directory and return it."""
    folder.mkdir(parents=True)
    with ShardWriter(folder, max_shard_bytes=shard_bytes) as writer:
        for name, values in base_tensors(kind, seed, tied).items():
            writer.add(name, values)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied, **config}))
    for file in Path(tokenizer).iterdir() if tokenizer else ():
        shutil.copy(file, folder)
    return folder


def write_adapter(
    folder, *, rank=4, alpha=8, targets=("q_proj", "v_proj"), seed=1, base="", template="bare", size=0.05, **config
):
    """Write a PEFT adapter directory and return it."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    with ShardWriter(folder, stem="adapter_model", max_shard_bytes=None) as writer:
        for layer in range(LAYERS):
            for module, (out, width) in SHAPES.items():
                if module.split(".")[1] in targets:
                    path = f"base_model.model.model.layers.{layer}.{module}"
                    writer.add(f"{path}.lora_A.weight", random.normal(0, size, (rank, width)).astype(np.float32))
                    writer.add(f"{path}.lora_B.weight", random.normal(0, size, (out, rank)).astype(np.float32))
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(targets),
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
    if template:
        (folder / "template.json").write_text(json.dumps(get_template(template).to_json()))
    return folder
