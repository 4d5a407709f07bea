"""Processes that make records side by side.

They are forked before anything starts threads (Polars does at its import), so that there is no lock to inherit.
Where forking is not possible, or there is one core, the records are made in this process: the same bytes, later.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from converters.arithmetic.records import Tails, Writing, record_tails
from converters.arithmetic.steps import style_names

MOST_WORKERS = 8

T = TypeVar("T")


class MakeRecords(Protocol):
    """How to write, file and chunks of line offsets to chunks of record tails, in order."""

    def __call__(self, writing: Writing, path: Path, chunks: Iterable[list[int]], /) -> Iterator[Tails]:
        """Make the records of each chunk."""


def make_here(writing: Writing, path: Path, chunks: Iterable[list[int]]) -> Iterator[Tails]:
    """Make the records in this process."""
    return (record_tails(writing, path, offsets) for offsets in chunks)


@contextmanager
def record_workers() -> Iterator[MakeRecords]:
    """Start the workers, one a core; call before importing Polars."""
    cores = min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if cores < 2 or threading.active_count() > 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield make_here
        return
    style_names()  # imports every style once, before the fork
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_prepare) as executor:
        executor.submit(os.getpid).result()  # the first job starts all workers

        def make(writing: Writing, path: Path, chunks: Iterable[list[int]]) -> Iterator[Tails]:
            jobs = (partial(executor.submit, record_tails, writing, path, offsets) for offsets in chunks)
            return in_order(jobs, 2 * cores)

        yield make


def in_order(jobs: Iterable[Callable[[], Future[T]]], most: int) -> Iterator[T]:
    """Start jobs, at most ``most`` at a time, and yield their results in order."""
    pending, started = iter(jobs), deque[Future[T]]()
    started.extend(job() for job in islice(pending, most))
    while started:
        result = started.popleft().result()
        started.extend(job() for job in islice(pending, 1))
        yield result


def _prepare() -> None:
    # Ctrl-C reaches the whole process group; the parent alone answers it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # records hold no cycles, and looking for some takes a tenth of the time
    gc.disable()
