"""What a training process needs, prepared before MindSpore is imported and kept in the run directory.

All processes of a run read the same files, so that nothing is tokenised or converted twice.

    RUN/mindformers/
      job.json  rows.npz            this module
      train.mindrecord (.db .json)  the rows, unless the recipe names a MindRecord file of its own
      start/start.safetensors       base and LoRA in mindformers' names; deleted when the run is finished
      log/  strategy/  checkpoint/  what mindformers writes
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.run.directory import Run
from backends.run.rows import TrainingRows
from converters.common.files import atomic, write_json
from converters.common.reader import read_json

FOLDER = "mindformers"


@dataclass(frozen=True)
class Job:
    """One training process among ``workers``.

    Attributes:
        run: the run directory.
        device: ``npu`` or ``cpu``.
        dtype: of the matrix products.
        sizes: of the model, as :func:`backends.ascend.sizes.model_sizes`.
        rows: number of rows in the data file.
        steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of one pass over the rows.
        first_step: number of steps that are done already.
        checkpoint: directory of the checkpoint to continue from, or None.
        data: path of the MindRecord file.
        start: file of the weights to start from.
        base: path that the adapter will name as its base.
        pad_id: token that fills short rows.
        bos_id: token that begins each conversation.
        packed: rows hold several conversations, which must not see each other.
        workers: number of processes, one per card.
        threads: CPU cores of one process.
    """

    run: str
    device: str
    dtype: str
    sizes: dict[str, Any]
    rows: int
    steps: int
    steps_per_epoch: int
    first_step: int
    checkpoint: str | None
    data: str
    start: str
    base: str
    pad_id: int
    bos_id: int | None
    packed: bool = False
    workers: int = 1
    threads: int = 1

    @property
    def folder(self) -> Path:
        """``RUN/mindformers``, absolute: mindformers takes relative paths from elsewhere."""
        return (Path(self.run) / FOLDER).resolve()


@dataclass(frozen=True)
class RowFigures:
    """What the log and error messages need to know of the n rows.

    Attributes:
        tokens: int64 [n], tokens of each row.
        supervised: int64 [n], its supervised tokens.
        names: [n], its id in the data.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    names: np.ndarray


def write_job(job: Job, data: TrainingRows) -> Path:
    """Write a job and the figures of its rows into the run directory.

    Args:
        job: the job.
        data: its rows.

    Returns:
        The path of ``job.json``; ``rows.npz`` lies beside it.
    """
    write_json(job.folder / "job.json", asdict(job))
    with atomic(job.folder / "rows.npz") as temporary:
        np.savez(temporary, tokens=data.tokens, supervised=data.supervised, names=np.array(data.rows.ids))
    return job.folder / "job.json"


def read_job(file: Path) -> tuple[Job, RowFigures]:
    """Read what :func:`write_job` wrote."""
    job = Job(**read_json(file))
    with np.load(file.parent / "rows.npz", allow_pickle=False) as arrays:
        return job, RowFigures(arrays["tokens"], arrays["supervised"], arrays["names"])


def remove_start(run: Run) -> None:
    """Delete the start weights of a finished run; they take as much space as the base."""
    import shutil

    shutil.rmtree(run.path / FOLDER / "start", ignore_errors=True)


def layout_of(job: Job) -> str:
    """Return what decides how sums are rounded, as text; a run resumed with another layout differs in last bits."""
    return json.dumps({"workers": job.workers, "threads": job.threads})
