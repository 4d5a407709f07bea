"""Answers on disk as they come: one JSON line each, so that a kill loses nothing that was finished.

``FILE.jsonl`` holds the rows, ``FILE.meta.json`` beside it says what they were made with. The same command continues
where it stopped. A command with another checkpoint, data set, template or limit is refused, so that a file never mixes
answers of two kinds. When all rows are there, the file is rewritten in input order, whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from backends.generation.types import Answer, Limits
from converters.common.console import WorkBar, say
from converters.common.errors import UserError
from converters.common.files import sha256_file, write_json, write_jsonl
from converters.common.reader import read_json, read_log

if TYPE_CHECKING:
    from backends.generation.base_generator import Generator


NEW_TOKEN = 2.0
"""Work of a new token, in prompt tokens: a step of decoding has fewer rows to share the loading of the weights."""


def meta_path(path: Path) -> Path:
    """Return the path of an answer file's description: ``predictions.jsonl`` → ``predictions.meta.json``."""
    return path.with_suffix(".meta.json")


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read an answer file that may end in a torn line.

    Returns:
        The whole rows, and the bytes that they take. Bytes after those are a last line that a kill cut short.

    Raises:
        UserError: a line other than the last is not a JSON object with ``idx``, or an ``idx`` comes twice.
    """
    try:
        lines, whole = read_log(path)
    except UserError as error:
        raise UserError(f"{error}; delete the file or this line to go on") from error
    seen: set[int] = set()
    for number, row in lines:
        if not isinstance(row, dict) or not isinstance(row.get("idx"), int):
            raise UserError(f"{path}:{number}: an object with a whole number under 'idx' is expected")
        if row["idx"] in seen:
            raise UserError(f"{path}:{number}: idx {row['idx']} is there twice; delete one of the lines to go on")
        seen.add(row["idx"])
    return [row for _, row in lines], whole


class AnswerLog:
    """An append-only file of answers that a later process can continue.

    Args:
        path: the ``.jsonl`` file.
        identity: what the answers depend on (hashes, limits), by name; rows made with another are refused.
        about: what else is worth keeping in the meta file; not compared.
        overwrite: start over instead of going on.

    Raises:
        UserError: the file was made with something else, or by something else.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(dict(identity)))  # as it will be read back: tuples become lists
        self.about = dict(about or {})
        self.rows: dict[int, dict[str, Any]] = {}
        self._handle: FileIO | None = None
        if overwrite:
            path.unlink(missing_ok=True)
        if path.exists():
            self._go_on()
        else:
            # before the first row: a kill never leaves rows of unknown origin
            self._write_meta(complete=False)

    def _go_on(self) -> None:
        meta = meta_path(self.path)
        if not meta.exists():
            raise UserError(f"{self.path} is there already, without its {meta.name}: name another file, or --overwrite")
        found = read_json(meta).get("identity", {})
        # keys of both sides: one that only the file or only this run has differs, too
        for key in {**found, **self.identity}:
            if found.get(key) != self.identity.get(key):
                raise UserError(
                    f"{self.path} was made with {key} {found.get(key)}, not {self.identity.get(key)}: "
                    "name another output, or --overwrite to start over"
                )
        rows, whole = read_rows(self.path)
        torn = self.path.stat().st_size - whole
        if torn:
            say(f"{self.path}: dropped a torn last line ({torn} bytes)")
            with self.path.open("rb+") as handle:
                # else the next row would be appended to the torn line
                handle.truncate(whole)
        self.rows = {row["idx"]: row for row in rows}

    def _write_meta(self, *, complete: bool) -> None:
        extra = {"sha256": sha256_file(self.path)} if complete else {}
        meta = {"complete": complete, "rows": len(self.rows), **extra, "identity": self.identity, **self.about}
        write_json(meta_path(self.path), meta)

    def __enter__(self) -> Self:
        # unbuffered: a row is with the operating system when append returns, and nothing is left to fail on close
        self._handle = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._handle is not None
        self._handle.close()
        if isinstance(error, KeyboardInterrupt):
            kept = f"{self.path}: {len(self.rows)} rows are kept; the same command goes on from there"
            raise KeyboardInterrupt(kept) from error

    def append(self, row: dict[str, Any]) -> None:
        """Write one row, so that a kill of this process keeps it.

        Raises:
            UserError: the disk is full; what was written stays, and a later call continues from there.
        """
        assert self._handle is not None
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        try:
            if self._handle.write(line) != len(line):
                # an unbuffered write may be short without an error, as on a disk that is just full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(
                f"{self.path}: {error.strerror or error} after {len(self.rows)} rows; they are kept, and the same "
                "command goes on from there"
            ) from error
        self.rows[row["idx"]] = row

    def finish(self) -> list[dict[str, Any]]:
        """Rewrite the file in input order, mark it complete and return its rows."""
        ordered = [self.rows[index] for index in sorted(self.rows)]
        write_jsonl(self.path, ordered)
        self._write_meta(complete=True)
        return ordered


def answer_missing(
    log: AnswerLog,
    prompts: Mapping[int, list[int]],
    load: Callable[[], Generator],
    stop_ids: Iterable[int],
    limits: Limits,
    to_row: Callable[[int, Answer], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Answer the prompts that the log lacks and return all its rows in input order.

    Args:
        log: where finished rows are kept.
        prompts: token ids by row number.
        load: loads the model; not called when every row is there.
        stop_ids: tokens that end an answer.
        limits: how long answers may and must be.
        to_row: makes the JSON row of an answer, ``idx`` included.

    Returns:
        All rows of the finished file, in input order.

    Raises:
        UserError: the disk is full, or a prompt does not fit into memory; finished rows are kept.
    """
    missing = {index: prompt for index, prompt in prompts.items() if index not in log.rows}
    if log.rows:
        say(f"{log.path}: {len(log.rows)} of {len(prompts)} rows are there already, {len(missing)} to go")
    if missing:
        generator = load()
        with log, AnswerBar(missing, limits.max_new) as bar:
            for index, answer in generator.generate(missing, stop_ids, limits, watch=bar.watch):
                log.append(to_row(index, answer))
                bar.finish()
    return log.finish()


class AnswerBar:
    """A progress bar over answers whose lengths are not known beforehand; it moves with every forward pass.

    Args:
        prompts: token ids by row number.
        max_new: an answer has at most this many tokens.
    """

    def __init__(self, prompts: Mapping[int, list[int]], max_new: int) -> None:
        self.rows, self.max_new = len(prompts), max_new
        self.to_read, self.written, self.finished = sum(map(len, prompts.values())), 0, 0
        self._bar = WorkBar(self.rows, self._left(), "answers")

    def __enter__(self) -> AnswerBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def watch(self, read: int, written: int) -> None:
        """Note what a forward pass did: prompt tokens read, new tokens written."""
        self.to_read -= read
        self.written += written
        self._bar.advance(read + NEW_TOKEN * written)
        self._bar.expect(self._left())

    def finish(self) -> None:
        """Count one answer as finished."""
        self.finished += 1
        self._bar.expect(self._left())
        self._bar.finish()

    def _left(self) -> float:
        # tokens written by all rows for each that is finished: the mean length, were all ends equally likely; the
        # tokens of unfinished rows are in it, or the short answers, which are finished first, would stand for all
        mean = min(self.max_new, self.written / self.finished) if self.finished else self.max_new
        return max(0, self.to_read) + NEW_TOKEN * max(0.0, self.rows * mean - self.written)
