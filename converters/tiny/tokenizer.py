"""The small base's tokenizer: byte-level BPE where every digit and every sign stands alone.

Digits alone, because a model cannot add columns that it cannot see; signs alone, so that a step has the same number
of tokens whatever its digits are. The special tokens carry Llama 3's names, so that its templates apply.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters.files import write_json

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
BOS, EOS, PAD = SPECIAL[:3]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train on ``texts`` and return a ``tokenizers.Tokenizer`` whose ids 0–7 are the special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}|\s|[^\s\p{L}\p{N}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
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
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    write_json(directory / "tokenizer_config.json", config)
