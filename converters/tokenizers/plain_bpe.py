"""Token ids of a text by a GGUF file's own data alone: the second way, with which conversions are checked.

Splitting uses the ``regex`` package and merging a loop over neighbours, as llama.cpp does it; nothing is shared with
the ``tokenizer.json`` that is checked but the table of patterns.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

from converters.common.gguf_file import GgufFile
from converters.tokenizers.gguf_vocabulary import BLANK, USER_DEFINED, special_token, split_of
from converters.tokenizers.tiktoken_file import byte_letters


def plain_ids(gguf: GgufFile, text: str) -> list[int]:
    """Return the ids of a text without BOS and EOS; names of special tokens in it are plain text.

    Args:
        gguf: the file.
        text: of at least one character.

    Raises:
        UserError: the file's tokenizer is of a kind that is not known here.
    """
    tokens, kinds = gguf.field("tokenizer.ggml.tokens"), gguf.field("tokenizer.ggml.token_type")
    number = {token: i for i, token in reversed(list(enumerate(tokens)))}
    # matched in the text itself, the longest first
    whole = sorted((token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED), key=len)[::-1]
    ids: list[int] = []
    sentencepiece = gguf.fields["tokenizer.ggml.model"] == "llama"
    if sentencepiece and gguf.fields.get("tokenizer.ggml.add_space_prefix", True):
        text = f" {text}"
    for piece, is_token in _around(text, whole):
        if is_token:
            ids.append(number[piece])
        else:
            ids += _sentencepiece(gguf, piece, number) if sentencepiece else _byte_level(gguf, piece, number)
    return ids


def _around(text: str, whole: list[str]) -> Iterator[tuple[str, bool]]:
    """Cut a text at the tokens that are taken whole; yield pieces, and whether each is such a token."""
    import regex

    if not whole:
        yield text, False
        return
    for at, piece in enumerate(regex.split(f"({'|'.join(map(regex.escape, whole))})", text)):
        if piece:
            yield piece, at % 2 == 1


def _byte_level(gguf: GgufFile, text: str, number: dict[str, int]) -> list[int]:
    import regex

    split, letters = split_of(gguf), byte_letters()
    ranks = {merge: rank for rank, merge in enumerate(gguf.field("tokenizer.ggml.merges"))}
    pieces = [unicodedata.normalize("NFC", text) if split.nfc else text]
    for pattern in split.patterns:
        # what matches, and what lies between
        pieces = [part for piece in pieces for part in regex.split(f"({pattern})", piece) if part]
    ids: list[int] = []
    for piece in pieces:
        spelled = "".join(letters[byte] for byte in piece.encode())
        if split.ignore_merges and spelled in number:
            ids.append(number[spelled])
            continue
        merged = _merged(list(spelled), lambda left, right: ranks.get(f"{left} {right}"))
        ids += [number[token] for token in merged]
    return ids


def _sentencepiece(gguf: GgufFile, text: str, number: dict[str, int]) -> list[int]:
    scores = gguf.field("tokenizer.ggml.scores")

    def rank(left: str, right: str) -> float | None:
        found = number.get(left + right)
        return None if found is None else -scores[found]

    unknown = number.get(special_token(gguf, "unknown_token_id") or "")
    ids: list[int] = []
    for token in _merged(list(text.replace(" ", BLANK)), rank):
        names = [token] if token in number else [f"<0x{byte:02X}>" for byte in token.encode()]
        # a vocabulary without single bytes has one token for all that it cannot spell, however long
        found = [number.get(name, unknown) for name in names]
        ids += [one for one in found if one is not None and not (one == unknown and ids[-1:] == [unknown])]
    return ids


def _merged(symbols: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Join the two neighbours of the lowest rank, the first of equal ones, until no two can be joined."""
    while True:
        ranked = [
            (found, at) for at in range(len(symbols) - 1) if (found := rank(symbols[at], symbols[at + 1])) is not None
        ]
        if not ranked:
            return symbols
        _, at = min(ranked)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
