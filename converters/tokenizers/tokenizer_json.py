"""The parts of a ``tokenizer.json``, for tokenizers that are made of other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Step = dict[str, Any]


def document(
    model: Step,
    added_tokens: Sequence[Step],
    *,
    pre_tokenizer: Step | None,
    decoder: Step,
    normalizer: Step | None = None,
    post_processor: Step | None = None,
) -> dict[str, Any]:
    """Return the whole content of a ``tokenizer.json``."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added_tokens),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }


def bpe(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], **settings: Any) -> Step:
    """Return a model of byte pair encoding.

    Args:
        vocab: id of each token.
        merges: the pairs that are joined, the first to be done first.
        settings: keys of the model that are not as GPT-2 has them.
    """
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": list(merges),
        **settings,
    }


def added_token(number: int, content: str, *, special: bool) -> Step:
    """Return a token that is found in a text before it is split, exactly as it is written."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **flags, "special": special}


def sequence(steps: Sequence[Step]) -> Step:
    """Return the step that splits as all of these do, one after the other."""
    return {"type": "Sequence", "pretokenizers": list(steps)}


def byte_level(*, use_regex: bool) -> Step:
    """Return the step from bytes to GPT-2's letters; with ``use_regex`` it splits at GPT-2's pattern first."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split_at(pattern: str) -> Step:
    """Return the step that makes each match of a regular expression a piece, and what lies between matches."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
