"""The callback that watches a run: it logs, writes checkpoints, and stops at a loss that is not finite."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.train.callback import Callback

from backends.ascend.train.job import Job, RowFigures
from backends.ascend.train.parallel import is_cut
from backends.ascend.train.saving import restore, save_checkpoint
from backends.run.directory import Run
from backends.run.log import TrainLog
from backends.run.resume import checkpoint_steps
from backends.run.rows import row_names
from converters.common.errors import UserError
from mindrecord.tokens.order import rows_of_step


class RunMonitor(Callback):
    """Sees every optimizer step of mindformers' training.

    Args:
        run: the run directory, where checkpoints are written.
        job: the job that is trained.
        figures: tokens and names of its rows.
        log: where the steps are written; None in all workers but the first.
    """

    def __init__(self, run: Run, job: Job, figures: RowFigures, log: TrainLog | None) -> None:
        super().__init__()
        self.run, self.recipe, self.job, self.figures, self.log = run, run.recipe, job, figures, log
        # mindformers itself writes the checkpoints of a model that is split over cards
        self.saving = set() if is_cut(run.recipe, job.workers) else checkpoint_steps(run.recipe, job.steps)
        self.step = job.first_step
        self.optimizer: Any = None
        self._began = 0.0

    def on_train_begin(self, run_context: Any) -> None:
        """Restore parameters and optimizer from the job's checkpoint, before the first step is compiled."""
        self.optimizer = run_context.original_args().train_network.optimizer
        if self.job.checkpoint is not None:
            restore(self.optimizer, Path(self.job.checkpoint))
        self._began = time.perf_counter()

    def on_train_step_end(self, run_context: Any) -> None:
        """Log the step, stop if its loss or gradient is not finite, and write a checkpoint if one is due.

        Raises:
            UserError: loss or gradient is not finite; the rows of the step are named.
        """
        # mindformers' step returns loss, overflow, loss scale, learning rate, norm before clipping
        loss, overflow, _, rate, norm = run_context.original_args().net_outputs[:5]
        loss, rate, norm = _number(loss), _number(rate), _number(norm)
        self.step += 1
        batch, seed = self.recipe.runner_config.batch_size, self.recipe.seed
        rows = rows_of_step(len(self.figures.tokens), batch, self.step - 1, seed, self.recipe.shuffle)
        if not np.isfinite(loss):
            raise UserError(f"step {self.step}: the loss is {loss}; {row_names(self.figures.names, rows)}")
        # on overflow mindformers skips the optimizer and goes on
        if not np.isfinite(norm) or bool(np.asarray(overflow.asnumpy()).any()):
            raise UserError(
                f"step {self.step}: the gradient is not finite (loss {loss:.4g}); {row_names(self.figures.names, rows)}"
            )
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        if self.log is not None:
            self.log.add(
                self.step,
                loss=loss,
                rate=rate,
                norm=norm,
                tokens=int(self.figures.tokens[rows].sum()),
                supervised=int(self.figures.supervised[rows].sum()),
                seconds=seconds,
            )
        if self.step in self.saving and self.log is not None:
            # the log is on the disk before a checkpoint says that its steps are done
            self.log.sync()
            save_checkpoint(self.run, self.recipe, self.job, self.optimizer, self.step)
            self._began = time.perf_counter()  # writing is not part of the next step


def _number(value: Any) -> float:
    """Return the first number of a MindSpore tensor: some of the results are [], some [1]."""
    return float(np.asarray(value.asnumpy(), dtype=np.float64).reshape(-1)[0])
