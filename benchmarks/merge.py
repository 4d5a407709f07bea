"""Merging LoRA into a base: ``python -m backends.merge`` and peft's ``merge_and_unload``, each in its own process.

The base is a Llama of random bfloat16 weights in shards. Measured are time, peak memory, and what of the update is
lost beside the exact sum W + ΔW rounded once. Ways alternate, the best round counts.

    python benchmarks/merge.py                        # about 1 GB of weights
    python benchmarks/merge.py --layers 4 --rounds 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, WIDE, VOCAB, HEADS, RANK, ALPHA = 2048, 5504, 32000, 16, 8, 16
SHARD_BYTES = 300 * 10**6
PEFT = """import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""


def main() -> None:
    """Make base and adapter, merge them both ways, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of the model (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        result = measure(folder, args.layers, args.rounds)
    finally:
        shutil.rmtree(folder)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, layers: int, rounds: int) -> dict[str, Any]:
    """Return seconds, peak memory and lost update of both ways."""
    base, adapter = folder / "base", folder / "adapter"
    # in another process: Linux counts what the parent holds to the peak of its children
    aside = ProcessPoolExecutor(1, mp_context=get_context("spawn")).submit
    total, largest = aside(write_base, base, layers).result()
    aside(write_adapter, adapter, layers, base).result()
    ways = {
        "ours": ["-m", "backends.merge", "--base", base, "--adapter", adapter, "--no-verify", "--out"],
        "peft": ["-c", PEFT, base, adapter],
    }
    found: dict[str, dict[str, float]] = {}
    for number in range(rounds):
        for name, words in ways.items():
            out = folder / f"{name}-{number}"
            now = run([*words, out]) | {"update_lost": aside(lost, base, adapter, out).result()}
            best = found.setdefault(name, now)
            found[name] = {key: min(best[key], now[key]) for key in now}
            shutil.rmtree(out)
    return {
        "weights_mb": round(total / 1e6),
        "largest_tensor_mb": round(largest / 1e6),
        "shard_mb": SHARD_BYTES // 10**6,
        "adapter": f"rank {RANK} on q_proj and v_proj of {layers} layers",
        "ways": {name: {key: float(f"{value:.4g}") for key, value in one.items()} for name, one in found.items()},
        "import_only_mb": {
            "ours": run(["-c", "import backends.merge.run"])["peak_mb"],
            "peft": run(["-c", "import peft"])["peak_mb"],
        },
        "conditions": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "peft", "transformers")},
        },
    }


def run(words: list[Any]) -> dict[str, float]:
    """Run Python in a process of its own; returns seconds, of the clock and of the processor, and peak memory."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {words[:3]}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": round(usage.ru_maxrss / 1000),
    }


def write_base(folder: Path, layers: int) -> tuple[int, int]:
    """Write random weights; returns bytes of all and of the largest tensor."""
    import ml_dtypes

    from backends.weights.safetensors_files import ShardWriter

    folder.mkdir()
    random = np.random.default_rng(0)
    linear = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (HIDDEN, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (WIDE, HIDDEN),
        "mlp.up_proj": (WIDE, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDE),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, HIDDEN)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in linear.items()}
        shapes |= {f"model.layers.{layer}.{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {"model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
    with ShardWriter(folder, max_shard_bytes=SHARD_BYTES) as writer:
        for name, shape in shapes.items():
            values = random.standard_normal(shape, np.float32) * np.float32(0.02)
            writer.add(f"{name}.weight", values.astype(ml_dtypes.bfloat16))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCAB,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return writer.total_bytes, 2 * VOCAB * HIDDEN


def write_adapter(folder: Path, layers: int, base: Path) -> None:
    """Write an adapter of the size that training leaves: |ΔW| about 3e-4 beside weights of 0.02."""
    from backends.weights.safetensors_files import ShardWriter

    folder.mkdir()
    random = np.random.default_rng(1)
    with ShardWriter(folder, stem="adapter_model", max_shard_bytes=None) as writer:
        for layer in range(layers):
            for module in ("q_proj", "v_proj"):
                for half, shape, size in (("A", (RANK, HIDDEN), 0.02), ("B", (HIDDEN, RANK), 0.003)):
                    name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{half}.weight"
                    writer.add(name, random.standard_normal(shape, np.float32) * np.float32(size))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def lost(base: Path, adapter: Path, merged: Path) -> float:
    """Return how far q_proj of the first layer is from the exact sum, beyond its rounding, relative to the update."""
    import ml_dtypes

    from backends.weights.safetensors_files import open_tensors

    name, lora = "model.layers.0.self_attn.q_proj.weight", open_tensors(adapter)
    a, b = (lora.read(f"base_model.model.{name[:-7]}.lora_{half}.weight").astype(np.float64) for half in "AB")
    update = ALPHA / RANK * (b @ a)
    exact = open_tensors(base).read(name).astype(np.float64) + update
    best = exact.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    found = open_tensors(merged).read(name).astype(np.float64)
    return float(np.linalg.norm(found - best) / np.linalg.norm(update))


if __name__ == "__main__":
    main()
