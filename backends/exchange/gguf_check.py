"""What is checked when a GGUF model is converted: that it predicts a text, and that its token ids are the file's.

Both are computed from what lies on the disk: the perplexity with numpy (:mod:`backends.exchange.forward`), the ids by a
second, plain tokenizer that knows the file's own data alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.exchange.forward import mean_nll
from backends.weights.files import MODEL_CONFIG
from backends.weights.rotary import halves_from_pairs, pairs_from_halves
from backends.weights.safetensors_files import Tensors, open_tensors
from converters.common.errors import UserError
from converters.common.gguf_file import GgufFile
from converters.common.reader import read_json
from converters.tokenizers.base import Tokenizer
from converters.tokenizers.gguf_vocabulary import adds
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.plain_bpe import plain_ids

# plain English of its own, so that no model has seen it and any that knows the language predicts it
PASSAGE = (
    "A lighthouse keeper named Ruth counted the ships that passed on a clear evening. By nine o'clock she had seen 17 "
    "of them, 12 with white lights and 5 with red ones.\n\n"
    '  "The wind will turn before morning," she said, and wrote the number into her book.\n'
    "\tHer brother asked whether the harbour would open again in 2 or 3 days; nobody could say. Paper cost 4.50 a ream "
    "that year, about 30 % more than before."
)
# what tokenizers disagree on: digits, blanks, line ends, contractions, other scripts, signs, characters of four bytes
ODD_TEXT = "  1\n 3\r\n\tx=12345.678  don't WE'LL  naïve café 计算 １２³ ½ ... !!  ελληνικά\n\n\n   end 🙂 "
# the other order of q and k is the right one if it predicts this much better, in nats a token
CLEARLY_BETTER = math.log(1.5)


@dataclass(frozen=True)
class GgufCheck:
    """What a converted model was found to be.

    Attributes:
        perplexity: on :data:`PASSAGE`.
        tokens: of the passage.
        ids: number of token ids that are equal to those of the file's own data.
    """

    perplexity: float
    tokens: int
    ids: int

    def as_text(self) -> str:
        """What was checked, in a line."""
        return (
            f"checked: perplexity {self.perplexity:.2f} on a passage of {self.tokens} tokens; {self.ids} token ids are "
            "those of the file's own data"
        )


def check_conversion(gguf: GgufFile, folder: Path, *, own_tokenizer: bool) -> GgufCheck:
    """Check a model directory against the GGUF file that it came from.

    Args:
        gguf: the file.
        folder: what was made of it.
        own_tokenizer: the tokenizer is made of the file's data, and not another that the user named.

    Raises:
        UserError: its token ids are others, or it predicts no better than guessing.
    """
    tokenizer = load_tokenizer(folder)
    checked = check_ids(gguf, tokenizer) if own_tokenizer else 0
    ids = tokenizer.encode_batch([PASSAGE])[0]
    if tokenizer.bos_id is not None and adds(gguf, "bos"):
        ids = [tokenizer.bos_id, *ids]
    nll = _sane_nll(gguf, open_tensors(folder), read_json(folder / MODEL_CONFIG), ids)
    return GgufCheck(math.exp(nll), len(ids), checked)


def check_ids(gguf: GgufFile, tokenizer: Tokenizer) -> int:
    """Compare ids with those that the file's own data give, and return how many were compared.

    Raises:
        UserError: they differ.
    """
    texts = [PASSAGE, ODD_TEXT, "  1", "\n 3", "a  b"]
    for text, found in zip(texts, tokenizer.encode_batch(texts), strict=True):
        wanted = plain_ids(gguf, text)
        if found != wanted:
            at = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), 0)
            raise UserError(
                f"{gguf.path}: the tokenizer made of it gives other ids than its data: {text[:40]!r} …, token "
                f"{at + 1}: {found[at : at + 3]} and {wanted[at : at + 3]}; please report this file"
            )
    return sum(len(found) for found in tokenizer.encode_batch(texts))


def _sane_nll(gguf: GgufFile, tensors: Tensors, config: Mapping[str, Any], ids: list[int]) -> float:
    nll = mean_nll(tensors, config, ids)
    how = "--no-check converts it all the same"
    # another order of q and k often still writes language, only worse: it is compared, not judged
    other = mean_nll(_Reordered(tensors, config), config, ids)
    if other < nll - CLEARLY_BETTER:
        raise UserError(
            f"{gguf.path}: perplexity {math.exp(nll):.4g} on the shipped passage, and {math.exp(other):.4g} with the "
            f"rows of q and k in the other rotary order: the file was not written as its architecture is; {how}"
        )
    vocab = config["vocab_size"]
    # twice: a model of random weights guesses, which is no damage; "not <=" refuses a NaN, too
    if not nll <= math.log(2 * vocab):
        raise UserError(
            f"{gguf.path}: perplexity {math.exp(min(nll, 700)):.4g} on the shipped passage, where guessing has "
            f"{vocab}: the weights are damaged, or mean something else; {how}"
        )
    return nll


class _Reordered(Tensors):
    """The same weights with the rows of q and k in the other order: wrong, unless the conversion was."""

    def __init__(self, tensors: Tensors, config: Mapping[str, Any]) -> None:
        super().__init__(tensors.path, tensors.entries, {})
        self.read_as_it_is = tensors.read
        # what a reader that knows no Llama would have left, and what one that knows no other would have made
        self.turn: Callable[[np.ndarray, int], np.ndarray] = (
            pairs_from_halves if config["model_type"] == "llama" else halves_from_pairs
        )
        self.heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}

    def read(self, name: str) -> np.ndarray:
        values = self.read_as_it_is(name)
        heads = self.heads.get(name.split(".")[-2])
        return values if heads is None else self.turn(values, heads)
