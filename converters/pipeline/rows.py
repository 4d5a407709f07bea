"""Rows on their way through a conversion: read from lines, refused with a reason, or turned into conversations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from converters.common.errors import UserError
from converters.common.files import atomic
from converters.common.reader import MalformedRow, decode_line, parse_json
from converters.pipeline.source import Source
from converters.text.conversation import Conversation, alpaca_turns

SHOWN_CHARACTERS = 2_000


@dataclass(frozen=True)
class Row:
    """One converted row in Alpaca's parts; ``answer`` None waits for a prediction.

    Rows of one ``group`` share text: they are held out together or not at all.
    """

    kind: str
    id: str
    instruction: str
    answer: str | None
    input: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    group: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The same as turns."""
        turns = alpaca_turns(self.instruction, self.input, self.answer, self.system, self.history)
        return Conversation(self.id, tuple(turns))

    def alpaca(self, id_key: str) -> dict[str, Any]:
        """The same in Alpaca's keys, with what is not empty."""
        row: dict[str, Any] = {"instruction": self.instruction, "input": self.input}
        if self.answer is not None:
            row["output"] = self.answer
        if self.system:
            row["system"] = self.system
        if self.history:
            row["history"] = [list(pair) for pair in self.history]
        # GLUE's idx is a number
        return {**row, id_key: int(self.id) if id_key == "idx" and self.id.isdecimal() else self.id}


class RowError(Exception):
    """Why a row is refused: a reason that many rows share, the detail of this one, and what stands there."""

    def __init__(self, reason: str, detail: str = "", text: str = ""):
        super().__init__(reason, detail, text)
        self.reason, self.detail, self.text = reason, detail, text


class Rejected:
    """The refused rows: counted by reason, and kept on disk until they are written beside the output."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._first = ""
        self._rows = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the object

    @property
    def total(self) -> int:
        """How many rows are refused."""
        return self.reasons.total()

    def add(self, line: int, error: RowError) -> None:
        """Note one refused row: its line number, why, and what stands there."""
        self._first = self._first or f"row {line}: {error.detail[:400] or error.reason}; "
        self.reasons[error.reason] += 1
        row = {"line": line, "reason": error.reason, "detail": error.detail[:SHOWN_CHARACTERS], "row": error.text}
        # a refused row may hold half of a surrogate pair, which no encoding can write
        self._rows.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n")

    @contextmanager
    def saved_to(self, path: Path) -> Iterator[None]:
        """Write the rows as JSONL at the end, whatever ends it; where none were refused, an earlier file goes away."""
        try:
            yield
        finally:
            if self.total:
                self._rows.seek(0)
                with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
                    handle.writelines(self._rows)
            else:
                path.unlink(missing_ok=True)

    def refuse_if_too_many(self, name: str, rows_in: int, allowed: float, saved: Path) -> None:
        """Stop when too large a share of the rows is rejected.

        Args:
            name: of the input, for the error.
            rows_in: rows of the input.
            allowed: the share that may be rejected, 0 to 1.
            saved: where the rejected rows are written, for the error.

        Raises:
            UserError: more than that share is rejected.
        """
        if self.total > allowed * rows_in:
            listed = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
            raise UserError(
                f"{name}: {self.total} of {rows_in} rows rejected ({listed}), more than "
                f"--max-rejected {allowed:g}; nothing was converted\n{self._first}see {saved}"
            )


@dataclass
class Intake:
    """What a converter counts and notes while it reads the input."""

    rejected: Rejected = field(default_factory=Rejected)
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows left out on purpose, by reason."""
    figures: dict[str, Any] = field(default_factory=dict)
    """More for the report."""
    notes: list[str] = field(default_factory=list)
    """Lines to show under the report's table."""

    def reject(self, line: int, error: RowError, row: Any) -> None:
        """Refuse a row that was parsed."""
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
        self.rejected.add(line, RowError(error.reason, error.detail, text))


def text_lines(source: Source, intake: Intake) -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, text)`` of the lines that are not blank.

    Args:
        source: the opened file.
        intake: counts the lines as rows, and takes those that are not UTF-8.
    """
    for block in source.blocks():
        for number, data in enumerate(block.data.split(b"\n"), start=block.line):
            if not data.strip():
                # blank lines are no rows, but they count as lines: an editor must find the row under its number
                continue
            intake.rows_in += 1
            try:
                yield number, decode_line(data)
            except MalformedRow as error:
                intake.rejected.add(number, RowError("broken line", str(error), data.decode(errors="replace")))


def json_rows(source: Source, intake: Intake) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number from 1, object)`` of the lines that are not blank.

    Args:
        source: the opened file.
        intake: counts the lines as rows, and takes those that are not UTF-8, not JSON or no object.
    """
    for number, text in text_lines(source, intake):
        try:
            row = parse_json(text)
        except MalformedRow as error:
            intake.rejected.add(number, RowError("broken line", str(error), text))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            intake.rejected.add(number, RowError("not an object", f"found {type(row).__name__}", text))
