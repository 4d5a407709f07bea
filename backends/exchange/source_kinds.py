"""What a path holds, told by its content, and the conversion that follows from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from backends.exchange.adapters import adapter_to_mindformers, adapter_to_peft
from backends.exchange.llama2c import llama2c_source, write_tokenizer
from backends.exchange.meta import PARAMS, meta_source
from backends.exchange.models import Source, hf_source, mindformers_source, write_hf, write_mindformers
from backends.exchange.output_files import check_output_file, check_output_folder
from backends.weights.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    TEMPLATE,
    TOKENIZER_FILES,
    copy_companions,
)
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import is_lora
from backends.weights.safetensors_files import Tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.shipped import locate_model

Kind = Literal["hf", "peft", "mindformers", "mindformers-lora", "meta", "llama2c"]
WORDS: dict[Kind, str] = {
    "hf": "a Hugging Face model",
    "peft": "a PEFT adapter",
    "mindformers": "weights of mindformers",
    "mindformers-lora": "a LoRA of mindformers",
    "meta": "a model in Meta's layout",
    "llama2c": "a model of llama2.c",
}


# what each kind has a use for; any other option would be passed over in silence
USED: dict[Kind, set[str]] = {
    "hf": {"tokenizer"},
    "peft": {"base"},
    "mindformers": {"config", "tokenizer"},
    "mindformers-lora": {"config", "tokenizer", "base", "lora_alpha", "weights"},
    "meta": {"config", "tokenizer"},
    "llama2c": {"tokenizer"},
}


@dataclass(frozen=True)
class Options:
    """How to convert; each is for the kinds that it concerns.

    Attributes:
        config: configuration of a model that says none itself.
        tokenizer: directory with tokenizer files to put beside a model, or a vocabulary of llama2.c.
        dtype: round to this type; None keeps each tensor's own.
        max_shard_bytes: of Hugging Face's shards.
        base: the frozen model under an adapter.
        lora_alpha: of a LoRA that nothing describes.
        weights: take the frozen weights of a file that holds a LoRA too, and not the LoRA.
    """

    config: Path | None = None
    tokenizer: Path | None = None
    dtype: str | None = None
    max_shard_bytes: int = 5 * 10**9
    base: str | None = None
    lora_alpha: float | None = None
    weights: bool = False

    def check(self, kind: Kind, path: Path) -> None:
        """Refuse options that this kind has no use for.

        Raises:
            UsageError: naming the first.
        """
        used = USED[kind] - ({"base", "lora_alpha"} if self.weights else {"tokenizer"} if "lora" in kind else set())
        for name in ("config", "tokenizer", "base", "lora_alpha", "weights"):
            if getattr(self, name) and name not in used:
                raise UsageError(f"--{name.replace('_', '-')} has no use here: {path} is {WORDS[kind]}")


def kind_of(path: Path) -> Kind:
    """Tell what a path holds.

    Raises:
        UsageError: nothing that can be exchanged.
        UserError: a weight file is damaged.
    """
    if path.is_dir():
        if (path / ADAPTER_CONFIG).is_file() and (path / ADAPTER_WEIGHTS).is_file():
            return "peft"
        if (path / MODEL_CONFIG).is_file():
            return "hf"
        if (path / PARAMS).is_file() or any(path.glob("consolidated.*.pth")):
            return "meta"
        if any(path.glob("pytorch_model*.bin")):
            raise UsageError(f"{path}: no {MODEL_CONFIG} there, and pickled weights are not read")
    elif path.suffix == ".pth":
        raise UsageError(f"{path}: name its directory, which holds {PARAMS} and every shard")
    elif path.suffix == ".bin":
        return "llama2c"
    return _kind_of_weights(open_weights(path))


def _kind_of_weights(tensors: Tensors) -> Kind:
    names = tensors.names()
    if any(".mindpet_delta_lora_" in name for name in names):
        return "mindformers-lora"
    if any(
        name.startswith(("model.tok_embeddings.", "model.norm_out.")) or ".attention_norm." in name for name in names
    ):
        return "mindformers"
    if any(is_lora(name) for name in names):
        raise UsageError(f"{tensors.path}: matrices of a PEFT adapter; name the directory with its {ADAPTER_CONFIG}")
    if any(name.startswith("model.layers.") for name in names):
        raise UsageError(f"{tensors.path}: weights of Hugging Face; name the directory with their {MODEL_CONFIG}")
    raise UsageError(f"{tensors.path}: neither weights of Hugging Face or mindformers nor a LoRA ({names[0]} first)")


def to_mindformers(path: Path, out: Path, options: Options) -> str:
    """Convert anything but mindformers' own to a mindformers file; returns what was done, in words."""
    check_output_file(out)
    path = Path(locate_model(path))
    kind = kind_of(path)
    options.check(kind, path)
    if kind == "peft":
        found = adapter_to_mindformers(
            path, out, base=Path(options.base) if options.base else None, dtype=options.dtype
        )
        return f"{path}: {WORDS[kind]}, rank {found.rank} of {', '.join(found.modules)} → {out}"
    if kind.startswith("mindformers"):
        raise UsageError(f"{path}: is {WORDS[kind]} already")
    with _source(path, kind, options) as source:
        write_mindformers(source, out, options.dtype)
        return f"{path}: {WORDS[kind]}, {len(source.items)} tensors → {out}"


def to_hf(path: Path, out: Path, options: Options) -> str:
    """Convert anything but Hugging Face's own to a model or adapter directory; returns what was done, in words."""
    check_output_folder(out)
    kind = kind_of(path)
    if kind in ("hf", "peft"):
        raise UsageError(f"{path}: is {WORDS[kind]} already")
    options.check(kind, path)
    if kind == "mindformers-lora" and not options.weights:
        if options.config is not None and options.config.suffix not in (".yaml", ".yml"):
            raise UsageError(f"{options.config}: --config of a LoRA is the mindformers YAML that trained it")
        found = adapter_to_peft(
            path, out, recipe=options.config, alpha=options.lora_alpha, base=options.base, dtype=options.dtype
        )
        return f"{path}: {WORDS[kind]}, rank {found.rank} of {', '.join(found.modules)} → {out}"
    with _source(path, kind, options) as source:
        write_hf(source, out, options.dtype, options.max_shard_bytes)
        return f"{path}: {WORDS[kind]}, {len(source.items)} tensors → {out}"


@contextmanager
def _source(path: Path, kind: Kind, options: Options) -> Iterator[Source]:
    """Open a whole model, with the tokenizer that was named beside it."""
    if kind == "hf":
        source = hf_source(path)
    elif kind == "meta":
        source = meta_source(path, options.config)
    elif kind == "llama2c":
        source = llama2c_source(path)
    else:
        source = mindformers_source(path, options.config, with_lora=options.weights)
    if options.tokenizer is None:
        if kind == "llama2c":
            say(f"note: {path}: without a tokenizer; name its vocabulary (tok*.bin) with --tokenizer")
        yield source
        return
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        for known in source.homes:
            copy_companions(known, home, without=TOKENIZER_FILES)
        if options.tokenizer.is_file() and options.tokenizer.suffix == ".bin":
            write_tokenizer(options.tokenizer, home)
        else:
            _copy_tokenizer(options.tokenizer, home)
        yield replace(source, homes=(home,))


def _copy_tokenizer(given: Path, home: Path) -> None:
    if given.is_file() and given.name in TOKENIZER_FILES:
        shutil.copyfile(given, home / given.name)
    elif not copy_companions(given, home, without=(MODEL_CONFIG, GENERATION_CONFIG, TEMPLATE)):
        raise UserError(f"{given}: no tokenizer files there")
