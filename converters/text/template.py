"""Named templates: how a conversation becomes the text that a model reads and the text that it must write.

A template is data: patterns with ``{bos}``, ``{eos}``, ``{system}``, ``{user}``, ``{answer}`` and the names of special
tokens. Patterns are taken apart once; what people wrote is put in afterwards, so a special token's name inside a
question stays plain text. The generation prompt and the training text are made from the same parts, so that the
prompt is always a prefix of the training text, segment by segment and hence token by token.

Where a family has a published chat template (Llama-3-Instruct, Qwen2.5, Gemma, Llama-2-chat), ours gives the same text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from converters.common.errors import UsageError, UserError, did_you_mean
from converters.text.base import BOS, EOS, Segment, Template
from converters.text.conversation import Turn

# a compiled pattern: fixed segments, and lists of text and {slots} that make one segment each
_Part = Segment | tuple[bool, tuple[str, ...]]

_SLOT = re.compile(r"(\{[a-z]+\})")
# Between a letter and a space that a letter follows, no tokenizer in use merges: byte-level ones start a new piece at
# the space, SentencePiece ones at its ▁. A long fixed beginning cut there keeps its tokens and is tokenised only once.
_SAFE_CUT = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")


@dataclass(frozen=True)
class NamedTemplate(Template):
    """A template made of patterns.

    Attributes:
        name: how recipes and run directories call it.
        first: pattern of the first question up to where the answer begins, when there is no system text.
        first_with_system: the same with ``{system}``; None: the family has no system turn of its own.
        later: pattern of the questions after the first; None: one round only.
        answer: pattern of what the model writes, its end included; all of it is supervised.
        after: fixed text between an answer's end and the next question; not supervised.
        default_system: the system text when the conversation has none.
        system_in_question: how a system text is written into the first question, for families that do so.
        trim: texts lose white space at both ends, as the family's chat template does.
        special: names of the special tokens in the patterns.
        stop: names of the special tokens that end an answer, besides EOS.
        joined_bos: the family writes BOS into the text before tokenising. Matters only to tokenizers that put a space
            before the first word: what follows such a BOS is not a first word.
    """

    name: str
    first: str
    first_with_system: str | None
    later: str | None
    answer: str
    after: str = ""
    default_system: str | None = None
    system_in_question: str | None = None
    trim: bool = False
    special: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    joined_bos: bool = False

    @property
    def needs_passage(self) -> bool:
        """See `Template.needs_passage`."""
        return "{passage}" in self.first

    @classmethod
    def from_definition(cls, definition: dict[str, Any]) -> NamedTemplate:
        """Return the template with these fields, whatever its name means now.

        Raises:
            KeyError, TypeError: fields are missing or unknown.
        """
        tuples = {key: tuple(definition[key]) for key in ("special", "stop")}
        return cls(**(definition | tuples))

    def _segments(self, turns: Sequence[Turn]) -> list[Segment]:
        parts = self._parts
        question = parts["first"]
        slots: dict[str, str] = {}
        texts = [turn.text for turn in turns]
        if turns[0].role == "system":
            system = texts.pop(0)
            if self.system_in_question:
                # piece by piece, not by replacing: a system text may hold "{user}"
                texts[0] = "".join(
                    {"{system}": system, "{user}": texts[0]}.get(piece, piece)
                    for piece in _SLOT.split(self.system_in_question)
                )
            elif self.first_with_system:
                slots["{system}"] = system.strip() if self.trim else system
                question = parts["first_with_system"]
            else:
                raise UserError(f"template {self.name} has no place for a system turn; write it into the question")
        segments: list[Segment] = []
        for i, text in enumerate(texts):
            if self.trim:
                text = text.strip()
            if i % 2:
                slots["{answer}"] = text
                _fill(parts["answer"], slots, segments)
                continue
            if i:
                if self.later is None:
                    raise UserError(f"template {self.name} holds one question; this row has {(len(texts) + 1) // 2}")
                question = parts["later"]
            slots["{user}"] = text
            if self.needs_passage:
                slots["{passage}"], slots["{question}"] = _passage_and_question(self.name, text)
            _fill(question, slots, segments)
        return segments

    @cached_property
    def _parts(self) -> dict[str, list[_Part]]:
        first = self.first
        if self.default_system is not None and self.first_with_system:
            first = self.first_with_system.replace("{system}", self.default_system)
        return {
            "first": self._compile(first),
            "first_with_system": self._compile(self.first_with_system or ""),
            "later": self._compile(self.later or ""),
            "answer": self._compile(self.answer, supervised=True) + self._compile(self.after),
        }

    def _compile(self, pattern: str, *, supervised: bool = False) -> list[_Part]:
        """Take a pattern apart at its special tokens; join the text between them with its slots."""
        roles = {"{bos}": BOS, "{eos}": EOS}
        names = [re.escape(name) for name in (*self.special, *roles)]
        parts: list[_Part] = []
        for piece in re.split(f"({'|'.join(names)})", pattern):
            if piece in roles or piece in self.special:
                parts.append(Segment(roles.get(piece, piece), supervised, True))
                continue
            texts = tuple(text for text in _SLOT.split(piece) if text)
            if len(texts) > 1 and not _SLOT.fullmatch(texts[0]):
                cuts = [match.start() for match in _SAFE_CUT.finditer(texts[0])]
                if cuts:
                    parts.append(Segment(texts[0][: cuts[-1]], supervised, False))
                    texts = (texts[0][cuts[-1] :], *texts[1:])
            if len(texts) == 1 and not _SLOT.fullmatch(texts[0]):
                parts.append(Segment(texts[0], supervised, False))
            elif texts:
                parts.append((supervised, texts))
        return parts


def _fill(parts: list[_Part], slots: dict[str, str], segments: list[Segment]) -> None:
    """Append the segments of a compiled pattern; text that comes out empty makes none."""
    for part in parts:
        if isinstance(part, Segment):
            segments.append(part)
            continue
        supervised, texts = part
        text = "".join([slots.get(piece, piece) for piece in texts])
        if text:
            segments.append(Segment(text, supervised, False))


def _passage_and_question(name: str, text: str) -> tuple[str, str]:
    """Split a reading turn at its last empty line."""
    passage, line, question = text.rpartition("\n\n")
    if not line:
        raise UserError(f"template {name} needs passage, empty line, question in one turn; there is no empty line")
    return passage, question


_ALPACA = "### Instruction:\n{user}\n\n### Response:"

_TEMPLATES = (
    # the question and the answer, nothing between: what a base model continues
    NamedTemplate(
        name="bare",
        first="{bos}{user}",
        first_with_system=None,
        later="{user}",
        answer="{answer}{eos}",
    ),
    # Stanford Alpaca's form without input, as the arithmetic contest's data spell it: the answer follows the colon.
    # A system turn takes the place of the opening sentences.
    NamedTemplate(
        name="alpaca",
        first="",
        first_with_system="{bos}{system}\n\n" + _ALPACA,
        later="\n\n" + _ALPACA,
        answer="{answer}{eos}",
        default_system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.",
    ),
    # Vicuna 1.1, into which the contest's MindRecord script wraps every row: the answer brings its own leading space
    NamedTemplate(
        name="vicuna",
        first="",
        first_with_system="{bos}{system} USER: {user} ASSISTANT:",
        later="USER: {user} ASSISTANT:",
        answer=" {answer}{eos}",
        default_system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    ),
    NamedTemplate(
        name="llama3",
        first="{bos}<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        first_with_system="{bos}<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        later="<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{answer}<|eot_id|>",
        trim=True,
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        stop=("<|eot_id|>",),
        joined_bos=True,
    ),
    # ChatML as Qwen2.5 writes it: no BOS, and its own system sentence where the conversation has none
    NamedTemplate(
        name="chatml",
        first="",
        first_with_system="<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
        later="<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
        answer="{answer}<|im_end|>",
        after="\n",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        special=("<|im_start|>", "<|im_end|>"),
        stop=("<|im_end|>",),
    ),
    NamedTemplate(
        name="gemma",
        first="{bos}<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n",
        first_with_system=None,
        later="<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n",
        answer="{answer}<end_of_turn>",
        after="\n",
        trim=True,
        special=("<start_of_turn>", "<end_of_turn>"),
        stop=("<end_of_turn>",),
        joined_bos=True,
    ),
    NamedTemplate(
        name="llama2",
        first="{bos}[INST] {user} [/INST]",
        first_with_system=None,
        later="{bos}[INST] {user} [/INST]",
        answer=" {answer} {eos}",
        system_in_question="<<SYS>>\n{system}\n<</SYS>>\n\n{user}",
        trim=True,
        joined_bos=True,
    ),
    # The contest's reading prompt, byte for byte and without BOS, as its evaluation asks it.
    # The turn holds the passage, an empty line, and the question.
    NamedTemplate(
        name="squad",
        first="Read the passage and answer the question below.\n\n"
        "### Instruction:\n{passage}\n\n### Input:\n{question}\n\n### Response:",
        first_with_system=None,
        later=None,
        answer="{answer}{eos}",
    ),
)

_BY_NAME = {template.name: template for template in _TEMPLATES}


def get_template(name: str) -> NamedTemplate:
    """Return the template of this name.

    Raises:
        UsageError: there is none; the message has the known names.
    """
    if name not in _BY_NAME:
        known = ", ".join(_BY_NAME)
        raise UsageError(f"no template is called {name!r}{did_you_mean(name, _BY_NAME)}; known are {known}")
    return _BY_NAME[name]


def template_names() -> list[str]:
    """Return the names of all templates."""
    return list(_BY_NAME)


def special_names() -> set[str]:
    """Return the special tokens that any template names; inside somebody's text they are never tokens."""
    return {name for template in _TEMPLATES for name in template.special}


def opening_names() -> set[str]:
    """Return the special tokens that named templates write around turns, but never to end an answer."""
    return special_names() - {name for template in _TEMPLATES for name in template.stop}
