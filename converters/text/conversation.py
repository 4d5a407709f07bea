"""Conversations: the readable form between somebody's file and the tokenizer.

Two shapes are read, told apart by their keys, one JSON object a line or one JSON array:

* ShareGPT: ``{"id", "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "system"}``
* Alpaca: ``{"instruction", "input", "output", "system", "history": [[question, answer], …]}``
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from converters.common.errors import UserError
from converters.common.reader import read_rows

# tool calls have no role here: rows that hold them are refused
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


def alpaca_turns(
    instruction: str, extra: str, answer: str | None, system: str = "", history: Sequence[tuple[str, str]] = ()
) -> list[Turn]:
    """Return an Alpaca row's parts as turns.

    Args:
        instruction: the question.
        extra: Alpaca's ``input``, put on a line of its own below the instruction; may be empty.
        answer: the answer; None leaves the question unanswered.
        system: the system text; empty for none.
        history: earlier questions and answers.
    """
    turns = [Turn("system", system)] if system else []
    for earlier_question, earlier_answer in history:
        turns += [Turn("user", earlier_question), Turn("assistant", earlier_answer)]
    turns.append(Turn("user", f"{instruction}\n{extra}" if extra else instruction))
    return turns if answer is None else [*turns, Turn("assistant", answer)]


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
        except (ShapeError, UserError) as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    return conversations


def to_sharegpt(conversation: Conversation) -> dict[str, Any]:
    """Return the ShareGPT object of a conversation; a system turn stays a turn."""
    turns = [{"from": _NAME_OF[turn.role], "value": turn.text} for turn in conversation.turns]
    return {"id": conversation.id, "conversations": turns}


class ShapeError(Exception):
    """Why a row has another shape: a reason that many rows share, the detail for a table, and a whole sentence."""

    def __init__(self, reason: str, detail: str, sentence: str):
        super().__init__(sentence)
        self.reason, self.detail = reason, detail


def text_of(value: Any, key: str, place: str = "") -> str:
    """Return the text that stands under a key.

    Args:
        value: what stands there.
        key: the key, for the error.
        place: where the key is, to begin the error with; empty for the row itself.

    Raises:
        ShapeError: it is not a string.
    """
    if not isinstance(value, str):
        sentence = f"{place}{key!r} must be a string, found {_kind(value)}"
        raise ShapeError("not a string", f"{key!r} is {type(value).__name__}", sentence)
    return value


def history_of(row: Mapping[str, Any], key: str | None = "history") -> tuple[tuple[str, str], ...]:
    """Return the earlier questions and answers of an Alpaca row.

    Args:
        row: the row.
        key: where they stand; None where the data have no such column.

    Raises:
        ShapeError: they are not a list of [question, answer].
    """
    history = row.get(key or "") or []
    if not isinstance(history, list):
        sentence = f"{key!r} must be a list of [question, answer], found {_kind(history)}"
        raise ShapeError("broken history", f"{key!r} is {type(history).__name__}, not a list", sentence)
    for i, pair in enumerate(history, start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            sentence = f"{key!r} entry {i} must be [question, answer], found {repr(pair)[:80]}"
            raise ShapeError("broken history", f"{key!r} must be a list of [question, answer]", sentence)
    return tuple((question, answer) for question, answer in history)


def messages_of(
    row: Mapping[str, Any], key: str = "conversations", role_key: str = "from", text_key: str = "value"
) -> Iterator[tuple[int, Any, Any]]:
    """Yield the turns of a ShareGPT row; roles and texts are not checked.

    Args:
        row: the row.
        key: where its list of turns stands.
        role_key: where a turn's role stands.
        text_key: where a turn's text stands.

    Returns:
        ``(place from 1, role, text)`` of each turn.

    Raises:
        ShapeError: there is no list of turns, or a turn lacks a key.
    """
    messages = row[key]
    if not isinstance(messages, list) or not messages:
        detail = f"{key!r} is {'empty' if messages == [] else type(messages).__name__}"
        raise ShapeError("no turns", detail, f"{key!r} must be a list of turns, found {_kind(messages)}")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or role_key not in message or text_key not in message:
            keys = ", ".join(map(repr, message)) or "no key" if isinstance(message, dict) else type(message).__name__
            found = f"turn {place}: found {keys}"
            sentence = f"{found}; expected the keys {role_key!r} and {text_key!r}"
            raise ShapeError("missing key", f"{found}; no {role_key!r} or {text_key!r}", sentence)
        yield place, message[role_key], message[text_key]


def _parse(row: Any, number: int, unanswered: bool) -> Conversation:
    if not isinstance(row, dict):
        raise UserError(f"a JSON object is expected, found {_kind(row)}")
    # null, empty and absent all mean that there is no system turn
    system = text_of(row.get("system") or "", "system")
    if "conversations" in row:
        turns = [Turn("system", system)] if system else []
        for place, role, text in messages_of(row):
            if not isinstance(role, str) or role not in _ROLE_OF:
                known = ", ".join(_ROLE_OF)
                raise UserError(f"turn {place}: 'from' is {role!r}; known are {known} (tools are not supported)")
            turns.append(Turn(_ROLE_OF[role], text_of(text, "value", f"turn {place}: ")))
        if fault := wrong_order(turns):
            raise UserError(fault)
    elif "instruction" in row:
        if "output" not in row and not unanswered:
            raise UserError(f"found 'instruction' but no 'output' among {', '.join(map(repr, row))}")
        history = history_of(row)
        question, extra = text_of(row["instruction"], "instruction"), text_of(row.get("input") or "", "input")
        turns = alpaca_turns(
            question, extra, text_of(row["output"], "output") if "output" in row else None, system, history
        )
    else:
        found = ", ".join(map(repr, row)) or "none"
        raise UserError(
            f"found the keys {found}; expected 'conversations' (ShareGPT) or 'instruction' and 'output' (Alpaca)"
        )
    given = row.get("id", row.get("idx"))
    # not ``given or number``: 0 is an id
    return Conversation(str(number if given is None else given), tuple(turns))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    kind = "null" if value is None else names.get(type(value), type(value).__name__)
    return f"an empty {kind.split()[-1]}" if value in ([], {}, "") else kind
