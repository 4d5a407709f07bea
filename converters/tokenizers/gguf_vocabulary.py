"""The tokenizer in a GGUF file, as the ``tokenizer.json`` and ``tokenizer_config.json`` that give the same ids.

A GGUF file holds tokens, their kinds, and merges (``gpt2``: byte-level BPE) or scores (``llama``: SentencePiece BPE).
How text is split before merging is only named (``tokenizer.ggml.pre``); :data:`SPLITS` says what each name means, as
llama.cpp's ``llm_tokenizer_bpe`` and the families' own ``tokenizer.json`` do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.common.errors import UserError
from converters.common.gguf_file import GgufFile, open_gguf
from converters.tokenizers.hf_json import JsonTokenizer
from converters.tokenizers.tiktoken_file import LLAMA3_PATTERN
from converters.tokenizers.tokenizer_json import added_token, bpe, byte_level, document, sequence, split_at

# kinds of tokens: llama_token_type of llama.cpp
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
BLANK = "▁"  # SentencePiece's sign for a blank
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT = r"\p{N}"


@dataclass(frozen=True)
class Split:
    """How text is cut before merging.

    Attributes:
        patterns: regular expressions, each applied to the pieces that the one before left; what none matches is a
            piece as well.
        ignore_merges: a piece that is a token is taken whole.
        nfc: text is normalised to composed characters first.
        adds_bos: a text begins with BOS unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


_GPT2 = Split((GPT2_PATTERN,))
_DIGITS = Split((_DIGIT, GPT2_PATTERN))
_LLAMA3 = Split((LLAMA3_PATTERN,), ignore_merges=True, adds_bos=True)
_QWEN2 = Split((QWEN2_PATTERN,), nfc=True)
# tokenizer.ggml.pre → what it means; no name: files older than the setting, which llama.cpp reads as "default"
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "olmo", "mpt", "jais"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]")),
}


class GgufTokenizer(JsonTokenizer):
    """The tokenizer of a GGUF file, made in memory.

    Args:
        gguf: the file, or what was read of it.

    Raises:
        UserError: its kind or its way of splitting text is not known, or a part of it is missing.
    """

    def __init__(self, gguf: GgufFile) -> None:
        super().__init__(gguf.path, tokenizer_json(gguf), tokenizer_config(gguf))


def gguf_tokenizer(path: Any) -> GgufTokenizer:
    """Return the tokenizer of a GGUF file; errors are those of ``open_gguf`` and :class:`GgufTokenizer`."""
    return GgufTokenizer(open_gguf(path))


def split_of(gguf: GgufFile) -> Split:
    """Return how a byte-level file cuts text.

    Raises:
        UserError: the name is not known.
    """
    name = gguf.fields.get("tokenizer.ggml.pre", "default")
    if name not in SPLITS:
        raise UserError(
            f"{gguf.path}: tokenizer.ggml.pre is {name!r}, and how that splits text is not known here; known are "
            f"{', '.join(SPLITS)}. Give the model's own tokenizer.json with --tokenizer"
        )
    return SPLITS[name]


def tokenizer_json(gguf: GgufFile) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``.

    Raises:
        UserError: the file has no tokenizer of a kind that is known here.
    """
    kind = gguf.fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(gguf)
    if kind == "llama":
        return _sentencepiece(gguf)
    found = "no tokenizer.ggml.model" if kind is None else f"tokenizer.ggml.model {kind!r}"
    raise UserError(f"{gguf.path}: {found}; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are read")


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """Return the content of ``tokenizer_config.json``, in keys that transformers 4.57 and 5 both read.

    A pad that is EOS is left out, since a pad is never EOS here.

    Raises:
        UserError: the file names no EOS, or an id that is no token.
    """
    names = {role: special_token(gguf, key) for role, key in _ROLES.items()}
    if names["eos_token"] is None:
        raise UserError(f"{gguf.path}: tokenizer.ggml.eos_token_id is not stated; no answer could end")
    if names["pad_token"] == names["eos_token"]:
        del names["pad_token"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: name for role, name in names.items() if name is not None or role == "bos_token"},
        "add_bos_token": adds(gguf, "bos"),
        "add_eos_token": adds(gguf, "eos"),
        # else transformers takes blanks before full stops away when it decodes
        "clean_up_tokenization_spaces": False,
        # else transformers 4.57 also makes token_type_ids, which no Llama takes
        "model_input_names": ["input_ids", "attention_mask"],
    }
    context = gguf.fields.get(f"{gguf.fields.get('general.architecture')}.context_length")
    if context is not None:
        config["model_max_length"] = context
    if "tokenizer.chat_template" in gguf.fields:
        config["chat_template"] = gguf.fields["tokenizer.chat_template"]
    return config


_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# llama.cpp's defaults of a SentencePiece vocabulary that states none
_SENTENCEPIECE_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}


def special_token(gguf: GgufFile, key: str) -> str | None:
    """Return the token that a setting such as ``eos_token_id`` names; None where the file states none.

    Raises:
        UserError: the id is not that of a token.
    """
    ids = _SENTENCEPIECE_IDS if gguf.fields.get("tokenizer.ggml.model") == "llama" else {}
    number = gguf.fields.get(f"tokenizer.ggml.{key}", ids.get(key))
    # a converter writes -1 or 2**32 - 1 for none
    if number is None or number in (-1, 2**32 - 1):
        return None
    tokens = gguf.field("tokenizer.ggml.tokens")
    if not 0 <= number < len(tokens):
        raise UserError(f"{gguf.path}: tokenizer.ggml.{key} is {number}, and there are {len(tokens)} tokens")
    return tokens[number]


def adds(gguf: GgufFile, role: str) -> bool:
    """Say whether a text begins with BOS, or ends with EOS, when special tokens are added.

    Args:
        gguf: the file.
        role: ``bos`` or ``eos``.
    """
    default = False
    if role == "bos":
        byte_level = gguf.fields.get("tokenizer.ggml.model") == "gpt2"
        default = split_of(gguf).adds_bos if byte_level else True
    wanted = bool(gguf.fields.get(f"tokenizer.ggml.add_{role}_token", default))
    return wanted and special_token(gguf, f"{role}_token_id") is not None


def merges_from_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges of a SentencePiece BPE, the first to be done first.

    SentencePiece always joins the two neighbours whose joined piece has the highest score. That is byte pair encoding
    with the merges in the order of the scores; every split of a piece into two known ones is a merge.

    Args:
        scores: score of each piece that may be joined; the order is that of the ids.
    """
    order = {piece: place for place, piece in enumerate(scores)}
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score in scores.items():
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [(left, right) for left, right in cuts if left in order and right in order]
        known.sort(key=lambda cut: (order[cut[0]], order[cut[1]]))
        # negative, because sorting puts the smallest first; equal scores: the longer left piece first
        merges += [(-score, -len(left), -len(right), left, right) for left, right in known]
    merges.sort(key=lambda merge: merge[:3])
    return [(left, right) for _, _, _, left, right in merges]


def _byte_level(gguf: GgufFile) -> dict[str, Any]:
    split = split_of(gguf)
    tokens, kinds = _tokens(gguf)
    merges = []
    for merge in gguf.field("tokenizer.ggml.merges"):
        # from 1: a left part may itself begin with a blank in odd vocabularies
        cut = merge.find(" ", 1)
        if cut < 0:
            raise UserError(f"{gguf.path}: tokenizer.ggml.merges holds {merge!r}, which is not two parts")
        merges.append([merge[:cut], merge[cut + 1 :]])
    # GPT-2's own pattern is a part of the byte-level step, as the families' own files have it
    gpt2_last = split.patterns[-1] == GPT2_PATTERN
    steps = [_cut(pattern) for pattern in (split.patterns[:-1] if gpt2_last else split.patterns)]
    steps.append(byte_level(use_regex=gpt2_last))
    return document(
        bpe(_vocab(tokens, kinds), merges, ignore_merges=split.ignore_merges),
        _added(tokens, kinds),
        normalizer={"type": "NFC"} if split.nfc else None,
        pre_tokenizer=sequence(steps) if len(steps) > 1 else steps[0],
        post_processor=_post_processor(gguf),
        decoder=byte_level(use_regex=True),
    )


def _cut(pattern: str) -> dict[str, Any]:
    if pattern == _DIGIT:
        return {"type": "Digits", "individual_digits": True}
    return split_at(pattern)


def _sentencepiece(gguf: GgufFile) -> dict[str, Any]:
    tokens, kinds = _tokens(gguf)
    scores = gguf.field("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise UserError(f"{gguf.path}: {len(scores)} scores for {len(tokens)} tokens")
    pieces: dict[str, float] = {}
    for number, (token, kind, score) in enumerate(zip(tokens, kinds, scores, strict=True)):
        if kind == USER_DEFINED and not token.strip(" "):
            # llama.cpp's converter writes runs of blanks as such; in the vocabulary they are SentencePiece's sign
            tokens[number] = token = token.replace(" ", BLANK)
            kinds[number] = kind = 1
            # and matched before anything is merged
            score = 0.0
        if kind not in (UNKNOWN, CONTROL, BYTE, UNUSED):
            pieces[token] = 0.0 if kind == USER_DEFINED else score
    prefix = bool(gguf.fields.get("tokenizer.ggml.add_space_prefix", True))
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    letters: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        letters.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = special_token(gguf, "unknown_token_id")
    merges = [list(merge) for merge in merges_from_scores(pieces)]
    prepend = {"type": "Prepend", "prepend": BLANK}
    return document(
        bpe(_vocab(tokens, kinds), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
        _added(tokens, kinds),
        normalizer={"type": "Sequence", "normalizers": [prepend, blanks]} if prefix else blanks,
        pre_tokenizer=None,
        post_processor=_post_processor(gguf),
        decoder={"type": "Sequence", "decoders": letters},
    )


def _tokens(gguf: GgufFile) -> tuple[list[str], list[int]]:
    """Return tokens and their kinds; errors where they do not belong together."""
    tokens = list(gguf.field("tokenizer.ggml.tokens"))
    kinds = list(gguf.fields.get("tokenizer.ggml.token_type", [1] * len(tokens)))
    if len(kinds) != len(tokens):
        raise UserError(f"{gguf.path}: {len(kinds)} token types for {len(tokens)} tokens")
    return tokens, kinds


def _vocab(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    # names that fill the vocabulary up to the embedding's rows are no tokens of the family's own tokenizer
    return {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if not (kind == UNUSED and re.fullmatch(r"\[PAD\d+\]", token))
    }


def _added(tokens: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    """List special tokens, and those that text gives whole before it is split."""
    return [
        added_token(number, token, special=kind in (CONTROL, UNKNOWN))
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def _post_processor(gguf: GgufFile) -> dict[str, Any] | None:
    """Return the step that adds BOS and EOS around a text, as the file says; None where it adds none."""
    around: dict[str, list[dict[str, Any]]] = {}
    used: dict[str, Any] = {}
    tokens = gguf.field("tokenizer.ggml.tokens")
    for role in ("bos", "eos"):
        around[role] = []
        name = special_token(gguf, f"{role}_token_id") if adds(gguf, role) else None
        if name is not None:
            around[role] = [{"id": name}]
            used[name] = {"id": name, "ids": [tokens.index(name)], "tokens": [name]}
    if not used:
        return None

    def piece(part: str, number: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": part, "type_id": number}}
        specials = {role: [{"SpecialToken": {**one, "type_id": number}} for one in around[role]] for role in around}
        return [*specials["bos"], text, *specials["eos"]]

    return {
        "type": "TemplateProcessing",
        "single": piece("A", 0),
        "pair": [*piece("A", 0), *piece("B", 1)],
        "special_tokens": used,
    }
