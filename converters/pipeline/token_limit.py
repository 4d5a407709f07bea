"""How many tokens a training row takes, for converters that choose what they write by it.

Only lengths are needed here, not ids: so this reads a tokenizer's file with the library that made it and counts. For
byte-level tokenizers (Llama 3, Qwen, the small base) the counts are those of training; one that puts a space before
words may be counted up to a token a segment too high, never too low.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from converters.common.errors import UsageError, UserError
from converters.common.shipped import locate_model
from converters.text.conversation import Conversation, Turn
from converters.text.template import get_template

# Llama 3's split pattern, as published with the model
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

CountTexts = Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class Limit:
    """The longest row allowed, in tokens of this tokenizer in this template; small enough to send to workers."""

    tokens: int
    tokenizer: Path
    template: str

    def lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of whole rows: question, answer, and what the template adds, BOS and EOS among it."""
        return row_lengths(pairs, self.template, token_counter(self.tokenizer))


def row_lengths(pairs: Sequence[tuple[str, str]], template: str, count: CountTexts) -> list[int]:
    """Tokens of the training rows of (question, answer) pairs, segment by segment as in training."""
    render = get_template(template).render
    codes: dict[str, int] = {}
    rows: list[tuple[int, list[int]]] = []
    for question, answer in pairs:
        segments = render(Conversation("", (Turn("user", question), Turn("assistant", answer))))
        texts = [codes.setdefault(segment.text, len(codes)) for segment in segments if not segment.special]
        rows.append((len(segments) - len(texts), texts))
    sizes = count(list(codes))
    return [specials + sum(sizes[code] for code in texts) for specials, texts in rows]


@lru_cache(maxsize=2)
def token_counter(tokenizer: Path) -> CountTexts:
    """Open a tokenizer: a directory, a ``tokenizer.json`` or Llama 3's ``tokenizer.model``.

    Raises:
        UsageError: there is none.
        UserError: the file cannot be read as one.
    """
    tokenizer, names = Path(locate_model(tokenizer)), ("tokenizer.json", "tokenizer.model")
    files = [tokenizer / name for name in names] if tokenizer.is_dir() else [tokenizer]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise UsageError(f"{tokenizer}: no tokenizer; a directory with {' or '.join(names)} is expected")
    try:
        return _json_counter(file) if file.suffix == ".json" else _tiktoken_counter(file)
    except Exception as error:  # tokenizers raises a bare Exception, tiktoken what its parsing runs into
        raise UserError(f"{file}: cannot be read as a tokenizer ({error})") from error


def _json_counter(file: Path) -> CountTexts:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: list[str]) -> list[int]:
        return [len(found) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return count


def _tiktoken_counter(file: Path) -> CountTexts:
    import tiktoken

    pairs = (line.split() for line in file.read_bytes().splitlines())
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    encoding = tiktoken.Encoding("lengths", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def count(texts: list[str]) -> list[int]:
        return [len(encoding.encode_ordinary(text)) for text in texts]

    return count
