"""The forms in which a question on a passage is put to a model, by name.

A prompt also says where an answer ends. To one that asks for a line, a model that goes on after it has answered all the
same, and only the line is graded; this is named beside every figure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from converters.common.files import sha256_text
from converters.text.conversation import Turn
from converters.text.template import get_template

CONTEST = "contest"


@dataclass(frozen=True)
class Prompt:
    """One form of a question.

    Attributes:
        name: how commands call it.
        description: what it is, in words.
        question: pattern of a user turn, with ``{passage}`` and ``{question}``.
        examples: ``(passage, question, answer)`` of rounds before the question, in the same pattern.
        one_line: an answer ends with its first line.
    """

    name: str
    description: str
    question: str
    examples: tuple[tuple[str, str, str], ...] = ()
    one_line: bool = True

    def turns(self, passage: str, question: str) -> list[Turn]:
        """Return the turns that ask a question: those of the examples, and the user's last."""
        found = []
        for example, asked, answer in self.examples:
            found += [Turn("user", self._filled(example, asked)), Turn("assistant", answer)]
        return [*found, Turn("user", self._filled(passage, question))]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over what it makes of a question, and where an answer ends."""
        turns = [[turn.role, turn.text] for turn in self.turns("passage", "question")]
        return sha256_text(json.dumps([turns, self.one_line], ensure_ascii=False))

    def _filled(self, passage: str, question: str) -> str:
        # one pass over the pattern: a passage may hold "{question}"
        return self.question.format(passage=passage, question=question)


PROMPTS = {
    one.name: one
    for one in (
        # mindformers' own, whose metric grades first lines
        Prompt(CONTEST, "the contest's reading prompt", get_template("squad").first),
        Prompt(
            "short",
            "a prompt that asks for a few words of the passage",
            "Answer the question with a few words copied from the passage.\n\n"
            "Passage: {passage}\n\nQuestion: {question}",
        ),
    )
}
"""The prompts by name."""
