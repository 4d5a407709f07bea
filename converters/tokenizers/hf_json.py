"""Hugging Face's ``tokenizer.json``, read with the tokenizers library."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.common.console import say
from converters.common.errors import UserError
from converters.common.files import sha256_text, write_json
from converters.common.reader import read_json
from converters.text.chat_template import SpecialToken
from converters.text.template import opening_names, special_names
from converters.tokenizers.base import Place, Tokenizer, copy_file, read_chat_templates, read_config


class JsonTokenizer(Tokenizer):
    """A Hugging Face ``tokenizer.json``, with ``tokenizer_config.json`` beside it where there is one.

    Args:
        path: the ``tokenizer.json``; or the file that ``content`` and ``config`` were made from.
        content: what a ``tokenizer.json`` would hold; None reads ``path``.
        config: what the ``tokenizer_config.json`` beside it would hold.

    Raises:
        UserError: the file is no ``tokenizer.json``, has no EOS or one that opens turns, or has no token to pad with.
    """

    def __init__(self, path: Path, content: dict[str, Any] | None = None, config: dict[str, Any] | None = None):
        self.source = path
        self._from_file = content is None
        self._config = read_config(path.parent) if config is None else config
        data = read_json(path) if content is None else content
        if not isinstance(data, dict) or "model" not in data:
            raise UserError(f"{path}: not a tokenizer.json (it has no 'model')")
        added = data.get("added_tokens") or []
        # a template's tokens are special here whatever the file says, so that no text can spell them
        flagged = [token for token in added if not token["special"] and token["content"] in special_names()]
        for token in flagged:
            token["special"] = True
        self.specials = {token["content"]: token["id"] for token in added if token["special"]}
        vocab = _vocab(data["model"])
        self._ids = {**vocab, **{token["content"]: token["id"] for token in added}}
        self.vocab_size = max(self._ids.values(), default=-1) + 1
        unk = data["model"].get("unk_token") or _token_name(self._config.get("unk_token"))
        self.unk_id = self._ids.get(unk) if unk else None
        self._name_of = {i: name for name, i in self._ids.items()}
        eos = self._named("eos_token")
        if eos is None:
            raise UserError(f"{path}: no eos_token; name one in {path.with_name('tokenizer_config.json')}")
        self.eos_id = eos
        self.bos_id = self._choose_bos()
        self.pad_id = self._choose_pad()
        self._data, removed = _without_spelling(data, set(self.specials))
        self._as_it_is = self._from_file and not flagged and not removed
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
        # only the first word of a row, or by some rules the first after a special token, gets a space
        bare = place == "inside" or (place == "after_special" and self._prefix_first_only)
        encoder = self._inner if bare else self._outer
        for chunk in chunks:
            try:
                # the fast call leaves out character offsets, which nobody needs here
                encodings = encoder.encode_batch_fast(chunk, add_special_tokens=False)
            # half of a surrogate pair has no UTF-8 form, which the library needs
            except (TypeError, UnicodeEncodeError) as error:
                raise UserError(f"{self.source}: a text is not valid Unicode ({error})") from error
            yield [encoding.ids for encoding in encodings]

    def preload(self) -> None:
        """See `Tokenizer.preload`."""
        _ = self._outer, self._inner

    @cached_property
    def _forbidden(self) -> NDArray[np.bool_]:
        """Ids that no plain text may give, as a table."""
        table = np.zeros(self.vocab_size, dtype=bool)
        # unk is what a text rightly gives where the vocabulary cannot spell it
        table[[i for i in self.specials.values() if i != self.unk_id]] = True
        return table

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """See `Tokenizer.decode`."""
        return self._outer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def token_name(self, number: int | None) -> str:
        """See `Tokenizer.token_name`."""
        return "" if number is None else self._name_of[number]

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """See `Tokenizer.named_tokens`."""
        found = {key: self._named(key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        return {key: self._name_of[i] for key, i in found.items() if i is not None}

    @property
    def chat_templates(self) -> dict[str, str]:
        """See `Tokenizer.chat_templates`."""
        return read_chat_templates(self._config, self.source.parent if self._from_file else None, self.source)

    def special_id(self, name: str) -> int:
        """See `Tokenizer.special_id`; a token with a role need not be marked as special in the file."""
        return self._ids[name] if name in self.named_tokens.values() else super().special_id(name)

    def special_tokens(self) -> list[SpecialToken]:
        """See `Tokenizer.special_tokens`."""
        flags = ("lstrip", "rstrip", "single_word")
        marked = {
            token["content"]: SpecialToken(token["content"], *(bool(token.get(flag)) for flag in flags))
            for token in self._data.get("added_tokens") or []
        }
        return [marked.get(one.name, one) for one in super().special_tokens()]

    @cached_property
    def hash(self) -> str:
        """See `Tokenizer.hash`."""
        parts = {key: self._data.get(key) for key in ("normalizer", "pre_tokenizer", "added_tokens")}
        # a newer library writes settings that an older one left out: one that is off is as good as absent
        model = {key: value for key, value in self._data["model"].items() if value not in (None, False, "")}
        merges = [f"{left} {right}" for left, right in _pairs(model.pop("merges", []))]
        return sha256_text(json.dumps([parts, model, merges, self.bos_id, self.eos_id], sort_keys=True))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Copy the files; complete ``tokenizer_config.json`` with class, BOS, EOS and a pad that is not EOS."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        if self._from_file:
            copy_file(self.source, target / "tokenizer.json")
            for name in ("tokenizer_config.json", "tokenizer.model", "chat_template.jinja"):
                if self.source.with_name(name).is_file():
                    copy_file(self.source.with_name(name), target / name)
        else:
            write_json(target / "tokenizer.json", self._data)
        config = dict(self._config)
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        if self.bos_id is not None:
            config["bos_token"] = self._name_of[self.bos_id]
        config["eos_token"], config["pad_token"] = self._name_of[self.eos_id], self._name_of[self.pad_id]
        write_json(target / "tokenizer_config.json", config)

    @cached_property
    def _outer(self) -> Any:
        if self._as_it_is:
            return _opened(self.source, lambda library: library.from_file(str(self.source)))
        return _opened(self.source, lambda library: library.from_str(json.dumps(self._data)))

    @cached_property
    def _inner(self) -> Any:
        steps = _without_prefix(self._data)
        if all(steps[key] == self._data.get(key) for key in steps):
            return self._outer
        return _opened(self.source, lambda library: library.from_str(json.dumps({**self._data, **steps})))

    def _named(self, key: str) -> int | None:
        """Return the id of a token that the configuration, or else a well-known name, gives."""
        name = _token_name(self._config.get(key))
        if name is not None:
            if name not in self._ids:
                raise UserError(f"{self.source}: {key} is {name!r}, which is not in the vocabulary")
            return self._ids[name]
        # null in the configuration: the family has no such token
        if key in self._config:
            return None
        # a tokenizer.json without a configuration beside it names neither BOS nor EOS
        return next((self._ids[name] for name in _WELL_KNOWN.get(key, ()) if name in self._ids), None)

    def _choose_bos(self) -> int | None:
        """Return the BOS, or None where no text of this model begins with one; check that EOS ends a text."""
        declared, eos = self._named("bos_token"), self._name_of[self.eos_id]
        if eos in opening_names():
            raise UserError(
                f"{self.source}: eos_token is {eos}, which opens a turn and ends none; "
                f"correct it in {self.source.with_name('tokenizer_config.json')}"
            )
        # some ChatML models name their turns' opening token, because a BOS had to be named
        if declared is None or self._config.get("add_bos_token") is False or self._name_of[declared] in opening_names():
            return None
        if declared == self.eos_id and self._config.get("add_bos_token") is None:
            say(f"note: {self.source}: BOS and EOS are both {eos}: rows open with the token that ends answers")
        return declared

    def _choose_pad(self) -> int:
        """Return the declared pad unless it is EOS; then a token for padding, unk, or a reserved one."""
        declared = self._named("pad_token")
        if declared is not None and declared != self.eos_id:
            return declared
        free = {name: i for name, i in self.specials.items() if i not in (self.eos_id, self.bos_id, self.unk_id)}
        # tokens that templates write must not pad as well
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
            name = self._name_of[choice]
            say(f"note: {self.source}: pad is declared to be EOS; {name} (id {choice}) pads instead")
        return choice


_WELL_KNOWN = {
    "bos_token": ("<|begin_of_text|>", "<s>", "<bos>"),
    "eos_token": ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>"),
    "pad_token": ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"),
}


def _token_name(value: Any) -> str | None:
    # a token may be written as an object with its flags
    return value.get("content") if isinstance(value, dict) else value


def _vocab(model: dict[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab") or {}
    # Unigram keeps a list of [piece, score]
    return {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab


def _pairs(merges: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield merges as pairs; older files write them as ``"left right"``."""
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _without_spelling(data: dict[str, Any], specials: set[str]) -> tuple[dict[str, Any], int]:
    """Take out merges that would build a special token's name from a text's letters; return how many those are."""
    model = data["model"]
    merges = model.get("merges") or []
    kept = [[left, right] for left, right in _pairs(merges) if left + right not in specials]
    if len(kept) == len(merges):
        return data, 0
    return {**data, "model": {**model, "merges": kept}}, len(merges) - len(kept)


def _opened(source: Path, read: Callable[[Any], Any]) -> Any:
    """Return the library's tokenizer, with nothing that would cut texts or see special tokens in them."""
    import tokenizers

    try:
        tokenizer = read(tokenizers.Tokenizer)
    except Exception as error:  # the library raises a bare Exception
        raise UserError(f"{source}: the tokenizers library cannot read it ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # the library then reads the name of a special token in a text as plain text
    tokenizer.encode_special_tokens = True
    return tokenizer


def _steps(data: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> dict[str, Any]:
    """Return normalizer and pre-tokenizer with ``change`` applied to each step of theirs; None takes a step out."""

    def walk(step: dict[str, Any] | None) -> dict[str, Any] | None:
        if step is None or step.get("type") != "Sequence":
            return step and change(step)
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return {**step, key: [new for old in step[key] if (new := walk(old)) is not None]}

    return {key: walk(data.get(key)) for key in ("normalizer", "pre_tokenizer")}


def _without_prefix(data: dict[str, Any]) -> dict[str, Any]:
    """Return normalizer and pre-tokenizer without the space that they put before a first word."""

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
    # files older than prepend_scheme have add_prefix_space instead
    return step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
