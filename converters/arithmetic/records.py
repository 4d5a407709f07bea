"""One line of the raw file to one record of the output: parse, check exactly, write the steps, lay out as JSON.

Worker processes do this side by side, so that nothing here imports more than the standard library. They are forked
before anything starts threads (Polars does at its import), so that there is no lock to inherit. Where threads run
already, as in a notebook, forking is not possible, or there is one core, the records are made in this process: the
same bytes, later.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from converters.arithmetic.problems import ENGLISH, Problem, StepError, check, parse
from converters.arithmetic.steps import Style, get_style, style_names
from converters.common.reader import MalformedRow, parse_json
from converters.pipeline import output
from converters.pipeline.output import record_tail
from converters.pipeline.rows import RowError

if TYPE_CHECKING:
    from converters.tokenizers.segments import TokenLimit

FORMATS = (*output.FORMATS, "problems")
LINE_BYTES = 256
"""Enough for most lines; a longer one is read again. (A mapping is quicker, but counts the file in every process.)"""
NOT_UTF8 = "\0"
"""Begins a line whose bytes were not UTF-8; no JSON does."""
TOO_LONG = 255
"""In place of a step of shortening: the row is too long in every precision."""
MOST_WORKERS = 8

_CANONICAL = ("{", "problem", ": ", ", ", "solution", ": ", "}")
"""What stands between the quotes of a line as ``json.dumps`` writes it, but for the two texts."""

T = TypeVar("T")


def read_lines(path: Path, offsets: Iterable[int]) -> Iterator[str]:
    """Yield single lines of a file, without line ends.

    Args:
        path: a file of plain lines in UTF-8.
        offsets: where the wanted lines start, in bytes; in any order.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        for offset in offsets:
            size = LINE_BYTES
            while True:
                data = os.pread(file, size, offset)
                end = data.find(b"\n")
                # fewer bytes than asked for: the file ends here
                if end >= 0 or len(data) < size:
                    break
                size *= 8
            # accepted in the first reading, so that it is known to be UTF-8
            yield (data[:end] if end >= 0 else data).decode().removesuffix("\r")
    finally:
        os.close(file)


def read_row(text: str) -> tuple[str, str]:
    """Parse one line of JSON into problem and solution.

    Raises:
        RowError: it is broken, or not an object with the two strings.
    """
    parts = text.split('"')
    # with eight quotes in these places, no escape and no control character, a line means what it shows
    if len(parts) == 9 and "\\" not in text and text.isprintable():
        opening, first, colon, problem, comma, second, colon2, solution, closing = parts
        if (opening, first, colon, comma, second, colon2, closing) == _CANONICAL:
            return problem, solution
    if text.startswith(NOT_UTF8):
        raise RowError("broken line", "not UTF-8", text[1:])
    try:
        row = parse_json(text)
    except MalformedRow as error:
        raise RowError("broken line", str(error), text) from None
    if not isinstance(row, dict):
        raise RowError("not an object", f"found {type(row).__name__}, expected problem and solution", text)
    missing = [key for key in ("problem", "solution") if key not in row]
    if missing:
        raise RowError("missing key", f"no {' and no '.join(missing)}; found {', '.join(row) or 'no keys'}", text)
    problem, solution = row["problem"], row["solution"]
    for key, value in (("problem", problem), ("solution", solution)):
        if not isinstance(value, str):
            raise RowError("not a string", f"{key} is {type(value).__name__}", text)
    return problem, solution


def checked(problem: str, solution: str) -> Problem:
    """Recognise a row, and check its solution to the last digit that it is written with.

    Args:
        problem: the question.
        solution: its solution.

    Returns:
        The row as a problem of a known kind.

    Raises:
        RowError: its kind is unknown, or the solution does not follow.
    """
    row = parse(problem, solution)
    if row is None:
        raise RowError("unknown kind", f"no kind asks {problem!r}")
    try:
        check(row)
    except StepError as error:
        raise RowError("solution does not follow", str(error)) from error
    return row


@dataclass(frozen=True)
class Writing:
    """How records are written; workers are sent this."""

    style: Style
    layout: str
    limit: TokenLimit | None = None


@dataclass
class Tails:
    """Records without their heads, as UTF-8 (half the memory of Chinese text), in input order.

    ``refused`` has the index of each line that gave no record, and why. ``shortened`` maps the index of each line that
    was too long to the place of its precision in ``Style.shortened()``, or to TOO_LONG where the line is left out.
    """

    records: list[bytes] = field(default_factory=list)
    refused: list[tuple[int, RowError]] = field(default_factory=list)
    shortened: dict[int, int] = field(default_factory=dict)


def record_tails(writing: Writing, path: Path, offsets: Iterable[int]) -> Tails:
    """Read, check and write the lines at these offsets.

    English rows keep their solution in every style, because it holds the steps already.

    Args:
        writing: style, layout and token limit.
        path: the file of plain lines.
        offsets: where the lines start, in bytes.

    Returns:
        The records, and which lines were refused or shortened.
    """
    steps, tails = get_style(writing.style), Tails()
    answers: dict[int, tuple[Problem, str]] = {}
    for index, line in enumerate(read_lines(path, offsets)):
        try:
            row = checked(*read_row(line))
            answers[index] = (row, row.solution if row.kind == ENGLISH else steps[row.kind](row))
        except StepError as error:
            tails.refused.append((index, RowError("step does not hold", str(error), line)))
        except RowError as error:
            tails.refused.append((index, RowError(error.reason, error.detail, line)))
    if writing.limit is not None:
        _shorten(answers, writing.style, writing.limit, tails.shortened)
    tails.records = [_tail(writing.layout, row.problem, answer).encode() for row, answer in answers.values()]
    return tails


def _shorten(
    answers: dict[int, tuple[Problem, str]], style: Style, limit: TokenLimit, shortened: dict[int, int]
) -> None:
    """Write rows that are too long to the next shorter precision, and take out what is too long in all of them."""
    too_long = list(answers)
    # None follows the shortest precision: what is still too long then is left out
    for step, shorter in enumerate([*style.shortened()[1:], None], start=1):
        lengths = limit.lengths([(answers[index][0].problem, answers[index][1]) for index in too_long])
        too_long = [index for index, length in zip(too_long, lengths, strict=True) if length > limit.tokens]
        for index in too_long:
            row = answers[index][0]
            if shorter is None:
                shortened[index] = TOO_LONG
                del answers[index]
            # an English row has no shorter text: it stays in the list and is left out at the end
            elif row.kind != ENGLISH:
                shortened[index] = step
                answers[index] = (row, get_style(shorter)[row.kind](row))


def row_line(problem: str, solution: str) -> str:
    """Write a raw row as one JSON line, as ``json.dumps`` would."""
    return f'{{"problem": {quoted(problem)}, "solution": {quoted(solution)}}}'


def _tail(layout: str, problem: str, answer: str) -> str:
    """A record without its head."""
    if layout == "problems":
        return f'"problem": {quoted(problem)}, "solution": {quoted(answer)}}}'
    return record_tail(layout, problem, answer)


class MakeRecords(Protocol):
    """A function that turns chunks of line offsets into records, chunk by chunk, in order."""

    def __call__(self, writing: Writing, path: Path, chunks: Iterable[list[int]], /) -> Iterator[Tails]:
        """Make the records of each chunk."""


def make_here(writing: Writing, path: Path, chunks: Iterable[list[int]]) -> Iterator[Tails]:
    """Make the records in this process."""
    return (record_tails(writing, path, offsets) for offsets in chunks)


@contextmanager
def record_workers() -> Iterator[MakeRecords]:
    """Start the workers, one for each core, and yield the function that makes records with them.

    Enter before Polars is imported: once threads run, the records are made in this process instead.
    """
    cores = min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    threads = threading.active_count() > 1 or "polars" in sys.modules
    if cores < 2 or threads or "fork" not in multiprocessing.get_all_start_methods():
        yield make_here
        return
    style_names()  # imports every style once, before the fork
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_prepare) as executor:
        executor.submit(os.getpid).result()  # the first job starts all workers

        def make(writing: Writing, path: Path, chunks: Iterable[list[int]]) -> Iterator[Tails]:
            jobs = (partial(executor.submit, record_tails, writing, path, offsets) for offsets in chunks)
            # a second job waits for each worker, so that none is idle while results are written
            return in_order(jobs, 2 * cores)

        yield make


def in_order(jobs: Iterable[Callable[[], Future[T]]], most: int) -> Iterator[T]:
    """Start jobs and yield their results in the order of the jobs.

    Args:
        jobs: each starts one job when it is called.
        most: how many may be started before their results are taken.
    """
    pending, started = iter(jobs), deque[Future[T]]()
    started.extend(job() for job in islice(pending, most))
    while started:
        result = started.popleft().result()
        # before the result is handed on, so that the workers go on while the caller uses it
        started.extend(job() for job in islice(pending, 1))
        yield result


def _prepare() -> None:
    # Ctrl-C reaches the whole process group; the parent alone answers it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # records hold no cycles, and looking for some takes a tenth of the time
    gc.disable()
