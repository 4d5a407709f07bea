"""The forms in which a question on a passage is put to a model, by name.

A prompt also says where an answer ends. Of a model that goes on after the line that was asked for, only the line is
graded; this is named beside every figure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from converters.common.files import sha256_text
from converters.text.template import get_template

CONTEST = "contest"


@dataclass(frozen=True)
class Prompt:
    """One form of a question.

    Attributes:
        name: how commands call it.
        description: what it is, in words.
        question: pattern of the text, with ``{passage}`` and ``{question}``; the answer follows it.
        examples: ``(passage, question, answer)`` that stand before the question in the same pattern.
        template: the template that it is asked in unless another is named; None takes the model's.
        one_line: an answer ends with its first line.
    """

    name: str
    description: str
    question: str
    examples: tuple[tuple[str, str, str], ...] = ()
    template: str | None = None
    one_line: bool = True

    def text(self, passage: str, question: str) -> str:
        """Return the text that asks a question: the examples with their answers, and the question last."""
        # one pass over the pattern: a passage may hold "{question}"
        answered = [f"{self.question.format(passage=one, question=asked)} {said}" for one, asked, said in self.examples]
        return "\n\n".join([*answered, self.question.format(passage=passage, question=question)])

    @cached_property
    def hash(self) -> str:
        """SHA-256 over what it makes of a question, and where an answer ends."""
        return sha256_text(json.dumps([self.text("passage", "question"), self.one_line], ensure_ascii=False))


_EXAMPLES = (
    (
        "The Oakdale Bridge was opened in 1931 by the engineer Maria Lund. It is 412 metres long and crosses the river "
        "Alder.",
        "Who opened the Oakdale Bridge?",
        "Maria Lund",
    ),
    (
        "Copper is a soft metal that conducts heat well. The people of Cyprus mined it as early as 4000 BC, and the "
        "Romans named it after the island.",
        "When did the people of Cyprus first mine copper?",
        "4000 BC",
    ),
    (
        "In the north of the country most farmers grow barley, because the summers there are too short for wheat.",
        "What do most farmers in the north grow?",
        "barley",
    ),
    (
        "Lake Verin lies 1,200 metres above the sea. It freezes in November, and fishermen cross it on sledges until "
        "the ice breaks in April.",
        "When does Lake Verin freeze?",
        "November",
    ),
    (
        "The novel was written by Ida Brandt, a teacher from Kiel, who sold only ninety copies of it in her life.",
        "How many copies of the novel did Ida Brandt sell?",
        "ninety",
    ),
)

PROMPTS = {
    one.name: one
    for one in (
        # mindformers' own, whose metric grades first lines
        Prompt(CONTEST, "the contest's reading prompt", get_template("squad").first),
        # plain text, not a chat turn: a small chat model answers a turn in whole sentences, whatever it is told
        Prompt(
            "short",
            "five examples with short answers, as text to continue",
            "Passage: {passage}\nQuestion: {question}\nAnswer:",
            _EXAMPLES,
            template="bare",
        ),
    )
}
"""The prompts by name."""
