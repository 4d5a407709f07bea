"""What lies beside merged weights: configuration, tokenizer, template, and the forms that servers read.

A model answers as it was trained only if it is asked in the form it was trained in. Servers read this form as a Jinja
template (transformers, vLLM) or a Go template (Ollama). Both are made from the template of the run and replace what the
authors of the base put there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.checkpoint.resolve import trained_template, wanted_template
from backends.merge.adapters import Adapter
from backends.merge.base import Base
from backends.weights.files import (
    CHAT_TEMPLATE,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    TEMPLATE,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    copy_companions,
    has_tokenizer,
)
from converters.common.console import say
from converters.common.errors import UserError
from converters.common.files import sha256_file, write_json, write_text
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json
from converters.text.chat_template import TOKENIZER, ChatTemplate, as_patterns
from converters.text.template import NamedTemplate

if TYPE_CHECKING:
    from converters.text.base import Template
    from converters.tokenizers.base import Tokenizer

_SLOT = re.compile(r"(\{[a-z]+\})")
# of the base, besides its tokenizer: how to generate, code that its configuration names, terms of use
MODEL_FILES = (GENERATION_CONFIG, "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*")


def common_template(
    adapters: Sequence[Adapter], name: str | None, tokens: Path | None, *, allow: bool
) -> Template | None:
    """Return the template that all adapters were trained in, or the one that is asked for.

    Args:
        adapters: to merge.
        name: of the template that is asked for; None takes that of the adapters.
        tokens: directory of the tokenizer, whose own chat template can be asked for; None where there is none.
        allow: print a note about a mismatch instead of refusing it; without a name the first template is taken.

    Returns:
        The template; None, with a note, where no adapter has one and none is asked for.

    Raises:
        UserError: they were trained in different ones, or not in the one that is asked for, and ``allow`` is not set.
    """
    known: dict[str, tuple[Path, Template]] = {}
    for adapter in adapters:
        if found := trained_template((adapter.path, adapter.home)):
            # by hash: runs with the same template count once, whatever they are called
            known.setdefault(found[1].hash, found)
    trained = list(known.values())
    if name:
        from converters.tokenizers.load import load_tokenizer

        # a tokenizer of a kind that is not read here goes along all the same: only its own template needs it
        own = name.startswith(TOKENIZER) and tokens is not None and has_tokenizer(tokens)
        return wanted_template(name, trained, load_tokenizer(tokens) if own and tokens else None, allow_mismatch=allow)
    if not trained:
        say("note: no template.json beside the adapters says how to ask the merged weights; --template NAME adds one")
        return None
    if len(trained) > 1:
        both = " and ".join(f"{home} in {template.name} ({template.hash[:8]})" for home, template in trained[:2])
        if not allow:
            raise UserError(
                f"the adapters were trained in different templates: {both}; with --allow-template-mismatch the merged "
                "weights get that of the first"
            )
        say(f"note: {both}; the merged weights get {trained[0][1].name}")
    return trained[0][1]


def tokenizer_home(adapters: Sequence[Adapter], base: Path | None) -> Path | None:
    """Return the directory whose tokenizer belongs to the merged weights: the base's unless adapters bring another.

    Args:
        adapters: to merge; their runs may hold tokenizers.
        base: directory of the base; None where adapters are added without one.

    Returns:
        The directory; that of the base may lack a tokenizer. None where there is no base and no adapter has one.

    Raises:
        UserError: two adapters bring different ones.
    """
    homes = [home for home in dict.fromkeys([adapter.home for adapter in adapters]) if has_tokenizer(home)]
    hashes = {home: _tokenizer_hash(home) for home in homes}
    # one id would mean two things, so no tokenizer fits the sum
    if len(set(hashes.values())) > 1:
        first, second = list(hashes)[:2]
        raise UserError(f"{first} and {second} were trained with different tokenizers; their sum has no meaning")
    folder = base if base is not None and (base.is_dir() or is_gguf(base)) else None
    if folder is not None and has_tokenizer(folder):
        # the base's own files are the more complete ones
        if not homes or _tokenizer_hash(folder) == hashes[homes[0]]:
            return folder
        say(f"note: {homes[0]} was trained with another tokenizer than {folder} has; the trained one goes along")
    return homes[0] if homes else folder


def _tokenizer_hash(folder: Path) -> str:
    from converters.tokenizers.load import load_tokenizer

    try:
        return load_tokenizer(folder).hash
    except UserError:
        # of a kind that is not read here (SentencePiece): the same only if the files are
        return "".join(sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file())


def copy_tokenizer(home: Path | None, folder: Path) -> Tokenizer | None:
    """Copy the files of a tokenizer, or make them of a GGUF file, and load it.

    Args:
        home: directory or GGUF file that holds it; None where there is none.
        folder: existing directory to copy to.

    Returns:
        The tokenizer; None, with a note, where there is none or its kind is not supported here.
    """
    if home is None or not has_tokenizer(home):
        say("note: there is no tokenizer beside the base or the adapters; none goes along")
        return None
    from converters.tokenizers.load import load_tokenizer

    if is_gguf(home):
        load_tokenizer(home).save(folder)
    else:
        copy_companions(home, folder, TOKENIZER_FILES)
    try:
        return load_tokenizer(folder)
    except UserError as error:
        say(f"note: the tokenizer goes along but cannot be used here ({error})")
        return None


def write_template(template: Template | None, tokenizer: Tokenizer | None, folder: Path, *, served: bool) -> None:
    """Write ``template.json``, and for a model that can be served the forms that servers read.

    Args:
        template: to write; None writes nothing.
        tokenizer: names the stop tokens of Ollama's ``Modelfile``; without it there is none.
        folder: existing directory.
        served: also write ``chat_template.jinja`` and ``Modelfile``.
    """
    if template is None:
        return
    write_json(folder / TEMPLATE, template.to_json())
    if not served:
        return
    config = folder / TOKENIZER_CONFIG
    if config.is_file():
        content = read_json(config)
        # older tokenizers keep the base's template here: two in one directory would contradict each other
        if content.pop("chat_template", None) is not None:
            write_json(config, content)
    write_text(folder / CHAT_TEMPLATE, jinja(template))
    if tokenizer is None:
        say("note: no Modelfile without a tokenizer, which names the stop tokens")
        return
    text = modelfile(template, tokenizer)
    if text is None:
        say(f"note: template {template.name} cannot be said in Ollama's syntax; no Modelfile was written")
    else:
        write_text(folder / "Modelfile", text)


def write_model_files(base: Base, folder: Path, dtype: str | None, *, untied: bool) -> None:
    """Write the configuration of a merged model, and copy what else belongs to it.

    Args:
        base: model that was merged into.
        folder: existing directory.
        dtype: type that all weights were rounded to; None leaves the base's entry.
        untied: the merged model has a head of its own, which the base has not.
    """
    config: dict[str, Any] = dict(base.config)
    if dtype is not None:
        # older transformers read the second name only
        config.pop("dtype", None)
        config["torch_dtype"] = dtype
    if untied:
        # else transformers would put the embedding in the place of the head that was written
        config["tie_word_embeddings"] = False
    write_json(folder / MODEL_CONFIG, config)
    for pattern in MODEL_FILES:
        for file in sorted(base.home.glob(pattern)):
            shutil.copyfile(file, folder / file.name)


def jinja(template: Template) -> str:
    """Return the template as a Hugging Face chat template (``chat_template.jinja``).

    It renders the same text as :meth:`Template.prompt` and :meth:`Template.render`, character by character, with the
    names of special tokens.
    """
    if isinstance(template, ChatTemplate):
        return template.source
    assert isinstance(template, NamedTemplate)
    text = "message['content'] | trim" if template.trim else "message['content']"
    system = "ns.system | trim" if template.trim else "ns.system"

    def expression(pattern: str, slots: dict[str, str]) -> str:
        pieces = [piece for piece in _SLOT.split(pattern) if piece]
        roles = {"{bos}": "(bos_token or '')", "{eos}": "eos_token"}
        # JSON text is a valid Jinja literal, quotes and line breaks included
        parts = [slots.get(piece) or roles.get(piece) or json.dumps(piece, ensure_ascii=False) for piece in pieces]
        return "{{- " + " ~ ".join(f"({part})" if "|" in part else part for part in parts) + " -}}" if parts else ""

    def refuse(reason: str) -> str:
        return "{{- raise_exception(" + json.dumps(reason) + ") -}}"

    # a question with a passage is one turn: all before the last blank line is the passage
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
            # a namespace, because a plain variable set inside a loop of Jinja is lost after each round
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


def modelfile(trained: Template, tokenizer: Tokenizer) -> str | None:
    """Return the text of an Ollama ``Modelfile``.

    Ollama puts BOS before a prompt by itself, so a leading BOS is left out. Its templates cannot split a text or trim
    white space.

    Args:
        trained: template that the weights were trained in.
        tokenizer: says how its special tokens are written.

    Returns:
        The text; None where Ollama's syntax cannot express the template.
    """
    template = as_patterns(trained) if isinstance(trained, ChatTemplate) else trained
    if not isinstance(template, NamedTemplate) or template.needs_passage:
        return None
    # reversed: if an id has two names, the first one is kept
    names: dict[int | None, str] = {number: name for name, number in reversed(tokenizer.specials.items())}
    eos = names.get(tokenizer.eos_id, "")
    roles = {"{bos}": names.get(tokenizer.bos_id, ""), "{eos}": eos}

    def go(pattern: str, slots: dict[str, str]) -> str:
        return "".join(slots.get(piece) or roles.get(piece, piece) for piece in _SLOT.split(pattern))

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
    # a variable of Go's templates that is set inside a range keeps its value in the next round
    body = "{{ $first := true }}{{ range .Messages }}" + turn + "{{ end }}"
    # dict.fromkeys: EOS is often a stop of the template, too
    stops = list(dict.fromkeys([*template.stop, eos]))
    notes = ["ollama create NAME -f Modelfile, in this directory"]
    if "{bos}" not in template.first + (template.first_with_system or "") and tokenizer.bos_id is not None:
        notes.append(f"template {template.name} has no BOS; Ollama may put one before the prompt all the same")
    if not template.first_with_system and not template.system_in_question:
        notes.append(f"template {template.name} has no system turn; a system text goes before the first question")
    lines = [f"# {note}" for note in notes] + ["FROM .", f'TEMPLATE """{body}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n"


def _first(template: NamedTemplate) -> str:
    """Return the first question's pattern where no system text is given."""
    if template.default_system is not None and template.first_with_system:
        return template.first_with_system.replace("{system}", template.default_system)
    return template.first
