"""What every backend's ``doctor`` reports: versions, a device, and a training step that works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converters.common.errors import UserError


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

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
    """Show what two training steps did to the loss.

    Raises:
        UserError: it did not fall.
    """
    before, after = report.losses
    if not after < before:
        raise UserError(f"a training step does not work here: the loss went from {before:.4f} to {after:.4f}")
    show(f"two LoRA steps of a tiny model: loss {before:.4f} → {after:.4f} in {report.seconds:.2f} s")
    show("ok")
    return report
