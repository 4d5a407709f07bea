"""Text to ids and back, read from files, without transformers.

What people wrote is plain text here: the name of a special token inside it never becomes that token. Special tokens are
asked for by name (`Tokenizer.special_id`), and templates say where they stand.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.common.errors import UserError, did_you_mean
from converters.common.files import atomic
from converters.common.reader import read_json
from converters.text.chat_template import SpecialToken

Place = Literal["first", "after_special", "inside"]

CHAT_TEMPLATE = "chat_template.jinja"

# texts that are tokenised at a time: enough to keep threads busy, few enough that their lists of ids stay small
_CHUNK = 2000


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        bos_id: id of the token that opens a row; None where the family has none (Qwen) or writes none (SmolLM2).
        eos_id: id of the token that ends a text.
        pad_id: id that fills up short rows; never ``eos_id``.
        unk_id: id of what the vocabulary cannot spell; None where every byte has a token.
        vocab_size: one more than the largest id.
        source: the file it was read from.
        specials: every special token by name.
    """

    source: Path
    bos_id: int | None
    eos_id: int
    pad_id: int
    unk_id: int | None
    vocab_size: int
    specials: dict[str, int]

    def encode_flat(self, texts: Sequence[str], place: Place = "first") -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Tokenise plain texts.

        Args:
            texts: what to tokenise; names of special tokens in them are plain text.
            place: where the texts stand in their rows. It matters to tokenizers that put a space before the first word
                (SentencePiece): a ``first`` text gets the space, one ``after_special`` gets it if the tokenizer's own
                rule says so, and one ``inside``, right after other text, never does.

        Returns:
            The ids of all texts end to end, int32 [t], and the number of ids of each text, int64 [n].

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

    @abstractmethod
    def _encode_chunks(self, chunks: list[list[str]], place: Place) -> Iterator[list[list[int]]]:
        """Tokenise each chunk; return its ids, a list a text."""

    def preload(self) -> None:  # noqa: B027 - most have nothing to load later
        """Read now what is otherwise read at first use, so that forked processes share it."""

    @abstractmethod
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: the ids.
            skip_special: leave out special tokens instead of writing their names.
        """

    @abstractmethod
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write what `load_tokenizer` and stock transformers (``AutoTokenizer``) read into a directory."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 over what determines ids: vocabulary, merges, splitting, special tokens, BOS and EOS."""

    @abstractmethod
    def token_name(self, number: int | None) -> str:
        """Return the name of a token; empty for None."""

    @property
    @abstractmethod
    def named_tokens(self) -> dict[str, str]:
        """What a chat template calls ``bos_token``, ``eos_token`` and so on; a BOS that no row opens with included."""

    @property
    @abstractmethod
    def chat_templates(self) -> dict[str, str]:
        """The chat templates that its authors publish with it, by name; a single one is called ``default``.

        Raises:
            UserError: a template cannot be read.
        """

    def special_tokens(self) -> list[SpecialToken]:
        """Return the special tokens as they are found in a text, those with a role included."""
        return [SpecialToken(name) for name in dict.fromkeys([*self.specials, *self.named_tokens.values()])]

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


def read_config(directory: Path) -> dict[str, Any]:
    """Read ``tokenizer_config.json`` over the older ``special_tokens_map.json``; empty where there is neither."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            value = read_json(directory / name)
            if not isinstance(value, dict):
                raise UserError(f"{directory / name}: a JSON object is expected")
            config.update(value)
    return config


def read_chat_templates(config: dict[str, Any], folder: Path | None, source: Path) -> dict[str, str]:
    """Return chat templates by name, as transformers finds them; a single one is called ``default``.

    Args:
        config: content of ``tokenizer_config.json``.
        folder: where template files lie; they come before the configuration. None: there are none.
        source: the tokenizer, for messages.

    Raises:
        UserError: a template cannot be read.
    """
    sources: dict[str, str] = {}
    given = config.get("chat_template")
    for one in given if isinstance(given, list) else [] if given is None else [{"name": "default", "template": given}]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("name", "template")):
            raise UserError(f"{source}: chat_template: a text, or a list of name and template, is expected")
        sources[one["name"]] = one["template"]
    files = {}
    if folder is not None:
        files = {"default": folder / CHAT_TEMPLATE}
        files |= {file.stem: file for file in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    for name, file in files.items():
        if file.is_file():
            try:
                sources[name] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: cannot be read ({error})") from error
    return sources


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all; a copy onto itself does nothing."""
    if target.exists() and target.samefile(source):
        return
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
