"""What every command shares: exit codes, one-line errors, tables and progress.

Exit codes: 0 ok, 1 failed, 2 wrong use, 3 a gate not passed, 130 interrupted.
Data goes to files or stdout; messages go to stderr.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from converters.common.errors import UserError


def say(message: str) -> None:
    """Print one message to stderr."""
    print(message, file=sys.stderr, flush=True)


def run_main(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run a command's ``main`` and leave with its exit code; errors become one line on stderr.

    ``--version`` alone is answered here, so that every command knows it.
    """
    try:
        code = _print_version() if sys.argv[1:] == ["--version"] else main(None) or 0
        # a closed pipe must show here, not at exit, where nothing could catch it
        sys.stdout.flush()
    except UserError as error:
        say(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt as stop:
        say(f"interrupted: {stop}" if str(stop) else "interrupted")
        # 128 + SIGINT, as shells report it
        code = 130
    except BrokenPipeError:
        # the reader of our stdout went away (`| head`): not our failure, but say nothing more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _print_version() -> int:
    from importlib import metadata

    print(f"twinlora {metadata.version('twinlora')}")
    return 0


def display_width(text: str) -> int:
    """Columns that ``text`` takes in a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Lay out a plain-text table.

    Args:
        header: names of the columns.
        rows: cells, as many as the header has.
        left: how many columns, from the first, are left-aligned; the others are right-aligned.
    """
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(display_width(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = []
        for i, cell in enumerate(row):
            gap = " " * (widths[i] - display_width(cell))
            parts.append(cell + gap if i < left else gap + cell)
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "row",
    bar_format: str | None = None,
) -> Any:
    """Return a tqdm bar on stderr with rate and time left; in a pipe it prints a line every 30 seconds.

    Args:
        iterable: what is gone through; None where the caller updates the bar itself.
        total: number of things, where the iterable cannot tell.
        desc: what is being done.
        unit: what one thing is called.
        bar_format: tqdm's pattern of the line; None for its own.
    """
    from tqdm import tqdm

    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        bar_format=bar_format,
        file=sys.stderr,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )


class WorkBar:
    """A progress bar over rows of unequal size: its length and the time left follow the work, its count the rows.

    Args:
        rows: number of rows.
        work: of all rows, in any unit; an estimate that :meth:`expect` may correct.
        desc: what is being done.
    """

    def __init__(self, rows: int, work: float, desc: str) -> None:
        self._rows, self._finished = rows, 0
        pattern = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
        self._bar = progress(total=max(work, 1), desc=desc, bar_format=pattern)
        # the mean rate since the start: with tqdm's moving one, the time left would jump with every batch
        self._bar.smoothing = 0
        # each update looks at the clock; tqdm would skip some after a burst of finished rows
        self._bar.miniters, self._bar.dynamic_miniters = 0, False
        self._count()

    def __enter__(self) -> WorkBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def seconds_left(self) -> float | None:
        """Predicted from the mean rate so far; None before any work is done."""
        now = self._bar.format_dict
        done = now["n"] - now["initial"]
        return (now["total"] - now["n"]) * now["elapsed"] / done if done > 0 else None

    def advance(self, work: float) -> None:
        """Add work that was done."""
        self._bar.update(work)

    def expect(self, left: float) -> None:
        """Correct the estimate of the work that is left."""
        self._bar.total = max(self._bar.n + left, 1)

    def finish(self, work: float = 0) -> None:
        """Count one row as finished, and add the work that was done for it."""
        self._finished += 1
        self._count()
        self.advance(work)

    def _count(self) -> None:
        self._bar.set_postfix_str(f"{self._finished:,} of {self._rows:,} rows", refresh=False)
