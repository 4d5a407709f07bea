"""Opens whatever tokenizer lies at a path."""

from __future__ import annotations

import os
from pathlib import Path

from converters.common.errors import UsageError
from converters.common.gguf_file import is_gguf
from converters.common.shipped import locate_model
from converters.tokenizers.base import Tokenizer, read_config
from converters.tokenizers.gguf_vocabulary import gguf_tokenizer
from converters.tokenizers.hf_json import JsonTokenizer
from converters.tokenizers.tiktoken_file import TiktokenTokenizer


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer from a directory, a ``tokenizer.json``, a GGUF file, or Llama-3's ``tokenizer.model``.

    Raises:
        UsageError: there is no tokenizer at ``path``.
        UserError: the file is of a kind that is not supported, or names no EOS or pad.
    """
    source = Path(locate_model(path))
    if source.is_dir():
        model, fast = source / "tokenizer.model", source / "tokenizer.json"
        # beside a tokenizer.json, tokenizer.model is a tiktoken file only if TiktokenTokenizer.save wrote both
        if model.is_file() and (not fast.is_file() or read_config(source).get("converted_from") == model.name):
            return TiktokenTokenizer(model)
        if not fast.is_file():
            raise UsageError(f"{source}: holds neither tokenizer.json nor tokenizer.model")
        return JsonTokenizer(fast)
    if not source.is_file():
        raise UsageError(f"{source}: no such file or directory; a tokenizer's is expected")
    if is_gguf(source):
        return gguf_tokenizer(source)
    return JsonTokenizer(source) if source.suffix == ".json" else TiktokenTokenizer(source)
