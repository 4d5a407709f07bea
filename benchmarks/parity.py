"""One recipe on both backends, on the CPU: two loss curves on one plot, and how far apart they are.

    python -m benchmarks.parity --out DIR                      # the small base, arithmetic rows, 26 steps
    python -m benchmarks.parity --out DIR --base DIR2 --rows 320

Writes DIR/cuda and DIR/ascend (run directories), DIR/parity.png and DIR/parity.json. Runs that are there are not
trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], epilog="example: python -m benchmarks.parity --out runs/parity"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs and figures go")
    parser.add_argument("--base", default="models/tiny", metavar="DIR", help="model directory (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="conversations (default: arithmetic rows are made)")
    parser.add_argument("--rows", type=int, default=220, help="rows to make (default: %(default)s)")
    parser.add_argument("--seq-length", type=int, default=128, help="longest row in tokens (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="further settings of yaml/demo.yaml")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.data or arithmetic_rows(args.out, args.rows)
    settings = [
        f"load_checkpoint={args.base}",
        f"data.train={data}",
        f"runner_config.batch_size={BATCH}",
        "runner_config.epochs=2",
        f"model.model_config.seq_length={args.seq_length}",
        f"lr_schedule.learning_rate={args.learning_rate}",
        *args.overrides,
    ]
    logs = {}
    for backend in ("cuda", "ascend"):
        folder = args.out / backend
        if not (folder / "result.json").is_file():
            command = ["train", "yaml/demo.yaml", *settings, f"output_dir={folder}", "--device", "cpu"]
            subprocess.run([sys.executable, "-m", f"backends.{backend}", *command], cwd=ROOT, check=True)
        logs[backend] = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    figures = compare(logs["cuda"], logs["ascend"], args.out)
    draw(logs, figures, args.out / "parity.png")
    (args.out / "parity.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def arithmetic_rows(folder: Path, count: int) -> Path:
    """Make conversations as the demo does."""
    raw, rows = folder / "raw.jsonl", folder / "rows.jsonl"
    if not rows.is_file():
        convert = [sys.executable, "-m", "converters.arithmetic"]
        subprocess.run([*convert, "synthesize", "--seed", "7", "-o", raw], cwd=ROOT, check=True)
        options = ["--steps", "worked", "--rows", str(count)]
        subprocess.run([*convert, "convert", raw, *options, "-o", rows], cwd=ROOT, check=True)
        raw.unlink()
    return rows


def compare(cuda: list[dict], ascend: list[dict], folder: Path) -> dict:
    """How far apart two runs are: curves, and adapters as the norm of their difference over their own."""
    import numpy as np
    from safetensors.numpy import load_file

    if len(cuda) != len(ascend):
        sys.exit(f"{len(cuda)} steps on cuda, {len(ascend)} on ascend: not the same run")
    pairs = list(zip(cuda, ascend, strict=True))
    ours, theirs = (load_file(folder / name / "adapter_model.safetensors") for name in ("cuda", "ascend"))
    distance = np.sqrt(sum(float(np.sum((ours[name] - theirs[name]) ** 2)) for name in ours))
    size = np.sqrt(sum(float(np.sum(value**2)) for value in ours.values()))
    return {
        "steps": len(pairs),
        "first_loss": cuda[0]["loss"],
        "last_loss": cuda[-1]["loss"],
        "loss_relative": max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs),
        "lr_absolute": max(abs(a["lr"] - b["lr"]) for a, b in pairs),
        "grad_norm_relative": max(abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in pairs),
        "adapter_relative": float(distance / size),
    }


def draw(logs: dict[str, list[dict]], figures: dict, path: Path) -> None:
    """The two curves on one plot, and the relative distance of the losses under them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = [row["step"] for row in logs["cuda"]]
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 5), height_ratios=[3, 1], layout="constrained")
    losses = {name: [row["loss"] for row in rows] for name, rows in logs.items()}
    upper.plot(steps, losses["cuda"], color="tab:blue", linewidth=4, alpha=0.4, label="backends.cuda (PyTorch, CPU)")
    upper.plot(steps, losses["ascend"], color="black", linewidth=1, label="backends.ascend (MindSpore, CPU)")
    upper.set_ylabel("loss (nats per supervised token)")
    upper.legend(frameon=False)
    upper.grid(alpha=0.3)
    apart = [abs(a - b) / a for a, b in zip(losses["cuda"], losses["ascend"], strict=True)]
    lower.semilogy(steps, [max(value, 1e-9) for value in apart], color="tab:red", linewidth=1)
    lower.axhline(1e-4, color="0.5", linestyle="--", linewidth=0.8)
    lower.set_ylabel("|Δloss| / loss")
    lower.set_xlabel("optimizer step")
    lower.grid(alpha=0.3)
    upper.set_title(f"One recipe, two backends: largest distance {figures['loss_relative']:.1e}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
