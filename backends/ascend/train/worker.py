"""One training process: it reads a job, runs mindformers' Trainer, and writes checkpoints and the product.

``msrun`` starts this module once per card: ``python -m backends.ascend.train.worker RUN/mindformers/job.json``. A run
with a single process calls :func:`work` itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from backends.ascend.device import rank, silence, speak, start
from backends.ascend.train.config import mindformers_config
from backends.ascend.train.job import Job, read_job
from backends.ascend.train.parallel import is_cut
from backends.ascend.train.saving import finish, trained_values
from backends.run.directory import Run, read_log
from backends.run.log import TrainLog
from converters.common.console import run_main
from converters.common.errors import UserError
from converters.common.files import write_text


def work(file: Path) -> None:
    """Train the job of a run directory.

    Raises:
        UserError: a loss is not finite, or MindSpore or mindformers fail; nothing that was written is lost.
    """
    job, figures = read_job(file)
    run = Run(Path(job.run))
    recipe = run.recipe
    config, notes = mindformers_config(recipe, job)
    for note in notes:
        speak(note)
    start(job.device, threads=job.threads, log_folder=job.folder / "log")
    from backends.ascend.train.monitor import RunMonitor  # imports MindSpore, so it waits for the start

    # steps behind the checkpoint are trained again, so their lines are dropped; one process alone writes
    log = TrainLog(run.log, read_log(run.log)[: job.first_step], job.steps, job.steps_per_epoch) if not rank() else None
    monitor = RunMonitor(run, job, figures, log)
    try:
        _train(config, monitor, job)
    finally:
        if log is not None:
            log.close()
    # a model that is split over cards is joined after all workers have ended
    if log is not None and not is_cut(recipe, job.workers):
        finish(run, recipe, job, trained_values(monitor.optimizer), log.rows)


def _train(config: dict[str, Any], monitor: Any, job: Job) -> None:
    """Hand the configuration to mindformers' own Trainer."""
    import yaml
    from mindformers.core.context import build_context
    from mindformers.tools.register import MindFormerConfig
    from mindformers.trainer import Trainer

    from backends.ascend.train import registered

    if job.device == "cpu":
        registered.skip_cpu_barrier()
    # every worker writes the same: none waits for another
    file = job.folder / "config.yaml"
    write_text(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    # read from a file, mindformers fills in the sections that a recipe may leave out
    settings = MindFormerConfig(str(file))
    try:
        # the configuration is printed before the first step; a graph that cannot be compiled is dumped where we are
        with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(job.folder):
            build_context(settings)
            Trainer(args=settings, callbacks=[monitor]).train()
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise UserError(f"mindformers: {_reason(error)}; its log is {job.folder / 'log'}") from error


def _reason(error: BaseException) -> str:
    """Return the first two lines of a MindSpore error as one; the rest is rulers and C++ stacks."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line.strip("- ")][:2]
    return f"{type(error).__name__}: {' '.join(kept)[:400]}" if kept else type(error).__name__


def main(argv: list[str] | None = None) -> int:
    """Run one worker of ``msrun``, or the scheduler that it starts beside them."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        silence()
        from mindspore.communication import init

        init()  # returns when the last worker has left
        return 0
    work(Path((sys.argv[1:] if argv is None else argv)[0]))
    return 0


if __name__ == "__main__":
    run_main(main)
