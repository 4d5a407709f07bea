"""One process or several: what ``torchrun`` sets, and the sums over processes that a step needs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.common.console import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def speak(message: str) -> None:
    """Print one line to stderr, in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        say(message)


@dataclass(frozen=True)
class Processes:
    """This process among all that train together.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
    """

    index: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints messages."""
        return self.index == 0

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up every gradient over all processes, in one message."""
        import torch

        if self.count == 1:
            return
        chosen = list(parameters)
        # one message, since each costs a round trip; zeros where this process had no supervised row, since all must
        # send the same length; float32, so that the sum is not rounded to the gradients' type
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten().float() for p in chosen])
        torch.distributed.all_reduce(flat)
        first = 0
        for parameter in chosen:
            last = first + parameter.numel()
            parameter.grad = flat[first:last].view_as(parameter).to(parameter.dtype)
            first = last

    def sum(self, value: float, device: torch.device) -> float:
        """Add up one number over all processes, in float64."""
        import torch

        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total.item())

    def gather(self, items: list[int]) -> list[int]:
        """Return the lists of all processes as one, in the order of the processes."""
        import torch

        if self.count == 1:
            return items
        lists: list[list[int]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(lists, items)
        return [item for one in lists for item in one]

    def wait(self) -> None:
        """Wait until every process has called this."""
        import torch

        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def joined(device_type: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, and leave them at the end; alone, do nothing.

    Args:
        device_type: ``cuda`` or ``cpu``.
    """
    import torch

    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1)
        return
    # NCCL carries CUDA tensors only
    torch.distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
