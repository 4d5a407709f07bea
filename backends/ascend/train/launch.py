"""Several workers through ``msrun``, MindSpore's own launcher; and the commands that start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from backends.ascend.train.job import Job, read_job
from backends.ascend.train.parallel import cards_of, check_recipe, parallel_layout
from backends.ascend.train.saving import finish
from backends.recipe.types import Recipe
from backends.run.directory import Run, read_log
from converters.common.console import say
from converters.common.errors import UserError

CLUSTER_SECONDS = 600


def launch(run: Run, file: Path) -> None:
    """Train a job with its workers, and show what the first worker prints.

    Args:
        run: the run directory.
        file: ``job.json`` of the run.

    Raises:
        UserError: a worker failed; the message has its reason and where the logs are.
    """
    job, _ = read_job(file)
    program = Path(sys.executable).with_name("msrun")
    if not program.is_file():
        raise UserError(f"{program}: no such file: msrun comes with mindspore (pip install -e '.[ascend]')")
    logs = job.folder / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    # an error in a log of an earlier start would be reported as this one's
    for old in logs.glob("*.log"):
        old.unlink()
    # msrun starts "python": the one of this environment
    env = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}", "GLOG_v": "3"}
    env["OMP_NUM_THREADS"] = str(job.threads)
    say(f"workers: {job.workers}, started by msrun; logs in {logs}")
    with (logs / "msrun.log").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                str(program),
                *msrun_arguments(job, logs, free_port()),
                "python",
                "-m",
                "backends.ascend.train.worker",
                str(file),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
        )
        try:
            _follow(logs / "worker_0.log", process)
        except KeyboardInterrupt:
            # msrun has had the same Ctrl-C and ends its workers
            process.wait()
            raise
    failed = process.returncode != 0
    if not failed and parallel_layout(run.recipe, job.workers) == "recipe":
        _join(run, job)
    # msrun exits with 0 after an interrupt, too: only a result says that the run is finished
    if failed or run.result is None:
        raise UserError(f"{_reason(logs)}; the workers' logs are in {logs}")


def _join(run: Run, job: Job) -> None:
    """Join the last checkpoints of all cards, and write the product from the whole weights."""
    from backends.ascend.sizes import lora_shapes, parameter_shapes
    from backends.ascend.unshard import unshard
    from backends.weights.llama import check_shapes
    from backends.weights.mindspore_ckpt import open_weights

    pieces, whole = job.folder / "checkpoint", job.folder / "joined.safetensors"
    unshard(pieces, whole, job.folder / "strategy")
    tensors = open_weights(whole)
    wanted = lora_shapes(job.sizes, run.recipe) or parameter_shapes(job.sizes)
    found = {name: tensors.shape(name) for name in tensors.names() if name in wanted}
    check_shapes(found, wanted, whole, "the recipe's model")
    finish(run, run.recipe, job, {name: tensors.read(name) for name in wanted}, read_log(run.log))
    whole.unlink()


def msrun_arguments(job: Job, logs: Path, port: int) -> list[str]:
    """Return the arguments of ``msrun`` for workers on this machine alone."""
    return [
        f"--worker_num={job.workers}",
        f"--local_worker_num={job.workers}",
        f"--master_port={port}",
        f"--log_dir={logs}",
        # msrun waits for the workers, and its exit code says whether one failed
        "--join=True",
        f"--cluster_time_out={CLUSTER_SECONDS}",
    ]


def free_port() -> int:
    """Return a port that nothing on this machine listens on now."""
    with socket.socket() as probe:
        # port 0: the system picks one
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _follow(log: Path, process: subprocess.Popen) -> None:
    """Copy a growing log to stderr until the process has ended."""
    place = 0
    while True:
        # asked before reading, so that what was written last is still copied
        ended = process.poll() is not None
        if log.is_file():
            with log.open("rb") as handle:
                handle.seek(place)
                text = handle.read()
            place += len(text)
            # MindSpore's cluster reports its sockets whatever GLOG_v says; a worker's error becomes this command's
            lines = text.decode("utf-8", errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not line.startswith(("[INFO] ", "error: "))))
            sys.stderr.flush()
        if ended:
            return
        time.sleep(0.2)


def _reason(logs: Path) -> str:
    """Return the first error that a worker's log reports."""
    for log in sorted(logs.glob("worker_*.log")):
        # a progress bar ends its lines with a carriage return
        for line in log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines():
            if line.startswith("error: "):
                return line.removeprefix("error: ")
    return "a worker ended without saying why"


def launch_text(recipe: Recipe, path: str | None, overrides: Sequence[str]) -> str:
    """Return commands that train a recipe on several cards, on one card, and on the CPU.

    Args:
        recipe: what to train.
        path: its file, None for the default.
        overrides: settings of the command line, ``key.path=value``.

    Raises:
        UserError: the recipe asks for what this backend cannot do.
    """
    check_recipe(recipe, "npu", 1)
    # a model cut over cards needs all of them
    workers = max(4, cards_of(recipe))
    command = " ".join(["python -m backends.ascend train", *([path] if path else []), *overrides])
    how = {
        "data": "each card has the whole model and a share of every step's rows",
        "recipe": "the model is cut over the cards, as parallel_config says",
    }[parallel_layout(recipe, workers)]
    lines = [
        f"  {workers} cards   {command} --workers {workers}",
        f"            {how}; this runs",
        f"            msrun --worker_num={workers} --local_worker_num={workers} --master_port=8118 "
        f"--log_dir={recipe.output_dir}/mindformers/workers --join=True --cluster_time_out={CLUSTER_SECONDS} "
        f"python -m backends.ascend.train.worker {recipe.output_dir}/mindformers/job.json",
    ]
    if parallel_layout(recipe, workers) == "recipe":
        single = " ".join([command, "parallel_config.model_parallel=1", "parallel_config.pipeline_stage=1"])
    else:
        single = command
    lines += [f"  1 card    {single}", f"  CPU       {single} --device cpu   (small models)"]
    return "\n".join(lines)
