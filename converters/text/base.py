"""What every template is: it turns a conversation into the text that a model reads and the text that it must write."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from converters.common.errors import UserError
from converters.common.files import sha256_text
from converters.text.conversation import Conversation, Turn, wrong_order

BOS = "BOS"
EOS = "EOS"


class Segment(NamedTuple):
    """A piece of a row that is tokenised on its own.

    Attributes:
        text: plain text; or, if ``special``, one special token by name, or the roles ``BOS`` and ``EOS``, which the
            tokenizer resolves to its own.
        supervised: the model is trained to write it.
        special: it is exactly one token and not text.
    """

    text: str
    supervised: bool
    special: bool


@dataclass(frozen=True)
class Template(ABC):
    """How conversations are written; the prompt of an answer is a prefix of the training text, segment by segment.

    Attributes:
        name: how recipes and run directories call it.
    """

    name: str

    @property
    @abstractmethod
    def stop(self) -> tuple[str, ...]:
        """Names of the special tokens that end an answer, besides EOS."""

    @property
    @abstractmethod
    def joined_bos(self) -> bool:
        """Whether the family writes BOS into the text before tokenising.

        Matters only to tokenizers that put a space before the first word: what follows such a BOS is not a first word.
        """

    def render(self, conversation: Conversation) -> list[Segment]:
        """Return the training text of a conversation: every answer and its end are supervised, nothing else is.

        Raises:
            UserError: the turns are out of order, do not end with an answer, or the template has no place for them.
        """
        try:
            turns = conversation.turns
            if turns and turns[-1].role != "assistant":
                raise UserError("the last turn is not the assistant's; there is nothing to learn")
            return self._in_order(turns)
        except UserError as error:
            raise UserError(f"row {conversation.id}: {error}") from None

    def prompt(self, turns: Sequence[Turn]) -> list[Segment]:
        """Return the text that a model continues with its answer to the last user turn.

        For turns that an answer follows in a conversation, this is a prefix of ``render`` of that conversation.

        Raises:
            UserError: the turns are out of order, do not end with the user, or the template has no place for them.
        """
        if turns and turns[-1].role != "user":
            raise UserError("the last turn is not the user's; there is nothing to answer")
        return self._in_order(turns)

    def _in_order(self, turns: Sequence[Turn]) -> list[Segment]:
        if fault := wrong_order(turns):
            raise UserError(fault)
        return self._segments(turns)

    @abstractmethod
    def _segments(self, turns: Sequence[Turn]) -> list[Segment]:
        """Return turns in order as segments; the text of a prompt where they end with the user's."""

    @property
    def needs_passage(self) -> bool:
        """Whether a question must hold a passage, an empty line and the question itself."""
        return False

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the definition and over fixed sample conversations as rendered."""
        samples: list[Any] = []
        for turns in _SAMPLES:
            try:
                samples.append(self._segments(turns))
            except UserError:
                # having no place for a conversation is part of what a template does
                samples.append(None)
        return sha256_text(json.dumps([self._definition(), samples], ensure_ascii=False, sort_keys=True))

    def to_json(self) -> dict[str, Any]:
        """Return what lies beside the weights as ``template.json``: name, hash, and the whole definition."""
        return {"name": self.name, "hash": self.hash, "definition": self._definition()}

    def check_hash(self, written: str) -> None:
        """Refuse a definition that does not give the hash it stands beside.

        Raises:
            UserError: the hashes differ.
        """
        if self.hash != written:
            raise UserError(
                f"template {self.name}: its definition renders to hash {self.hash[:12]}, the file says "
                f"{written[:12]}: it was edited, or made by another version"
            )

    def _definition(self) -> dict[str, Any]:
        # plain JSON values, as they come back from the file
        return json.loads(json.dumps(dataclasses.asdict(self)))


# where templates differ: space at the ends, empty lines, several rounds, a system turn
_SAMPLES = (
    (Turn("user", " 1 + 1?\n\nWhy? "), Turn("assistant", " 2 ")),
    (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c\n\nd"), Turn("assistant", "e")),
    (Turn("system", " Be brief. "), Turn("user", " a\n\nb "), Turn("assistant", "c")),
)
