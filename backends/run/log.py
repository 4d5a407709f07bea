"""The training log with its progress bar, and the loss curve."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from converters.common.console import progress
from converters.common.files import atomic, write_text


class TrainLog:
    """``train_log.jsonl`` and the progress bar: one record a step.

    Args:
        path: the file.
        kept: records of the steps that a resumed run has done.
        total: steps of the whole run.
        steps_per_epoch: of the recipe.
    """

    def __init__(self, path: Path, kept: list[dict[str, Any]], total: int, steps_per_epoch: int) -> None:
        # steps that were done after the checkpoint are done again, so their records go
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.rows, self.total, self.steps_per_epoch = kept, total, steps_per_epoch
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._bar = progress(total=total, desc="train", unit="step")
        # tqdm leaves the initial steps out of its rate: this process has not done them
        self._bar.initial = self._bar.n = len(kept)
        self._first = len(kept)
        self._began = self._after_first = time.perf_counter()

    def add(
        self, step: int, *, loss: float, rate: float, norm: float, tokens: int, supervised: int, seconds: float
    ) -> None:
        """Write the record of one step; the time left follows from the mean time of a step in this process.

        Args:
            step: from 1.
            loss: nats per supervised token.
            rate: learning rate.
            norm: of the gradient, before it was clipped.
            tokens: input tokens of the step's rows.
            supervised: those that the loss counts.
            seconds: that the step took.
        """
        now, done = time.perf_counter(), step - self._first
        if done == 1:
            self._after_first = now
        # the first step also reads the weights and fills caches: it counts only while it is all there is.
        # Checkpoints are in this mean, which the sum of the steps' seconds leaves out
        mean = (now - self._after_first) / (done - 1) if done > 1 else now - self._began
        left = mean * (self.total - step)
        row = {
            "step": step,
            "total": self.total,
            "epoch": round(step / self.steps_per_epoch, 4),
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "tokens": tokens,
            "supervised_tokens": supervised,
            "tokens_per_s": round(tokens / seconds, 1),
            "seconds": round(seconds, 4),
            "time_left_s": round(left, 1),
        }
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        # at each step, for whoever follows the file
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


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean around every value, over a centred window of a fortieth of them.

    It is smooth, without the lag of a decaying mean.
    """
    reach = len(values) // 80
    # prefix sums: any window is one subtraction
    sums = [0.0, *accumulate(values)]
    windows = ((max(0, i - reach), min(i + reach + 1, len(values))) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


def plot_loss(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the loss curve with a running mean, and the learning rate under it.

    Args:
        rows: records of the training log.
        path: the PNG file; whole or absent.
        title: over the curve.
    """
    import matplotlib

    # draws without a screen, which a server has not
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = [row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    smooth = running_mean(losses)
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
    # pyplot keeps every figure until it is closed
    plt.close(figure)
