"""What this machine lends a process: cores, free memory and kinds of matrix products. Asks the system, no framework."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from converters.common.errors import UserError

BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Processor flags, as Linux names them, of units that multiply bfloat16 matrices faster than float32 ones."""

CGROUP = Path("/sys/fs/cgroup")
# bytes; version 1 writes a number near 2⁶³ where there is no limit; no machine has that much memory
NO_LIMIT = 2**60


def bf16_flags(flags: Iterable[str] | None = None) -> list[str]:
    """Return which of :data:`BF16_FLAGS` the processor has; empty where bfloat16 products would be emulated.

    Args:
        flags: of the processor; None reads them from ``/proc/cpuinfo``.
    """
    known = processor_flags() if flags is None else set(flags)
    return [flag for flag in BF16_FLAGS if flag in known]


def processor_flags() -> set[str]:
    """Return the processor's flags as Linux lists them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def allowed_cores(root: Path = CGROUP) -> int:
    """Return how many cores this process may keep busy: its affinity, or the container's quota where that is less.

    Args:
        root: where the control groups are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _processor_quota(root)
    # half a core still needs one thread; a thread more than the quota would be stopped in the middle of a product
    return affinity if quota is None else max(1, min(affinity, math.floor(quota)))


def cpu_threads(processes: int = 1) -> int:
    """Return the threads of one process: ``OMP_NUM_THREADS``, else its share of the allowed cores.

    Args:
        processes: how many compute together on this machine.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else max(1, allowed_cores() // processes)


def free_memory(root: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that a process can still take before the kernel kills one.

    Args:
        root: where the control groups are mounted; a container's limit counts where less is left of it.
        meminfo: the kernel's account of the whole machine.
    """
    left = [_available(meminfo)]
    for folder, limit, used, cache in (
        (_group(root, ""), "memory.max", "memory.current", "inactive_file"),
        (_group(root / "memory", "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None and most < NO_LIMIT:
            # files that nobody has touched lately count as used, but the kernel drops them first
            left.append(max(0, most - now + _entry(folder / "memory.stat", cache)))
    return min(left)


def held_memory() -> int:
    """Return the bytes of memory that this process holds now; 0 where the system does not say."""
    return _entry(Path("/proc/self/status"), "VmRSS:") * 1024


def ensure_memory(need: float, what: str, advice: str, free: float | None = None) -> None:
    """Refuse work that would end in the kernel's out-of-memory killer.

    Args:
        need: bytes that the work takes at its peak.
        what: the work, as the subject of the message: "training".
        advice: what to change, as the end of the message.
        free: bytes that can still be taken; None asks the machine.

    Raises:
        UserError: ``need`` is more than is free.
    """
    left = free_memory() if free is None else free
    if need > left:
        raise UserError(
            f"{what} needs about {need / 1e9:.1f} GB of memory where {left / 1e9:.1f} GB are free; {advice}"
        )


def _available(meminfo: Path) -> int:
    try:
        # counts what the page cache would give back, which MemFree does not
        return _entry(meminfo, "MemAvailable:") * 1024 or _unused_pages()
    except OSError:
        return _unused_pages()


def _unused_pages() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _processor_quota(root: Path) -> float | None:
    """Return the cores that a control group grants, as quota / period; None without a quota."""
    try:
        quota, period = (_group(root, "") / "cpu.max").read_text().split()  # "max 100000" or "150000 100000"
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        folder = _group(root / "cpu", "cpu")
    granted, period_v1 = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return granted / period_v1 if granted and period_v1 and granted > 0 else None


def _group(root: Path, controller: str) -> Path:
    """Return this process's directory below ``root``, or ``root`` itself, which is the container's own inside one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return root
    for line in lines:
        # hierarchy number, controllers separated by commas, path; version 2 names no controller
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (root / path.lstrip("/")).is_dir():
            return root / path.lstrip("/")
    return root


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def _entry(file: Path, name: str) -> int:
    """Return the number behind a name in a file of ``name number`` lines; 0 where it is missing."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
