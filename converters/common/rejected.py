"""Rows that are refused: why, how many, and a file of them beside the output."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryFile

from converters.common.errors import UserError
from converters.common.files import atomic

SHOWN_CHARACTERS = 2_000


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

    def add(self, line: int, error: RowError) -> None:
        """Note one refused row: its line number, why, and what stands there."""
        self._first = self._first or f"row {line}: {error.detail[:400] or error.reason}; "
        self.reasons[error.reason] += 1
        row = {"line": line, "reason": error.reason, "detail": error.detail[:SHOWN_CHARACTERS], "row": error.text}
        self._rows.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n")

    def save(self, path: Path) -> None:
        """Write the rows as JSONL; where none were refused, a file of an earlier run goes away."""
        if not self.reasons.total():
            path.unlink(missing_ok=True)
            return
        self._rows.seek(0)
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(self._rows)

    def refuse_if_too_many(self, name: str, rows_in: int, allowed: float, saved: Path) -> None:
        """Stop when more than the share ``allowed`` of ``rows_in`` rows of the file ``name`` is rejected.

        Raises:
            UserError: it is; the message says where the rejected rows are ``saved``.
        """
        if self.reasons.total() > allowed * rows_in:
            listed = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
            raise UserError(
                f"{name}: {self.reasons.total()} of {rows_in} rows rejected ({listed}), more than "
                f"--max-rejected {allowed:g}; nothing was converted\n{self._first}see {saved}"
            )
