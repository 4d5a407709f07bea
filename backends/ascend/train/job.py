"""What a training process needs, made ready before MindSpore is imported and kept in the run directory.

One process or several: each reads the same files, so that nothing is tokenised or converted twice.

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
        rows: in the data file.
        steps: of the whole run.
        steps_per_epoch: optimizer steps of one pass over the rows.
        first_step: steps that are done already.
        checkpoint: to go on from, or None.
        data: the MindRecord file.
        start: the weights to start from.
        base: what the adapter shall name as its base.
        pad_id: fills up short rows.
        bos_id: begins each conversation.
        packed: rows hold several conversations, which must not see each other.
        workers: processes, one a card.
        threads: cores of one process.
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
    """What log and errors say of rows: ``tokens`` and ``supervised`` int64[n], ``names`` of the rows."""

    tokens: np.ndarray
    supervised: np.ndarray
    names: np.ndarray


def write_job(job: Job, data: TrainingRows) -> Path:
    """Store a job and the figures of its rows; returns the file of the job."""
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
    """Delete the copy of the base in mindformers' names: the run is finished."""
    import shutil

    shutil.rmtree(run.path / FOLDER / "start", ignore_errors=True)


def layout_of(job: Job) -> str:
    """What decides how sums are rounded, in words."""
    return json.dumps({"workers": job.workers, "threads": job.threads})
