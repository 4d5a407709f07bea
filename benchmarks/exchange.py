"""Hugging Face → mindformers → Hugging Face with a model of 1 GB: ``python benchmarks/exchange.py``.

A Llama of random bfloat16 numbers in one safetensors file. Each conversion is the command in a process of its own; its
peak memory is the kernel's VmHWM, taken as the process ends, and the files that come back must be the same bytes.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 600
SIZES = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
BEFORE_EXIT = """
import sys
from backends.exchange.__main__ import main
code = main(sys.argv[1:-1])
with open("/proc/self/status") as status, open(sys.argv[-1], "w") as peak:
    peak.write(next(line for line in status if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=9, help="decoder layers; 9 make 1.06 GB (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args)
    print(table(figures))
    if args.out:
        from converters.common.files import write_json

        write_json(args.out, figures)
    if max(way["peak_mb"] for way in figures["ways"].values()) >= LIMIT_MB:
        sys.exit(f"more than {LIMIT_MB} MB")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Make the model, convert it every way, compare what comes back."""
    from backends.run.environment import code_version, package_versions

    load = os.getloadavg()[0]
    size = make_model(folder / "hf", args.layers)
    ways: dict[str, dict[str, float]] = {}
    for turn in range(args.rounds):
        for suffix in ("ckpt", "safetensors"):
            for way, source, target in (
                (f"HF → .{suffix}", folder / "hf", folder / f"m{turn}.{suffix}"),
                (f".{suffix} → HF", folder / f"m{turn}.{suffix}", folder / f"again{turn}-{suffix}"),
            ):
                figure = convert(source, target, size)
                print(f"round {turn + 1}, {way}: {figure['seconds']:.2f} s", file=sys.stderr)
                if way not in ways or figure["seconds"] < ways[way]["seconds"]:
                    ways[way] = figure
            same_bytes(folder / "hf", folder / f"again{turn}-{suffix}")
    return {
        "gigabytes": size / 1e9,
        "ways": ways,
        "same_bytes": True,
        "conditions": {
            "command": " ".join(["python", *sys.argv]),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average_at_start": round(load, 1),
            "packages": package_versions(["numpy", "ml_dtypes"]),
            "code": code_version(),
        },
    }


def make_model(folder: Path, layers: int) -> int:
    """Write the model directory; returns the bytes of its weights."""
    import ml_dtypes
    import numpy as np

    from backends.weights.llama import LlamaShape
    from backends.weights.safetensors_files import ShardWriter
    from converters.common.files import write_json

    folder.mkdir()
    config = {**SIZES, "num_hidden_layers": layers}
    write_json(folder / "config.json", config)
    draw = np.random.default_rng(0)
    with ShardWriter(folder, max_shard_bytes=None) as writer:
        for name, shape in LlamaShape.from_config(config, "benchmark").parameter_shapes().items():
            writer.add(name, draw.standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16))
    print(f"model: {writer.total_bytes / 1e9:.2f} GB", file=sys.stderr)
    return writer.total_bytes


def convert(source: Path, target: Path, size: int) -> dict[str, float]:
    """Run the command in a process of its own, writing to the disk included."""
    command = "to-hf" if source.is_file() else "to-mindformers"
    peak = target.with_name("peak")
    words = [sys.executable, "-c", BEFORE_EXIT, command, str(source), "-o", str(target), str(peak)]
    if command == "to-hf":
        words.insert(-1, "--max-shard-size=100GB")
    began, used = time.perf_counter(), cpu_seconds()
    subprocess.run(words, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    seconds, used = time.perf_counter() - began, cpu_seconds() - used
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "mb_per_s": round(size / 1e6 / seconds, 1),
        "peak_mb": round(int(peak.read_text()) / 1024, 1),
    }


def cpu_seconds() -> float:
    """Time that processes which have ended spent computing, the kernel's part included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def same_bytes(before: Path, after: Path) -> None:
    """Compare tensor by tensor.

    Raises:
        SystemExit: a tensor is not what it was.
    """
    from backends.weights.safetensors_files import open_tensors

    one, other = open_tensors(before), open_tensors(after)
    for name in one:
        if one.read(name).tobytes() != other.read(name).tobytes():
            sys.exit(f"{after}: {name} is not what it was")


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    from converters.common.console import format_table

    rows = [
        [
            name,
            f"{way['seconds']:.1f}",
            f"{way['cpu_seconds']:.1f}",
            f"{way['mb_per_s']:,.0f}",
            f"{way['peak_mb']:,.0f}",
        ]
        for name, way in figures["ways"].items()
    ]
    title = f"{figures['gigabytes']:.2f} GB of bfloat16"
    return format_table([title, "seconds", "of the CPU", "MB/s", "peak MB"], rows)


if __name__ == "__main__":
    main()
