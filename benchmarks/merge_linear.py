"""Three ways of peft to add adapters up, and ours, against the weighted sum ΔW = Σ wᵢ·sᵢ·Bᵢ·Aᵢ in float64.

    python benchmarks/merge_linear.py

Two adapters of rank 8 on all attention layers of models/tiny with random matrices, added half and half; and one of
them added to itself half and half, which must give it back. Printed is |ΔW − sum| / |sum| over all layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from converters.common.console import format_table

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["k_proj", "o_proj", "q_proj", "v_proj"]
RANK, ALPHA = 8, 16


def main() -> None:
    """Make the adapters, add them up in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT / "models" / "tiny", help="default: models/tiny")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(args.base, Path(name))
    ways = list(result["half and half"])
    print(format_table(["way", *result], [[way, *(f"{result[case][way]:.2e}" for case in result)] for way in ways]))
    if args.out:
        versions = {name: version(name) for name in ("peft", "torch")}
        args.out.write_text(json.dumps({"relative_error": result, "versions": versions}, indent=2) + "\n")


def measure(base: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return the relative error of every way in both cases."""
    for seed in (1, 2):
        write_adapter(base, folder / str(seed), seed)
    cases = {"half and half": ("1", "2"), "with itself": ("1", "1")}
    return {case: compare(base, folder, [folder / name for name in names]) for case, names in cases.items()}


def write_adapter(base: Path, folder: Path, seed: int) -> None:
    """Save an adapter with random matrices by stock peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=TARGETS)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder)


def compare(base: Path, folder: Path, adapters: list[Path]) -> dict[str, float]:
    """Return the relative error of each way of adding two adapters with weights of a half."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    parts = [deltas(adapter) for adapter in adapters]
    wanted = {layer: 0.5 * parts[0][layer] + 0.5 * parts[1][layer] for layer in parts[0]}
    found: dict[str, float] = {}
    for way in ("linear", "svd", "cat"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapters[0]), "one")
        model.load_adapter(str(adapters[1]), "two")
        options: dict[str, Any] = {"svd_rank": 2 * RANK} if way == "svd" else {}
        model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "sum", combination_type=way, **options)
        model.save_pretrained(folder / way, selected_adapters=["sum"])
        shown = f"peft {way}" + (f", rank {2 * RANK}" if way == "svd" else "")
        found[shown] = error(deltas(folder / way / "sum"), wanted)
    words = [word for adapter in adapters for word in ("--adapter", f"{adapter}:0.5")]
    for shown, more in {"backends.merge": [], f"backends.merge --rank {RANK}": ["--rank", str(RANK)]}.items():
        command = [sys.executable, "-m", "backends.merge", *words, *more, "--overwrite", "--out", str(folder / "ours")]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        found[shown] = error(deltas(folder / "ours"), wanted)
    return found


def deltas(adapter: Path) -> dict[str, np.ndarray]:
    """Return ΔW by layer in float64, from the files alone: A, B, alpha and rank, with their patterns."""
    from backends.merge.adapters import open_adapter

    opened = open_adapter(adapter)
    updates = {layer: opened.update(layer) for layer in opened.modules}
    return {layer: b.astype(np.float64) @ a.astype(np.float64) for layer, (a, b) in updates.items()}


def error(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """Return the Frobenius norm of the difference over all layers, relative to that of what is wanted."""
    off = sum(float(np.sum((found[layer] - wanted[layer]) ** 2)) for layer in wanted)
    return float(np.sqrt(off / sum(float(np.sum(values**2)) for values in wanted.values())))


if __name__ == "__main__":
    main()
