"""A model's own chat template: the Jinja text that its authors publish with the tokenizer, rendered in a sandbox.

The text is rendered as transformers' ``apply_chat_template`` does, and then taken apart at the special tokens that the
template itself wrote. What people wrote is hidden from that: their special tokens' names stay plain text.

What is trained on is found by comparison. An answer begins where the prompt before it ends, and ends with the first
special token after its text. A template whose prompt is no prefix of the training text is refused, since the model
would be asked in another form than it was trained in.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from converters.common.errors import UserError
from converters.text.base import BOS, Segment, Template
from converters.text.conversation import Turn
from converters.text.template import NamedTemplate, template_names

if TYPE_CHECKING:
    import jinja2
    import jinja2.sandbox

TOKENIZER = "tokenizer"
"""Name of a tokenizer's own chat template; ``tokenizer:NAME`` is one of several."""

# Llama 3's own date where a template is rendered without a clock
FIXED_DATE = datetime.date(2024, 7, 26)

# of the supplementary private use area, where no text has characters
_HIDDEN = 0xF0000
_SLOT = re.compile(r"\{[a-z]+\}")
_MARKS = [chr(0x10FF00 + i) for i in range(0xFE)]


def known_names() -> list[str]:
    """Return every name that a template can be asked for by."""
    return [*template_names(), TOKENIZER]


class SpecialToken(NamedTuple):
    """A special token as a tokenizer finds it in a text.

    Attributes:
        name: its text.
        lstrip: white space before it belongs to it.
        rstrip: white space after it belongs to it.
        single_word: it is found only where no letter or digit touches it.
    """

    name: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @property
    def pattern(self) -> str:
        """Regular expression that finds it, in a group of its own."""
        name = rf"(?<!\w){re.escape(self.name)}(?!\w)" if self.single_word else re.escape(self.name)
        return (r"\s*" if self.lstrip else "") + name + (r"\s*" if self.rstrip else "")


class _Answer(NamedTuple):
    """Where an answer stands in a rendered text.

    Attributes:
        start: where the prompt before it ends.
        end: after the special token that ends it; None where the template writes none.
        stop: name of that token.
    """

    start: int
    end: int | None
    stop: str | None


@dataclass(frozen=True)
class ChatTemplate(Template):
    """A tokenizer's chat template.

    Attributes:
        name: ``tokenizer``, or ``tokenizer:NAME`` where the tokenizer has several.
        source: the Jinja text.
        variables: the tokens that the text asks for by variable, as ``bos_token``.
        special: the special tokens that the template writes.
    """

    name: str
    source: str
    variables: dict[str, str]
    special: tuple[SpecialToken, ...]

    @classmethod
    def of(cls, name: str, source: str, variables: Mapping[str, str], special: Iterable[SpecialToken]) -> ChatTemplate:
        """Return a template that keeps only those tokens which it uses.

        Args:
            name: of the template.
            source: the Jinja text.
            variables: the tokenizer's named tokens, as ``bos_token``.
            special: all special tokens of the tokenizer.

        Raises:
            UserError: the text is no Jinja template.
        """
        # a fault of the text itself is raised here; below, a sample that is refused is none
        _compiled(name, source)
        used = {key: value for key, value in sorted(variables.items()) if re.search(rf"\b{key}\b", source)}
        tokens = tuple(sorted(special))
        whole = cls(name, source, used, tokens)
        # names may be put together while it is rendered, so the source alone does not tell
        texts = [source, *used.values(), *whole._rendered_samples()]
        return cls(name, source, used, tuple(one for one in tokens if any(one.name in text for text in texts)))

    @classmethod
    def from_definition(cls, definition: dict[str, Any]) -> ChatTemplate:
        """Return the template with these fields.

        Raises:
            KeyError, TypeError: fields are missing or unknown.
        """
        return cls(**(definition | {"special": tuple(SpecialToken(*one) for one in definition["special"])}))

    @property
    def joined_bos(self) -> bool:
        """See `Template.joined_bos`: the text holds BOS, if the template writes one."""
        return True

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """See `Template.stop`: the special token that ends the answer of a sample conversation."""
        turns = (Turn("user", "a"), Turn("assistant", "b"))
        try:
            answer = self._answer(turns, 1, self._text(turns))
        except UserError:
            return ()
        return (answer.stop,) if answer.stop else ()

    @property
    def writes_a_date(self) -> bool:
        """Whether the template asks for today's date."""
        return "strftime_now" in self.source

    def _segments(self, turns: Sequence[Turn]) -> list[Segment]:
        turns, shown = self._hidden(turns)
        text = self._text(turns)
        for turn in turns:
            if turn.role != "assistant" and turn.text.strip() not in text:
                raise UserError(f"template {self.name} leaves out or rewrites the {turn.role}'s turn")
        asked = turns[-1].role == "user"
        segments: list[Segment] = []
        place = 0
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            try:
                answer = self._answer(turns, i, text)
                if answer.end is None:
                    raise UserError(f"template {self.name} writes no special token after an answer; no end is learned")
            except UserError:
                # nothing is trained on in a prompt: it is what the template makes of earlier turns
                if asked:
                    continue
                raise
            segments += self._cut(text[place : answer.start], shown, supervised=False)
            segments += self._cut(text[answer.start : answer.end], shown, supervised=True)
            place = answer.end
        return segments + self._cut(text[place:], shown, supervised=False)

    def _answer(self, turns: Sequence[Turn], i: int, text: str) -> _Answer:
        """Find the answer of turn ``i`` in the text of all turns.

        Raises:
            UserError: the prompt before it is no prefix of the text, or its words are not in the text.
        """
        number = sum(turn.role == "assistant" for turn in turns[: i + 1])
        prompt = self._text(turns[:i])
        if not text.startswith(prompt):
            raise UserError(
                f"template {self.name} writes turns before answer {number} in another way than it asks for that "
                "answer; what is trained would not be what is asked: take another template or rows of one round"
            )
        # a character in the place of the answer tells what the template writes around it
        mark = next(char for char in _MARKS if char not in text)
        marked = self._text([*turns[:i], Turn("assistant", mark), *turns[i + 1 :]])
        before, found, after = marked.partition(mark)
        said = text[len(before) : len(text) - len(after)]
        whole = turns[i].text
        if (
            not found
            or text != before + said + after
            or len(before) < len(prompt)
            or said not in (whole, whole.strip(), whole.lstrip(), whole.rstrip())
        ):
            raise UserError(f"template {self.name} leaves out or rewrites answer {number}; take another template")
        stop = self._pattern.search(after)
        if stop is None:
            return _Answer(len(prompt), None, None)
        return _Answer(len(prompt), len(text) - len(after) + stop.end(), self._name_of(stop[0]))

    def _text(self, turns: Sequence[Turn]) -> str:
        """Render turns, and the beginning of an answer where they end with the user's."""
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        asked = bool(turns) and turns[-1].role == "user"
        # what transformers passes; no tools and no documents
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": asked}
        template = _compiled(self.name, self.source)
        try:
            return template.render(**values, **self.variables)
        # whatever a foreign template does wrong, a type error or a refusal of the sandbox, is the template's fault
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"template {self.name} refuses this conversation: {reason[:200]}") from error

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds the special tokens in a text, the longest first where one begins another."""
        names = sorted(self.special, key=lambda token: -len(token.name))
        # an empty pattern would be found everywhere
        return re.compile("|".join(token.pattern for token in names) or r"(?!)")

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(token.name for token in self.special)

    def _name_of(self, found: str) -> str:
        # a token takes white space around it along
        return found if found in self._names else found.strip()

    def _hidden(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], dict[str, str]]:
        """Replace special tokens' names in what people wrote; return the turns and what stands for what."""
        if not any(token.name in turn.text for turn in turns for token in self.special):
            return turns, {}
        names = sorted(self._names, key=len, reverse=True)
        # characters of the texts themselves must not be taken for names
        taken = {char for turn in turns for char in turn.text}
        free = (char for number in range(_HIDDEN, _HIDDEN + 0xFFFE) if (char := chr(number)) not in taken)
        code = dict(zip(names, free, strict=False))
        found = re.compile("|".join(map(re.escape, names)))
        changed = [Turn(turn.role, found.sub(lambda match: code[match[0]], turn.text)) for turn in turns]
        return changed, {char: name for name, char in code.items()}

    def _cut(self, text: str, shown: Mapping[str, str], *, supervised: bool) -> list[Segment]:
        """Take a text apart at its special tokens; ``shown`` puts back what was hidden in it."""
        segments = []
        place = 0
        for match in self._pattern.finditer(text):
            segments.append(Segment(text[place : match.start()], supervised, False))
            segments.append(Segment(self._name_of(match[0]), supervised, True))
            place = match.end()
        segments.append(Segment(text[place:], supervised, False))
        if shown:
            table = str.maketrans(dict(shown))
            segments = [one if one.special else one._replace(text=one.text.translate(table)) for one in segments]
        return [one for one in segments if one.text]

    def _rendered_samples(self) -> list[str]:
        """Return the text of small conversations, of those that the template takes."""
        system, ask, say = Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a")
        texts = []
        for turns in ((ask,), (ask, say), (system, ask), (ask, say, ask, say)):
            try:
                texts.append(self._text(turns))
            except UserError:
                # a template without system turns, for instance
                continue
        return texts


@lru_cache(maxsize=16)
def _compiled(name: str, source: str) -> jinja2.Template:
    import jinja2

    try:
        return _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"template {name} is no Jinja template: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Return what transformers renders chat templates in; the sandbox gives a template no way to the program."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The block ``{% generation %}`` around answers: its content, since answers are found in another way."""

        tags = {"generation"}  # noqa: RUF012 - declared by the library

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        # Jinja's own writes <, > and & as escapes of HTML
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    # a fixed day: with the clock's, the same model would be asked in another text tomorrow
    environment.globals["strftime_now"] = FIXED_DATE.strftime
    return environment


def as_patterns(template: ChatTemplate) -> NamedTemplate | None:
    """Return patterns that write what a chat template writes, for servers that have no Jinja.

    Args:
        template: the chat template.

    Returns:
        The patterns; None where no patterns give the same text on sample conversations.
    """
    system, ask, say, again = _MARKS[:4]
    turns = [Turn("user", ask), Turn("assistant", say), Turn("user", again)]
    try:
        # a question; a question and its answer; and the same with the next question
        one, answered, two = (template._text(turns[:count]) for count in (1, 2, 3))
        end = template._answer(turns[:2], 1, answered).end
    except UserError:
        return None
    try:
        with_system = template._text([Turn("system", system), turns[0]])
    except UserError:
        with_system = ""
    if end is None or not two.startswith(answered[:end]) or any(_SLOT.search(text) for text in (one, two, with_system)):
        return None
    after = answered[end:] if two.startswith(answered) else ""
    slots = str.maketrans({ask: "{user}", again: "{user}", say: "{answer}", system: "{system}"})
    bos = template.variables.get("bos_token", "")

    def opening(text: str) -> str:
        # as a role, since servers put BOS there themselves; a token that comes again opens turns and is none
        own = bool(bos) and text.startswith(bos) and text.count(bos) == 1
        return ("{bos}" + text[len(bos) :] if own else text).translate(slots)

    patterns = NamedTemplate(
        name=template.name,
        first=opening(one),
        first_with_system=opening(with_system) if with_system.count(system) == 1 else None,
        later=two[end + len(after) :].translate(slots),
        answer=answered[len(one) : end].translate(slots),
        after=after,
        special=tuple(token.name for token in template.special),
        stop=template.stop,
        joined_bos=True,
    )
    return patterns if _same_text(patterns, template, turns) else None


def _same_text(patterns: NamedTemplate, template: ChatTemplate, turns: Sequence[Turn]) -> bool:
    """Tell whether patterns write turns as a chat template does, with and without a system text."""
    bos = template.variables.get("bos_token", "")
    for before in ((), (Turn("system", _MARKS[4]),)) if patterns.first_with_system else ((),):
        try:
            segments = patterns.prompt([*before, *turns])
            wanted = template._text([*before, *turns])
        except UserError:
            return False
        if "".join(bos if one.special and one.text == BOS else one.text for one in segments) != wanted:
            return False
    return True
