"""What benchmarks share: work in a process of its own, its processor time and memory, and models as directories."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_own_process(work: Callable[..., Result], *args: Any) -> tuple[Result, float]:
    """Call a function in a fresh Python process.

    Args:
        work: a function of a module, not a closure, so that it can be named to the other process.
        args: its arguments.

    Returns:
        What it returned, and the most memory that its process held, in MB (the kernel's VmHWM).
    """
    # spawned, not forked: a fork would begin with the memory of this process
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_and_peak, work, args).result()


def _and_peak(work: Callable[..., Result], args: tuple[Any, ...]) -> tuple[Result, float]:
    return work(*args), peak_mb()


def peak_mb() -> float:
    """Return the most memory that this process has held, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return round(kibibytes * 1024 / 1e6)


def clocks() -> tuple[float, float]:
    """Return the seconds of the clock, and of the processor in all threads of this process."""
    times = os.times()
    return time.perf_counter(), times.user + times.system


def mark_steps() -> list[tuple[float, float]]:
    """Return a list that gets the :func:`clocks` after every optimizer step of this process."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    marks: list[tuple[float, float]] = []
    # of torch itself, so that the same clock measures every way of training
    register_optimizer_step_post_hook(lambda *_: marks.append(clocks()))
    return marks


def use_threads(count: int) -> None:
    """Let torch compute in this many threads; 0 leaves the number to torch."""
    import torch

    if count:
        torch.set_num_threads(count)


def model_directory(model: Path, folder: Path) -> Path:
    """Return a model as a directory that transformers reads; a GGUF file is converted into ``folder`` first."""
    from backends.exchange.convert import to_hf
    from converters.common.gguf_file import is_gguf

    if not is_gguf(model):
        return model
    # float32, so that every way computes with the same weights
    to_hf(model, folder / "model", dtype="float32", check=False)
    return folder / "model"


def conditions(threads: int, note: str | None) -> dict[str, Any]:
    """Describe what a result was measured with, to be kept beside it.

    Args:
        threads: that torch was told to use; 0 stands for its own choice.
        note: what else ran on the machine.
    """
    import torch

    from backends.run.environment import code_version, package_versions, processor

    return {
        "command": " ".join(["python", *sys.argv]),
        "note": note,
        "load": [round(load, 1) for load in os.getloadavg()],
        "processor": processor() or platform.machine(),
        "threads": threads or torch.get_num_threads(),
        "packages": package_versions(["torch", "transformers", "peft", "accelerate"]),
        "code": code_version(),
    }
