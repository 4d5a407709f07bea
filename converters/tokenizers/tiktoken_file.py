"""Llama-3's genuine ``tokenizer.model``: a tiktoken file."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.common.errors import UserError
from converters.common.files import sha256_file, sha256_text, write_json, write_text
from converters.tokenizers.base import Place, Tokenizer, copy_file, read_chat_templates, read_config
from converters.tokenizers.tokenizer_json import added_token, bpe, byte_level, document, sequence, split_at

# Llama 3's split pattern, as published with the model
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# Llama 3's 256 special tokens, in the order of their ids after the ordinary ones
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
)


class TiktokenTokenizer(Tokenizer):
    """Llama-3's ``tokenizer.model``: ranked byte pairs in base64, its split pattern, its 256 special tokens.

    Args:
        path: the ``tokenizer.model``.

    Raises:
        UserError: the file is no tiktoken file, or is cut off.
    """

    unk_id = None

    def __init__(self, path: Path):
        import tiktoken

        self.source = path
        self.ranks = _read_ranks(path)
        first = len(self.ranks)
        self.specials = {name: first + i for i, name in enumerate(LLAMA3_SPECIAL)}
        self.bos_id, self.eos_id = first, first + 1
        # EOS must not pad, and no text or template gives a reserved token
        self.pad_id = self.specials["<|reserved_special_token_0|>"]
        self.vocab_size = first + len(LLAMA3_SPECIAL)
        self._encoding = tiktoken.Encoding(
            "llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=self.ranks, special_tokens=self.specials
        )

    def _encode_chunks(self, chunks: list[list[str]], place: Place) -> Iterator[list[list[int]]]:
        encode = self._encoding.encode_ordinary

        def encode_chunk(chunk: list[str]) -> list[list[int]]:
            return [encode(text) for text in chunk]

        # a thread takes a whole chunk: tiktoken's own batch call makes a task of each text, four times as slow
        if len(chunks) < 2:
            yield from map(encode_chunk, chunks)
        else:
            with ThreadPoolExecutor(_threads()) as pool:
                yield from pool.map(encode_chunk, chunks)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """See `Tokenizer.decode`."""
        wanted = [int(i) for i in ids]
        if skip_special:
            wanted = [i for i in wanted if i < len(self.ranks)]
        return self._encoding.decode(wanted, errors="replace")

    @property
    def named_tokens(self) -> dict[str, str]:
        """See `Tokenizer.named_tokens`."""
        return {"bos_token": LLAMA3_SPECIAL[0], "eos_token": LLAMA3_SPECIAL[1]}

    @property
    def chat_templates(self) -> dict[str, str]:
        """See `Tokenizer.chat_templates`."""
        return read_chat_templates(read_config(self.source.parent), self.source.parent, self.source)

    def token_name(self, number: int | None) -> str:
        """See `Tokenizer.token_name`."""
        return "" if number is None else self.decode([number], skip_special=False)

    @cached_property
    def hash(self) -> str:
        """See `Tokenizer.hash`."""
        return sha256_text(json.dumps([sha256_file(self.source), LLAMA3_PATTERN, self.specials]))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Copy ``tokenizer.model`` and write the equal ``tokenizer.json`` with its configuration (about 2 s, 9 MB)."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        copy_file(self.source, target / "tokenizer.model")
        text = json.dumps(converted(self.ranks, self.specials, LLAMA3_PATTERN), ensure_ascii=False)
        write_text(target / "tokenizer.json", text)
        name_of = {i: name for name, i in self.specials.items()}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": LLAMA3_SPECIAL[0],
            "eos_token": LLAMA3_SPECIAL[1],
            "pad_token": name_of[self.pad_id],
            "clean_up_tokenization_spaces": False,
            # load_tokenizer then takes the genuine file, which loads faster and gives the same ids
            "converted_from": "tokenizer.model",
        }
        write_json(target / "tokenizer_config.json", config)


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Read a tiktoken file: one ``base64 rank`` a line, the ranks counting up from 0."""
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        raise UserError(
            f"{path}: not a tiktoken file (a SentencePiece model?); give a directory with tokenizer.json, which "
            "transformers writes: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        ) from None
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"{path}: its {len(ranks)} ranks do not count up from 0: the file is cut off or damaged")
    return ranks


def converted(ranks: dict[bytes, int], specials: dict[str, int], pattern: str) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that gives the same ids.

    tiktoken merges the pair whose union has the lowest rank. A ``tokenizer.json`` lists pairs in order of priority: so
    for each token, in order of rank, every way to cut it into two tokens. A piece of text that is a token as it stands
    is taken whole by both (``ignore_merges``).

    Args:
        ranks: ordinary tokens, as bytes, and their ids.
        specials: special tokens by name.
        pattern: the regular expression that splits text into pieces.
    """
    letters = byte_letters()
    spelled = {token: "".join([letters[byte] for byte in token]) for token in ranks}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        cuts.sort(key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
        merges += [[spelled[left], spelled[right]] for left, right in cuts]
    vocab = {spelled[token]: i for token, i in ranks.items()}
    return document(
        bpe(vocab, merges, ignore_merges=True),
        [added_token(i, name, special=True) for name, i in specials.items()],
        pre_tokenizer=sequence([split_at(pattern), byte_level(use_regex=False)]),
        decoder=byte_level(use_regex=False),
    )


def byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level vocabularies (the table of GPT-2)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _threads() -> int:
    # the cores that this process may use, which can be fewer than the machine's
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
