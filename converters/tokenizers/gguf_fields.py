"""A ``tokenizer.json`` as the settings of a GGUF file: the inverse of :mod:`converters.tokenizers.gguf_vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json
from converters.tokenizers.base import read_config
from converters.tokenizers.gguf_vocabulary import (
    BLANK,
    BYTE,
    CONTROL,
    GPT2_PATTERN,
    SPLITS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

NORMAL = 1
_SINGLE_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Field:
    """A setting of a GGUF file.

    Attributes:
        key: its name.
        value: a number, a text, a switch, or a list of numbers or texts.
        kind: ``float32`` for numbers that are no whole ones; empty where the value says it.
    """

    key: str
    value: Any
    kind: str = ""

    def write(self, writer: Any) -> None:
        """Add the setting to a ``gguf.GGUFWriter``."""
        if isinstance(self.value, bool):
            writer.add_bool(self.key, self.value)
        elif isinstance(self.value, str):
            writer.add_string(self.key, self.value)
        elif isinstance(self.value, list):
            writer.add_array(self.key, self.value)
        elif self.kind == "float32":
            writer.add_float32(self.key, self.value)
        else:
            writer.add_uint32(self.key, self.value)


def vocabulary_fields(
    folder: Path, rows: int, *, chat_template: str | None = None, adds_bos: bool | None = None
) -> Iterator[Field]:
    """Yield the settings that say a tokenizer.

    Args:
        folder: directory with ``tokenizer.json`` and ``tokenizer_config.json``.
        rows: of the embedding; names of unused tokens fill the vocabulary up to them.
        chat_template: in Jinja; None takes the one of ``tokenizer_config.json``, if any.
        adds_bos: every text begins with BOS; None: as the tokenizer says.

    Raises:
        UsageError: there is no ``tokenizer.json``.
        UserError: it is of a kind that GGUF has no form for, or has more tokens than the embedding.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UsageError(f"{folder}: no tokenizer.json there; a GGUF file holds its tokenizer")
    from converters.tokenizers.load import load_tokenizer

    content, config, tokenizer = read_json(file), read_config(folder), load_tokenizer(folder)
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise UserError(f"{file}: a model of type {model.get('type')}; byte-level and SentencePiece BPE are written")
    if tokenizer.vocab_size > rows:
        raise UserError(f"{file}: {tokenizer.vocab_size} tokens, and the embedding has {rows} rows")
    added = {token["content"]: bool(token["special"]) for token in content.get("added_tokens") or []}
    ids = {**model["vocab"], **{token["content"]: token["id"] for token in content.get("added_tokens") or []}}
    names = {number: token for token, number in ids.items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(rows)]
    merges = [pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in model.get("merges") or []]
    sentencepiece = bool(model.get("byte_fallback"))
    unknown = model.get("unk_token") if sentencepiece else None

    def kind(number: int) -> int:
        token = tokens[number]
        if number not in names:
            return UNUSED
        if token == unknown:
            return UNKNOWN
        if token in added:
            return CONTROL if added[token] else USER_DEFINED
        return BYTE if sentencepiece and _SINGLE_BYTE.fullmatch(token) else NORMAL

    yield Field("tokenizer.ggml.model", "llama" if sentencepiece else "gpt2")
    yield Field("tokenizer.ggml.pre", "default" if sentencepiece else split_name(content, file))
    yield Field("tokenizer.ggml.tokens", tokens)
    yield Field("tokenizer.ggml.token_type", [kind(number) for number in range(rows)])
    if sentencepiece:
        yield Field("tokenizer.ggml.scores", _scores(tokens, merges))
        yield Field("tokenizer.ggml.add_space_prefix", _adds_blank(content, file))
    else:
        yield Field("tokenizer.ggml.merges", [f"{left} {right}" for left, right in merges])
        yield Field("tokenizer.ggml.add_space_prefix", False)
    bos = config.get("bos_token")
    bos = bos.get("content") if isinstance(bos, Mapping) else bos
    bos_id = ids.get(bos) if bos else tokenizer.bos_id
    if bos_id is not None:
        yield Field("tokenizer.ggml.bos_token_id", bos_id)
    yield Field("tokenizer.ggml.eos_token_id", tokenizer.eos_id)
    if tokenizer.unk_id is not None:
        yield Field("tokenizer.ggml.unknown_token_id", tokenizer.unk_id)
    yield Field("tokenizer.ggml.padding_token_id", tokenizer.pad_id)
    if adds_bos is None:
        post = content.get("post_processor") or {}
        adds_bos = bool(config.get("add_bos_token", bos is not None and bos in post.get("special_tokens", {})))
    yield Field("tokenizer.ggml.add_bos_token", adds_bos and bos_id is not None)
    yield Field("tokenizer.ggml.add_eos_token", False)
    template = chat_template if chat_template is not None else config.get("chat_template")
    if isinstance(template, str):
        yield Field("tokenizer.chat_template", template)


def split_name(content: Mapping[str, Any], file: Path) -> str:
    """Return the name that llama.cpp has for how a byte-level ``tokenizer.json`` splits text.

    Raises:
        UserError: it has none that is known here.
    """
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    patterns: list[str] = []
    for step in steps:
        if step.get("type") == "Digits" and step.get("individual_digits"):
            patterns.append(r"\p{N}")
        elif step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            pattern = step.get("pattern", {})
            patterns.append(pattern.get("Regex") or re.escape(pattern.get("String", "")))
        elif step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
            patterns += [GPT2_PATTERN] if step.get("use_regex", True) else []
        else:
            patterns.append(str(step))
    nfc = any(step.get("type") == "NFC" for step in _steps(content.get("normalizer"), "normalizers"))
    whole = bool(content["model"].get("ignore_merges"))
    for name, split in SPLITS.items():
        if split.patterns == tuple(patterns) and (split.nfc, split.ignore_merges) == (nfc, whole):
            return name
    raise UserError(f"{file}: llama.cpp has no name that is known here for its way of splitting text")


def _steps(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    return [part for inner in step[key] for part in _steps(inner, key)] if step.get("type") == "Sequence" else [step]


def _adds_blank(content: Mapping[str, Any], file: Path) -> bool:
    """Say whether a blank is put before the first word.

    Raises:
        UserError: the text is changed in a way that SentencePiece in GGUF is not.
    """
    known = {"Prepend", "Replace", "Metaspace"}
    steps = _steps(content.get("normalizer"), "normalizers") + _steps(content.get("pre_tokenizer"), "pretokenizers")
    odd = [step.get("type") for step in steps if step.get("type") not in known]
    # Gemma's file splits at blanks, which its normalizer has replaced before: a step without effect
    if odd and odd != ["Split"]:
        raise UserError(f"{file}: {odd[0]}: llama.cpp's SentencePiece has no such step")
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Return scores under which SentencePiece joins in the order of the merges: minus the place of the first."""
    first: dict[str, int] = {}
    for place, (left, right) in enumerate(merges):
        first.setdefault(left + right, place)
    # single letters and bytes are never joined from parts: any score does
    return [-float(first.get(token.replace(" ", BLANK), len(merges))) for token in tokens]
