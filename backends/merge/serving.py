"""The template in the forms that servers read: Jinja for transformers and vLLM, Go's for Ollama.

A served model is asked in the form it was trained in, or it is another model; so both forms are made from the template
that lies beside the weights, and replace what the base's authors put there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from converters.text.template import Template

if TYPE_CHECKING:
    from converters.tokenizers.base import Tokenizer

_SLOT = re.compile(r"(\{[a-z]+\})")


def jinja(template: Template) -> str:
    """Return the template as a Hugging Face chat template (``chat_template.jinja``).

    Text is rendered to the character as :meth:`Template.prompt` and :meth:`Template.render` do, special tokens by name.
    """
    text = "message['content'] | trim" if template.trim else "message['content']"
    system = "ns.system | trim" if template.trim else "ns.system"

    def expression(pattern: str, slots: dict[str, str]) -> str:
        pieces = [piece for piece in _SLOT.split(pattern) if piece]
        roles = {"{bos}": "(bos_token or '')", "{eos}": "eos_token"}
        parts = [slots.get(piece) or roles.get(piece) or json.dumps(piece, ensure_ascii=False) for piece in pieces]
        return "{{- " + " ~ ".join(f"({part})" if "|" in part else part for part in parts) + " -}}" if parts else ""

    def refuse(reason: str) -> str:
        return "{{- raise_exception(" + json.dumps(reason) + ") -}}"

    parts = "message['content'].rpartition('\\n\\n')"
    user = {"{user}": text, "{passage}": f"{parts}[0]", "{question}": f"{parts}[2]"}
    first = expression(_first(template), user)
    if template.system_in_question:
        question = expression(template.system_in_question, {"{system}": "ns.system", "{user}": "message['content']"})
        inner = question.removeprefix("{{- ").removesuffix(" -}}")
        whole = f"({inner}) | trim" if template.trim else inner
        with_system = expression(template.first, {"{user}": whole})
    elif template.first_with_system:
        with_system = expression(template.first_with_system, {**user, "{system}": system})
    else:
        with_system = refuse(f"template {template.name} has no place for a system turn; write it into the question")
    later = refuse(f"template {template.name} holds one question")
    if template.later is not None:
        later = expression(template.later, user)
    answer = expression(template.answer + template.after, {"{answer}": text})
    return "\n".join(
        (
            "{%- set ns = namespace(system=none, first=true) -%}",
            "{%- for message in messages -%}",
            "{%- if message['role'] == 'system' -%}",
            "{%- set ns.system = message['content'] -%}",
            "{%- elif message['role'] == 'user' -%}",
            "{%- if not ns.first -%}",
            later,
            "{%- elif ns.system is not none -%}",
            with_system,
            "{%- else -%}",
            first,
            "{%- endif -%}",
            "{%- set ns.first = false -%}",
            "{%- elif message['role'] == 'assistant' -%}",
            answer,
            "{%- endif -%}",
            "{%- endfor -%}",
            "",
        )
    )


def modelfile(template: Template, tokenizer: Tokenizer) -> str | None:
    """Return an Ollama ``Modelfile`` beside the weights, or None where its syntax cannot say the template.

    Ollama puts BOS before a prompt by itself, so a leading BOS is left out; its templates cannot cut texts apart or
    take white space off their ends.
    """
    if "{passage}" in template.first:
        return None
    go = _go_writer(tokenizer)
    user = {"{user}": "{{ .Content }}"}
    first = go(_first(template).removeprefix("{bos}"), user)
    system = {"{system}": "{{ $.System }}"}
    if template.system_in_question:
        question = go(template.system_in_question, {**system, **user})
        with_system = go(template.first.removeprefix("{bos}"), {"{user}": question})
    elif template.first_with_system:
        with_system = go(template.first_with_system.removeprefix("{bos}"), {**system, **user})
    else:
        # no place of its own: before the question, as Ollama does for models without system turns
        with_system = go(template.first.removeprefix("{bos}"), {"{user}": "{{ $.System }}\n\n{{ .Content }}"})
    later = first if template.later is None else go(template.later, user)
    answer = go(template.answer + template.after, {"{answer}": "{{ .Content }}"})
    asked = f"{{{{ if $.System }}}}{with_system}{{{{ else }}}}{first}{{{{ end }}}}"
    question = "{{ if $first }}{{ $first = false }}" + asked + "{{ else }}" + later + "{{ end }}"
    turn = '{{ if eq .Role "user" }}' + question + '{{ else if eq .Role "assistant" }}' + answer + "{{ end }}"
    body = "{{ $first := true }}{{ range .Messages }}" + turn + "{{ end }}"
    stops = list(dict.fromkeys([*template.stop, eos_name(tokenizer)]))
    notes = ["ollama create NAME -f Modelfile, in this directory"]
    if "{bos}" not in template.first + (template.first_with_system or "") and tokenizer.bos_id is not None:
        notes.append(f"template {template.name} has no BOS; Ollama may put one before the prompt all the same")
    if not template.first_with_system and not template.system_in_question:
        notes.append(f"template {template.name} has no system turn; a system text goes before the first question")
    lines = [f"# {note}" for note in notes] + ["FROM .", f'TEMPLATE """{body}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def eos_name(tokenizer: Tokenizer) -> str:
    """Return the name of the token that ends a text."""
    return _name_of(tokenizer, tokenizer.eos_id)


def _name_of(tokenizer: Tokenizer, number: int | None) -> str:
    return next((name for name, token in tokenizer.specials.items() if token == number), "")


def _go_writer(tokenizer: Tokenizer) -> Callable[[str, dict[str, str]], str]:
    """Return what writes a pattern in Go's syntax."""
    roles = {"{bos}": _name_of(tokenizer, tokenizer.bos_id), "{eos}": eos_name(tokenizer)}

    def write(pattern: str, slots: dict[str, str]) -> str:
        pieces = _SLOT.split(pattern)
        return "".join(slots.get(piece) or roles.get(piece, piece) for piece in pieces)

    return write


def _first(template: Template) -> str:
    """Return the first question's pattern where no system text is given."""
    if template.default_system is not None and template.first_with_system:
        return template.first_with_system.replace("{system}", template.default_system)
    return template.first
