"""What a run was made with, and what ``doctor`` finds: versions, code, device and processor."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from backends.run.machine import bf16_flags
from converters.common.errors import UserError

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "twinlora")
ASCEND_PACKAGES = ("mindspore", "mindformers", "mindpet", "tokenizers", "numpy", "twinlora")


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed."""
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
    """Describe this process for ``environment.json``: versions, device and code.

    Args:
        device: ``cpu``, ``cuda`` or ``npu``.
        device_name: of the card or processor.
        dtype: of the matrix products.
        threads: CPU threads of a process.
        processes: number of processes that train together.
        packages: whose versions are recorded.
    """
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
        "bf16_units": bf16_flags(),
        "threads": threads,
        "processes": processes,
    }


def code_version() -> str | None:
    """Return the git commit of the code, with ``+changes`` if files differ from it; None outside its checkout."""
    root = Path(__file__).resolve().parents[2]
    # an installed package may lie inside somebody else's repository
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        # without untracked files: runs and data may lie in the checkout and are not its code
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    # no git, a damaged checkout or a disk that hangs must not stop a run
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def processor() -> str:
    """Return the name of the CPU."""
    try:
        # the name in full, where platform.processor() is often empty (Linux)
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class DoctorReport:
    """Result of a backend's ``doctor`` command.

    Attributes:
        versions: what is installed, its version, and ``ok`` or what is needed, one row each.
        device: where the step was trained.
        losses: before and after two steps of a tiny model.
        seconds: that they took.
    """

    versions: list[list[str]]
    device: str
    losses: tuple[float, float]
    seconds: float


def check_step(report: DoctorReport, show: Callable[[str], None]) -> DoctorReport:
    """Check that two training steps lowered the loss, and show it.

    Args:
        report: result of the steps.
        show: prints one line.

    Returns:
        The report, unchanged.

    Raises:
        UserError: the loss did not fall.
    """
    before, after = report.losses
    # "not <" refuses a NaN, too
    if not after < before:
        raise UserError(f"a training step does not work here: the loss went from {before:.4f} to {after:.4f}")
    show(f"two LoRA steps of a tiny model: loss {before:.4f} → {after:.4f} in {report.seconds:.2f} s")
    show("ok")
    return report
