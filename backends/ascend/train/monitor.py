"""The callback that watches a run: log, checkpoints, and the stop at a loss that is not finite."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore.train.callback import Callback

from backends.ascend.train.saving import restore
from backends.run.directory import Checkpoint
from backends.run.log import TrainLog
from backends.run.rows import row_names
from converters.common.errors import UserError
from mindrecord.tokens.order import rows_of_step


class RunMonitor(Callback):
    """Sees every optimizer step of mindformers' training.

    Args:
        data: lengths, supervised tokens and names of the rows.
        batch: rows of a step, over all workers.
        seed: of the order.
        shuffle: whether an epoch has an order of its own.
        resumed: the checkpoint to go on from, or None.
        log: where the steps are written; None in all workers but the first.
        saving: steps after which ``save`` is called.
        save: writes a checkpoint of an optimizer after a step.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        resumed: Checkpoint | None,
        log: TrainLog | None,
        saving: set[int],
        save: Callable[[Any, int], None],
    ) -> None:
        super().__init__()
        self.data, self.log, self.resumed, self.save, self.saving = data, log, resumed, save, saving
        self.batch, self.seed, self.shuffle = batch, seed, shuffle
        self.step = resumed.step if resumed else 0
        self.optimizer: Any = None
        self._began = 0.0

    def on_train_begin(self, run_context: Any) -> None:
        """Put back what a checkpoint holds, before the first step is compiled."""
        self.optimizer = run_context.original_args().train_network.optimizer
        if self.resumed is not None:
            restore(self.optimizer, self.resumed.path)
        self._began = time.perf_counter()

    def on_train_step_end(self, run_context: Any) -> None:
        """Log the step, stop if it was none, save if it is time.

        Raises:
            UserError: loss or gradient is not finite; the rows of the step are named.
        """
        loss, overflow, _, rate, norm = run_context.original_args().net_outputs[:5]
        loss, rate, norm = _number(loss), _number(rate), _number(norm)
        self.step += 1
        rows = rows_of_step(len(self.data.tokens), self.batch, self.step - 1, self.seed, self.shuffle)
        if not np.isfinite(loss):
            raise UserError(f"step {self.step}: the loss is {loss}; {row_names(self.data.names, rows)}")
        if not np.isfinite(norm) or bool(np.asarray(overflow.asnumpy()).any()):
            raise UserError(
                f"step {self.step}: the gradient is not finite (loss {loss:.4g}); {row_names(self.data.names, rows)}"
            )
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        if self.log is not None:
            self.log.add(
                self.step,
                loss=loss,
                rate=rate,
                norm=norm,
                tokens=int(self.data.tokens[rows].sum()),
                supervised=int(self.data.supervised[rows].sum()),
                seconds=seconds,
            )
        if self.step in self.saving and self.log is not None:
            self.log.sync()
            self.save(self.optimizer, self.step)
            self._began = time.perf_counter()  # writing is not part of the next step


def _number(value: Any) -> float:
    """One number out of a tensor of MindSpore."""
    return float(np.asarray(value.asnumpy(), dtype=np.float64).reshape(-1)[0])
