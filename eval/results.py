"""What every evaluation reports: intervals, shares in percent, and what the figures were made with."""

from __future__ import annotations

import math
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval that holds a share's true value with 95 % confidence (Wilson 1927): it never leaves 0…1.

    Args:
        right: successes.
        n: trials.
        z: quantile of the normal distribution; 1.96 is 95 %.
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    # without rounding these hold exactly
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def percent(share: float) -> str:
    """Write a share with one decimal, in percent."""
    return f"{100 * share:.1f}"


def git_hash() -> str | None:
    """Return the commit of this code, ``-dirty`` if it was changed; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def environment() -> dict[str, str | None]:
    """Return the versions that figures may depend on, without importing any of them."""
    found: dict[str, str | None] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("twinlora", "torch", "transformers", "peft", "mindspore", "mindformers", "tokenizers", "tiktoken"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
