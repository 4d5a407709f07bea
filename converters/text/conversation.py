"""Conversations: the readable form between somebody's file and the tokenizer.

Two shapes are read, told apart by their keys, one JSON object a line or one JSON array:

* ShareGPT: ``{"id", "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "system"}``
* Alpaca: ``{"instruction", "input", "output", "system", "history": [[question, answer], …]}``
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from converters.common.errors import UserError
from converters.common.reader import read_rows

Role = Literal["system", "user", "assistant"]

_ROLE_OF: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_NAME_OF: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Turn:
    """What one side says once."""

    role: Role
    text: str


@dataclass(frozen=True)
class Conversation:
    """One row: an optional system turn, then user and assistant in turn.

    A conversation to train on ends with the assistant; one that waits for an answer ends with the user.
    """

    id: str
    turns: tuple[Turn, ...]


def problem_row(problem: str, answer: str, id: str) -> Conversation:
    """Return the conversation of one question and its answer."""
    return Conversation(id, (Turn("user", problem), Turn("assistant", answer)))


def wrong_order(turns: Sequence[Turn]) -> str | None:
    """Say what is wrong with the order of the turns, or None.

    A system turn comes first if at all, then user and assistant take turns.
    """
    body = turns[1:] if turns and turns[0].role == "system" else turns
    if not body:
        return "there is no user turn"
    for i, turn in enumerate(body):
        expected = "assistant" if i % 2 else "user"
        if turn.role != expected:
            place = len(turns) - len(body) + i + 1
            return f"turn {place} is the {turn.role}'s where the {expected}'s is expected"
    return None


def read_conversations(path: str | os.PathLike[str], *, unanswered: bool = False) -> list[Conversation]:
    """Read a ShareGPT or Alpaca file (JSONL or one JSON array, ``.gz`` too, ``-`` is stdin).

    A row without ``id`` (or ``idx``, as data made from GLUE has it) takes its number, from 1.

    Args:
        path: the file.
        unanswered: take Alpaca rows without ``output`` too, as questions that wait for an answer.

    Raises:
        UsageError: the file is missing or empty.
        UserError: a row has another shape; the message has file, row, what was found and what is expected.
    """
    conversations = []
    for number, row in read_rows(path):
        try:
            conversations.append(_parse(row, number, unanswered))
        except _WrongShapeError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    return conversations


def to_sharegpt(conversation: Conversation) -> dict[str, Any]:
    """Return the ShareGPT object of a conversation; a system turn stays a turn."""
    turns = [{"from": _NAME_OF[turn.role], "value": turn.text} for turn in conversation.turns]
    return {"id": conversation.id, "conversations": turns}


class _WrongShapeError(Exception):
    pass


def _parse(row: Any, number: int, unanswered: bool) -> Conversation:
    if not isinstance(row, dict):
        raise _WrongShapeError(f"a JSON object is expected, found {_kind(row)}")
    if "conversations" in row:
        turns = _sharegpt_turns(row)
    elif "instruction" in row:
        turns = _alpaca_turns(row, unanswered)
    else:
        found = ", ".join(map(repr, row)) or "none"
        raise _WrongShapeError(
            f"found the keys {found}; expected 'conversations' (ShareGPT) or 'instruction' and 'output' (Alpaca)"
        )
    fault = wrong_order(turns)
    if fault:
        raise _WrongShapeError(fault)
    given = row.get("id", row.get("idx"))
    return Conversation(str(number if given is None else given), tuple(turns))


def _sharegpt_turns(row: dict[str, Any]) -> list[Turn]:
    entries = row["conversations"]
    if not isinstance(entries, list) or not entries:
        raise _WrongShapeError(f"'conversations' must be a list of turns, found {_kind(entries)}")
    turns = _system_turn(row)
    for i, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or "from" not in entry or "value" not in entry:
            found = ", ".join(map(repr, entry)) if isinstance(entry, dict) else _kind(entry)
            raise _WrongShapeError(f"turn {i}: found {found or 'no key'}; expected the keys 'from' and 'value'")
        role = _ROLE_OF.get(entry["from"]) if isinstance(entry["from"], str) else None
        if role is None:
            known = ", ".join(_ROLE_OF)
            raise _WrongShapeError(
                f"turn {i}: 'from' is {entry['from']!r}; known are {known} (tools are not supported)"
            )
        turns.append(Turn(role, _text(entry["value"], f"turn {i}: 'value'")))
    return turns


def _alpaca_turns(row: dict[str, Any], unanswered: bool) -> list[Turn]:
    if "output" not in row and not unanswered:
        raise _WrongShapeError(f"found 'instruction' but no 'output' among {', '.join(map(repr, row))}")
    turns = _system_turn(row)
    history = row.get("history") or []
    if not isinstance(history, list):
        raise _WrongShapeError(f"'history' must be a list of [question, answer], found {_kind(history)}")
    for i, pair in enumerate(history, start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _WrongShapeError(f"'history' entry {i} must be [question, answer], found {_kind(pair)}")
        turns.append(Turn("user", _text(pair[0], f"'history' entry {i}")))
        turns.append(Turn("assistant", _text(pair[1], f"'history' entry {i}")))
    question = _text(row["instruction"], "'instruction'")
    extra = _text(row.get("input") or "", "'input'")
    turns.append(Turn("user", f"{question}\n{extra}" if extra else question))
    if "output" in row:
        turns.append(Turn("assistant", _text(row["output"], "'output'")))
    return turns


def _system_turn(row: dict[str, Any]) -> list[Turn]:
    system = _text(row.get("system") or "", "'system'")
    return [Turn("system", system)] if system else []


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _WrongShapeError(f"{where} must be a string, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    kind = "null" if value is None else names.get(type(value), type(value).__name__)
    return f"an empty {kind.split()[-1]}" if value in ([], {}, "") else kind
