"""A tiktoken vocabulary as a ``tokenizer.json``, for programs that read only that."""

from __future__ import annotations

from typing import Any


def converted(ranks: dict[bytes, int], specials: dict[str, int], pattern: str) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that gives the same ids.

    tiktoken merges the pair whose union has the lowest rank. A ``tokenizer.json`` lists pairs in order of priority: so for
    each token, in order of rank, every way to cut it into two tokens. A piece of text that is a token as it stands is
    taken whole by both (``ignore_merges``).

    Args:
        ranks: ordinary tokens, as bytes, and their ids.
        specials: special tokens by name.
        pattern: the regular expression that splits text into pieces.
    """
    letters = _byte_letters()
    spelled = {token: "".join([letters[byte] for byte in token]) for token in ranks}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        cuts.sort(key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
        merges += [[spelled[left], spelled[right]] for left, right in cuts]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelled[token]: i for token, i in ranks.items()},
            "merges": merges,
        },
    }


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level vocabularies (the table of GPT-2)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
