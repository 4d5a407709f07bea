"""Tokenizers read from files, without transformers: Hugging Face ``tokenizer.json`` and Llama-3's ``tokenizer.model``.

What people wrote is plain text here: the name of a special token inside it never becomes that token. Special tokens are
asked for by name (`Tokenizer.special_id`), and templates say where they stand.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.cli import UsageError, UserError, did_you_mean, say
from converters.files import atomic, read_json, sha256_file, sha256_text, write_json
from converters.template import special_names

_CHUNK = 2000

Place = Literal["first", "after_special", "inside"]

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


class Tokenizer:
    """Text to ids and back.

    Attributes:
        bos_id: id of the token that opens a row; None where the family has none (Qwen).
        eos_id: id of the token that ends a text.
        pad_id: id that fills up short rows; never ``eos_id``.
        unk_id: id of what the vocabulary cannot spell; None where every byte has a token.
        vocab_size: one more than the largest id.
        source: the file it was read from.
    """

    source: Path
    bos_id: int | None
    eos_id: int
    pad_id: int
    unk_id: int | None
    vocab_size: int
    # every special token by name
    specials: dict[str, int]

    def encode_flat(self, texts: Sequence[str], place: Place = "first") -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Tokenise plain texts; return their ids end to end, int32 [t], and the number of each, int64 [n].

        Args:
            texts: what to tokenise; names of special tokens in them are plain text.
            place: where the texts stand in their rows. A tokenizer that puts a space before the first word
                (SentencePiece) does so to a ``first`` text, to one ``after_special`` as its own rule is, and never to one
                ``inside``, right after other text.

        Raises:
            UserError: a text would hold a special token all the same.
        """
        chunks = [list(texts[i : i + _CHUNK]) for i in range(0, len(texts), _CHUNK)]
        encoded = self._encode_chunks(chunks, place)
        ids = [np.empty(0, dtype=np.int32)]
        sizes = [np.empty(0, dtype=np.int64)]
        for chunk in encoded:
            lengths = np.fromiter(map(len, chunk), np.int64, len(chunk))
            sizes.append(lengths)
            ids.append(np.fromiter(chain.from_iterable(chunk), np.int32, int(lengths.sum())))
        return np.concatenate(ids), np.concatenate(sizes)

    def encode_batch(self, texts: Sequence[str], place: Place = "first") -> list[list[int]]:
        """Tokenise plain texts, as `encode_flat`; return one list of ids each."""
        ids, sizes = self.encode_flat(texts, place)
        flat = iter(ids.tolist())
        return [list(islice(flat, size)) for size in sizes.tolist()]

    def _encode_chunks(self, chunks: list[list[str]], place: Place) -> Iterator[list[list[int]]]:
        raise NotImplementedError

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write what `load_tokenizer` and stock transformers (``AutoTokenizer``) read into a directory."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the files that make up this tokenizer; `save` copies them."""
        raise NotImplementedError

    @cached_property
    def hash(self) -> str:
        """SHA-256 over what determines ids: vocabulary, merges, splitting, special tokens, BOS and EOS."""
        raise NotImplementedError

    def special_id(self, name: str) -> int:
        """Return the id of a special token.

        Raises:
            UserError: this tokenizer has no special token of that name.
        """
        if name not in self.specials:
            raise UserError(
                f"{self.source}: there is no special token {name!r}{did_you_mean(name, self.specials)}; "
                "another template, or the tokenizer of an instruction-tuned model, is needed"
            )
        return self.specials[name]


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer from a directory, a ``tokenizer.json``, or Llama-3's ``tokenizer.model``.

    Raises:
        UsageError: there is no tokenizer at ``path``.
        UserError: the file is of a kind that is not supported, or names no EOS or pad.
    """
    source = Path(path)
    if source.is_dir():
        model, fast = source / "tokenizer.model", source / "tokenizer.json"
        if model.is_file() and (not fast.is_file() or _config(source).get("converted_from") == model.name):
            return TiktokenTokenizer(model)
        if not fast.is_file():
            raise UsageError(f"{source}: holds neither tokenizer.json nor tokenizer.model")
        return JsonTokenizer(fast)
    if not source.is_file():
        raise UsageError(f"{source}: no such file or directory; a tokenizer's is expected")
    return JsonTokenizer(source) if source.suffix == ".json" else TiktokenTokenizer(source)


class TiktokenTokenizer(Tokenizer):
    """Llama-3's ``tokenizer.model``: ranked byte pairs in base64, its split pattern, its 256 special tokens."""

    unk_id = None

    def __init__(self, path: Path):
        import tiktoken

        self.source = path
        self.ranks = _read_ranks(path)
        first = len(self.ranks)
        self.specials = {name: first + i for i, name in enumerate(LLAMA3_SPECIAL)}
        self.bos_id, self.eos_id = first, first + 1
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

    @cached_property
    def hash(self) -> str:
        """See `Tokenizer.hash`."""
        return sha256_text(json.dumps([sha256_file(self.source), LLAMA3_PATTERN, self.specials]))

    def files(self) -> list[Path]:
        """See `Tokenizer.files`."""
        return [self.source]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Copy ``tokenizer.model`` and write the equal ``tokenizer.json`` with its configuration (about 2 s, 9 MB)."""
        from mindrecord.tiktoken_json import converted

        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        _copy(self.source, target / "tokenizer.model")
        text = json.dumps(converted(self.ranks, self.specials, LLAMA3_PATTERN), ensure_ascii=False)
        with atomic(target / "tokenizer.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
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


class JsonTokenizer(Tokenizer):
    """A Hugging Face ``tokenizer.json``, with ``tokenizer_config.json`` beside it where there is one."""

    def __init__(self, path: Path):
        self.source = path
        self._config = _config(path.parent)
        data = read_json(path)
        if not isinstance(data, dict) or "model" not in data:
            raise UserError(f"{path}: not a tokenizer.json (it has no 'model')")
        added = data.get("added_tokens") or []
        # a template's tokens are special here whatever the file says, so that no text can spell them
        for token in added:
            token["special"] = token["special"] or token["content"] in special_names()
        self.specials = {token["content"]: token["id"] for token in added if token["special"]}
        vocab = _vocab(data["model"])
        self._ids = {**vocab, **{token["content"]: token["id"] for token in added}}
        self.vocab_size = max(self._ids.values()) + 1
        unk = data["model"].get("unk_token") or _token_name(self._config.get("unk_token"))
        self.unk_id = self._ids.get(unk) if unk else None
        self.bos_id = self._named("bos_token")
        eos = self._named("eos_token")
        if eos is None:
            raise UserError(f"{path}: no eos_token; name one in {path.with_name('tokenizer_config.json')}")
        self.eos_id = eos
        self.pad_id = self._choose_pad()
        self._data = _plain(data, set(self.specials))
        self._prefix_first_only = _prefix_first_only(self._data)

    def encode_flat(self, texts: Sequence[str], place: Place = "first") -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """See `Tokenizer.encode_flat`."""
        ids, sizes = super().encode_flat(texts, place)
        spelled = self._forbidden[ids]
        if spelled.any():
            at = int(spelled.argmax())
            text = texts[int(np.searchsorted(np.cumsum(sizes), at, side="right"))]
            name = self._outer.id_to_token(int(ids[at]))
            raise UserError(f"{self.source}: the text {text[:60]!r} spells the special token {name}; rewrite it")
        return ids, sizes

    def _encode_chunks(self, chunks: list[list[str]], place: Place) -> Iterator[list[list[int]]]:
        bare = place == "inside" or (place == "after_special" and self._prefix_first_only)
        encoder = self._inner if bare else self._outer
        for chunk in chunks:
            try:
                encodings = encoder.encode_batch_fast(chunk, add_special_tokens=False)
            except (TypeError, UnicodeEncodeError) as error:
                raise UserError(f"{self.source}: a text is not valid Unicode ({error})") from error
            yield [encoding.ids for encoding in encodings]

    @cached_property
    def _forbidden(self) -> NDArray[np.bool_]:
        """Ids that no plain text may give, as a table."""
        table = np.zeros(self.vocab_size, dtype=bool)
        table[[i for i in self.specials.values() if i != self.unk_id]] = True
        return table

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """See `Tokenizer.decode`."""
        return self._outer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    @cached_property
    def hash(self) -> str:
        """See `Tokenizer.hash`."""
        parts = {key: self._data.get(key) for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
        return sha256_text(json.dumps([parts, self.bos_id, self.eos_id], ensure_ascii=False, sort_keys=True))

    def files(self) -> list[Path]:
        """See `Tokenizer.files`."""
        names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")
        beside = [self.source.with_name(name) for name in names[1:]]
        return [self.source, *(path for path in beside if path.is_file())]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Copy the files; complete ``tokenizer_config.json`` with class, BOS, EOS and a pad that is not EOS."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        for path in self.files():
            _copy(path, target / ("tokenizer.json" if path == self.source else path.name))
        config = dict(self._config)
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        name_of = {i: name for name, i in self._ids.items()}
        if self.bos_id is not None:
            config["bos_token"] = name_of[self.bos_id]
        config["eos_token"], config["pad_token"] = name_of[self.eos_id], name_of[self.pad_id]
        write_json(target / "tokenizer_config.json", config)

    @cached_property
    def _outer(self) -> Any:
        return _build(self.source, self._data)

    @cached_property
    def _inner(self) -> Any:
        bare = _without_prefix(self._data)
        return self._outer if bare == self._data else _build(self.source, bare)

    def _named(self, key: str) -> int | None:
        """Return the id of a token that the configuration, or else a well-known name, gives."""
        name = _token_name(self._config.get(key))
        if name is not None:
            if name not in self._ids:
                raise UserError(f"{self.source}: {key} is {name!r}, which is not in the vocabulary")
            return self._ids[name]
        if key in self._config:
            return None
        return next((self._ids[name] for name in _WELL_KNOWN[key] if name in self._ids), None)

    def _choose_pad(self) -> int:
        """Return the declared pad unless it is EOS; then a token for padding, unk, or a reserved one."""
        declared = self._named("pad_token")
        if declared is not None and declared != self.eos_id:
            return declared
        free = {name: i for name, i in self.specials.items() if i not in (self.eos_id, self.bos_id, self.unk_id)}
        free = {name: i for name, i in free.items() if name not in special_names()}
        padding = [i for name, i in free.items() if "pad" in name.lower()]
        reserved = [i for name, i in free.items() if "reserved" in name.lower() or "unused" in name.lower()]
        unknown = [self.unk_id] if self.unk_id is not None and self.unk_id != self.eos_id else []
        choice = next(iter([*padding, *unknown, *reserved]), None)
        if choice is None:
            raise UserError(
                f"{self.source}: no pad token other than EOS, and no unknown or reserved one to take its place; "
                "name a pad_token in tokenizer_config.json"
            )
        if declared is not None:
            name = next(name for name, i in self._ids.items() if i == choice)
            say(f"note: {self.source}: pad is declared to be EOS; {name} (id {choice}) pads instead")
        return choice


_WELL_KNOWN = {
    "bos_token": ("<|begin_of_text|>", "<s>", "<bos>"),
    "eos_token": ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>"),
    "pad_token": ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"),
}


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Read a tiktoken file: one ``base64 rank`` a line, ranks 0, 1, 2, …"""
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
        raise UserError(f"{path}: ranks are not 0 to {max(len(ranks) - 1, 0)}, each once: the file is cut off or damaged")
    return ranks


def _config(directory: Path) -> dict[str, Any]:
    """Read ``tokenizer_config.json``, or the older ``special_tokens_map.json``; empty where there is neither."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            value = read_json(directory / name)
            if not isinstance(value, dict):
                raise UserError(f"{directory / name}: a JSON object is expected")
            return value
    return {}


def _token_name(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def _vocab(model: dict[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab") or {}
    # Unigram keeps a list of [piece, score]
    return {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab


def _plain(data: dict[str, Any], specials: set[str]) -> dict[str, Any]:
    """Leave only what turns plain text into ids; no merge may build a special token's name."""
    model = dict(data["model"])
    if "merges" in model:
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [[left, right] for left, right in pairs if left + right not in specials]
    return {**data, "model": model, "truncation": None, "padding": None, "post_processor": None}


def _build(source: Path, data: dict[str, Any]) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"{source}: the tokenizers library cannot read it ({error})") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _steps(data: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> dict[str, Any]:
    """Apply ``change`` to each normalizer and pre-tokenizer, in sequences too; None takes a step out."""

    def walk(step: dict[str, Any] | None) -> dict[str, Any] | None:
        if step is None or step.get("type") != "Sequence":
            return step and change(step)
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return {**step, key: [new for old in step[key] if (new := walk(old)) is not None]}

    return {**data, **{key: walk(data.get(key)) for key in ("normalizer", "pre_tokenizer")}}


def _without_prefix(data: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer without the space that it puts before a first word."""

    def change(step: dict[str, Any]) -> dict[str, Any] | None:
        if step["type"] == "Prepend":
            return None
        if step["type"] == "Metaspace" and _scheme(step) != "never":
            kept = {key: value for key, value in step.items() if key != "add_prefix_space"}
            return {**kept, "prepend_scheme": "never"}
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return {**step, "add_prefix_space": False}
        return step

    return _steps(data, change)


def _prefix_first_only(data: dict[str, Any]) -> bool:
    """Tell whether the space comes before the first word of a row only, not after each special token."""
    schemes: list[str] = []

    def look(step: dict[str, Any]) -> dict[str, Any]:
        if step["type"] == "Metaspace":
            schemes.append(_scheme(step))
        return step

    _steps(data, look)
    return "first" in schemes


def _scheme(step: dict[str, Any]) -> str:
    return step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
