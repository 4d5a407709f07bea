"""The small base's tokenizer: byte-level BPE where every digit and every sign stands alone.

Digits alone, because a model cannot add columns that it cannot see; signs alone, so that a step has the same number
of tokens whatever its digits are. The special tokens carry Llama 3's names, so that its templates apply. With
``digits="groups"`` digits come in groups of up to three from the left, as Llama 3 takes them, each of them one token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from converters.common.files import write_json

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_2|>",
)
# the pad is a reserved token: padding must differ from EOS, which is learned
BOS, EOS, PAD = SPECIAL[:3]
DIGITS = {"one": r"\p{N}", "groups": r"\p{N}{1,3}"}
"""What of a number is one token."""
OFTEN = 2000


def train_tokenizer(texts: Iterable[str], vocab_size: int, digits: str = "one") -> Any:
    """Train on ``texts`` and return a ``tokenizers.Tokenizer`` whose ids 0–7 are the special tokens.

    Args:
        texts: what its words are made from.
        vocab_size: tokens; groups of digits alone need 1,110 of them.
        digits: a key of ``DIGITS``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # a word with the space before it, digits, and every other character on its own
            pre_tokenizers.Split(Regex(rf" ?\p{{L}}+|{DIGITS[digits]}|\s|[^\s\p{{L}}\p{{N}}]"), behavior="isolated"),
            # use_regex off: this step only spells bytes as letters, the split is done above
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        # all 256 bytes, so that any text can be spelled
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    if digits == "groups":
        # so often that every group is a token before any rare word is
        groups = (f"{number:0{width}d}" for width in (2, 3) for number in range(10**width))
        texts = chain(texts, (group for group in groups for _ in range(OFTEN)))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write ``tokenizer.json`` and the ``tokenizer_config.json`` that stock transformers reads."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "tokenizer.json", json.loads(tokenizer.to_str()))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        # transformers would otherwise remove spaces before punctuation when it decodes
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    write_json(directory / "tokenizer_config.json", config)
