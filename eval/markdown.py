"""Tables as Markdown, for files that people read on a web page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Return a Markdown table: the first ``left`` columns left-aligned, the others right."""
    lines = [header, ["---" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    """A cell cannot hold a line break, and a bar would end it."""
    return " ".join(str(value).replace("|", "\\|").split())
