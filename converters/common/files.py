"""Files written whole or not at all, and rows read with their line numbers."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from converters.common.errors import UsageError, UserError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there on success, delete it on any error.

    A reader sees the old file or the whole new one, never a part. Works for files and directories.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: some writers choose their format by it
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"{target}: could not be written ({error.strerror or error}); nothing was left") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Any]) -> int:
    """Write one JSON object a line, atomically; returns the number of rows."""
    count = 0
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def open_text(path: str | os.PathLike[str]) -> IO[str]:
    """Open a text file for reading: plain, ``.gz``, or ``-`` for stdin.

    Raises:
        UsageError: there is no such file.
    """
    if str(path) == "-":
        return sys.stdin
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"{source}: no such file")
    if source.suffix == ".gz":
        return gzip.open(source, "rt", encoding="utf-8")
    return source.open(encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read one JSON value.

    Raises:
        UsageError: there is no such file.
        UserError: it is not JSON; the message has file, line and column.
    """
    with open_text(path) as handle:
        try:
            return json.load(handle)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not JSON ({error})") from error


def iter_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Yield ``(row number from 1, value)`` of a JSONL file or of a file that is one JSON array.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a line is not JSON; the message has file and line.
    """
    with open_text(path) as handle:
        first = next((line for line in handle if line.strip()), None)
        if first is None:
            raise UsageError(f"{path}: empty; one JSON object a line is expected")
        if first.lstrip().startswith("["):
            try:
                values = json.loads(first + handle.read())
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: starts as a JSON array but is not one ({error})") from error
            yield from enumerate(values, start=1)
            return
        number = 1
        for line in _chain(first, handle):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not JSON ({error.msg})") from error
            number += 1


def _chain(first: str, rest: IO[str]) -> Iterator[str]:
    yield first
    yield from rest


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()
