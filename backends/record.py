"""What a run says about itself: environment, log, curve, progress."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from converters.cli import progress
from converters.files import atomic, write_text

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "twinlora")
ASCEND_PACKAGES = ("mindspore", "mindformers", "mindpet", "tokenizers", "numpy", "twinlora")


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Installed version of each package, None where there is none."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def environment(
    device: str, device_name: str, dtype: str, threads: int, processes: int, packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
    """Versions, device and code of this process, for ``environment.json``."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(packages),
        "code": code_version(),
        "device": device,
        "device_name": device_name,
        "dtype": dtype,
        "threads": threads,
        "processes": processes,
    }


def code_version() -> str | None:
    """Git commit of the code, ``+changes`` when files differ from it, None outside a git checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def processor() -> str:
    """Name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class TrainLog:
    """``train_log.jsonl`` and the progress bar: one record a step."""

    def __init__(self, path: Path, kept: list[dict[str, Any]], total: int) -> None:
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.rows = kept
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._bar = progress(total=total, desc="train", unit="step")
        self._bar.initial = self._bar.n = len(kept)
        self._first = len(kept)
        self._began = time.perf_counter()

    def add(self, row: dict[str, Any], total: int) -> None:
        """Write one step's record, with the time left by the mean step of this process so far."""
        elapsed = time.perf_counter() - self._began
        done = row["step"] - self._first
        row["time_left_s"] = round(elapsed / done * (total - row["step"]), 1)
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._bar.set_postfix(loss=f"{row['loss']:.4f}", tok_s=f"{row['tokens_per_s']:,.0f}", refresh=False)
        self._bar.update()

    def sync(self) -> None:
        """Put the log on the disk, so that no checkpoint is ahead of it."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Put everything on the disk."""
        self._bar.close()
        self.sync()
        self._file.close()


def plot_loss(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the loss curve with a running mean, and the learning rate under it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = [row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    # a centred window over a fortieth of the run: smooth, and without the lag of a decaying mean
    reach = len(losses) // 80
    smooth = [sum(part) / len(part) for part in (losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses)))]
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 5), height_ratios=[4, 1], layout="constrained")
    upper.plot(steps, losses, color="0.75", linewidth=0.8, label="step")
    upper.plot(steps, smooth, color="tab:blue", linewidth=1.6, label="running mean")
    upper.set_ylabel("loss (nats per supervised token)")
    upper.set_title(title, fontsize=10)
    upper.legend(frameon=False)
    upper.grid(alpha=0.3)
    lower.plot(steps, [row["lr"] for row in rows], color="tab:orange", linewidth=1.2)
    lower.set_ylabel("lr")
    lower.set_xlabel("optimizer step")
    lower.grid(alpha=0.3)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
