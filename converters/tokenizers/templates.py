"""Templates by name, a tokenizer's own among them, and templates that were stored with weights."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError, did_you_mean
from converters.text.base import BOS, EOS, Template
from converters.text.chat_template import FIXED_DATE, TOKENIZER, ChatTemplate, SpecialToken, known_names
from converters.text.conversation import Conversation, Turn
from converters.text.template import NamedTemplate, get_template, template_names
from converters.tokenizers.base import CHAT_TEMPLATE, Tokenizer

_PLACES = ("before the question", "after it", "after the answer")


def find_template(name: str, tokenizer: Tokenizer | None) -> Template:
    """Return a template by its name.

    Args:
        name: of a named template; ``tokenizer`` is the tokenizer's own chat template, ``tokenizer:NAME`` one of
            several.
        tokenizer: that the rows are written for; None where there is none, and then none of its own.

    Raises:
        UsageError: there is none of this name.
        UserError: the tokenizer's chat template cannot be read.
    """
    first, _, rest = name.partition(":")
    if first != TOKENIZER:
        if name not in template_names():
            raise UsageError(
                f"no template is called {name!r}{did_you_mean(name, known_names())}; known are "
                f"{', '.join(known_names())} (the model's own)"
            )
        return get_template(name)
    if tokenizer is None:
        raise UsageError(f"template {name}: there is no tokenizer, and so no chat template of its own")
    own = own_template(tokenizer, rest)
    if own is None:
        raise UsageError(
            f"{tokenizer.source.parent}: no chat template there ({CHAT_TEMPLATE}, or chat_template in "
            f"tokenizer_config.json); name one of {', '.join(template_names())}"
        )
    return own


def own_template(tokenizer: Tokenizer, which: str = "") -> ChatTemplate | None:
    """Return the chat template that lies beside a tokenizer.

    Args:
        tokenizer: its directory is looked into.
        which: name among several; empty takes the one called ``default``.

    Returns:
        The template; None where there is none at all.

    Raises:
        UsageError: there are several, and none of this name.
        UserError: a template cannot be read.
    """
    folder, sources = tokenizer.source.parent, tokenizer.chat_templates
    if not sources:
        return None
    if (which or "default") not in sources:
        known = ", ".join(f"{TOKENIZER}:{name}" for name in sources)
        raise UsageError(f"{folder}: no chat template called {which or 'default'!r}; there are {known}")
    source = sources[which or "default"]
    try:
        own = _opened(
            f"{TOKENIZER}:{which}" if which else TOKENIZER,
            source,
            tuple(sorted(tokenizer.named_tokens.items())),
            tuple(tokenizer.special_tokens()),
        )
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return own


@lru_cache(maxsize=8)
def _opened(
    name: str, source: str, variables: tuple[tuple[str, str], ...], special: tuple[SpecialToken, ...]
) -> ChatTemplate:
    opened = ChatTemplate.of(name, source, dict(variables), special)
    if opened.writes_a_date:
        say(f"note: template {name} asks for today's date and gets {FIXED_DATE:%d %b %Y}: runs can be repeated")
    return opened


def template_from_json(value: dict[str, Any]) -> Template:
    """Return the template that ``Template.to_json`` wrote, as it was then, whatever its name means now.

    Raises:
        UserError: keys are missing or unknown, or the definition does not give the hash it stands beside.
    """
    try:
        definition, written = dict(value["definition"]), value["hash"]
        kind = ChatTemplate if "source" in definition else NamedTemplate
        template: Template = kind.from_definition(definition)
    except (KeyError, TypeError) as error:
        raise UserError(f"not a template file ({error}); it should hold name, hash and definition") from error
    template.check_hash(written)
    return template


def difference(template: Template, tokenizer: Tokenizer) -> str | None:
    """Say where a template writes another text than the tokenizer's own does, on a small conversation.

    Args:
        template: that is used.
        tokenizer: that may have a chat template of its own.

    Returns:
        What the template writes and what its own writes, part by part; None where they write the same, or where there
        is no chat template that can be read.
    """
    try:
        own = own_template(tokenizer)
    except UserError:
        # a template that is not used does no harm
        return None
    if own is None or own.hash == template.hash:
        return None
    ours, theirs = (_around(one, tokenizer) for one in (template, own))
    if ours is None or theirs is None:
        return None
    parts = [
        f"{where} {_shown(left, right)}, its own {_shown(right, left)}"
        for where, left, right in zip(_PLACES, ours, theirs, strict=True)
        if left != right
    ]
    if not parts:
        return None
    return f"template {template.name} is not {tokenizer.source.parent}'s own: {'; '.join(parts)}"


def _around(template: Template, tokenizer: Tokenizer) -> tuple[str, str, str] | None:
    """Return the texts before a question, between it and the answer, and up to the answer's end."""
    question, answer = "\U0010ff00", "\U0010ff01"
    roles = {BOS: tokenizer.token_name(tokenizer.bos_id), EOS: tokenizer.token_name(tokenizer.eos_id)}
    try:
        # an empty passage before it, which templates for reading need
        asked = f"\n\n{question}" if template.needs_passage else question
        row = template.render(Conversation("1", (Turn("user", asked), Turn("assistant", answer))))
    except UserError:
        return None
    last = max(i for i, one in enumerate(row) if one.supervised)
    text = "".join(roles.get(one.text, one.text) if one.special else one.text for one in row[: last + 1])
    before, _, rest = text.partition(question)
    between, _, after = rest.partition(answer)
    return before, between, after


def _shown(text: str, other: str, most: int = 70) -> str:
    """Return the part of a text in which it differs from another, shortened, in quotes."""
    # tokens as <|im_end|> in one piece
    words, others = (re.findall(r"<\|?\w+\|?>|\s+|\w+|[^\w\s]", one) for one in (text, other))
    start = 0
    while start < min(len(words), len(others)) and words[start] == others[start]:
        start += 1
    end = 0
    while end < min(len(words), len(others)) - start and words[-1 - end] == others[-1 - end]:
        end += 1
    part = "".join(words[start : len(words) - end])
    return repr(part if len(part) <= most else f"{part[: most - 1]}…") if part else "nothing"
