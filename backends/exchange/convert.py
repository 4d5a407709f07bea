"""Conversion of whatever a path holds, into a place that is named or beside the file; the content shows what it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from backends.exchange.adapters import LoraMatrices, adapter_to_mindformers, adapter_to_peft
from backends.exchange.gguf_check import GgufCheck, check_conversion
from backends.exchange.llama2c import llama2c_source, write_tokenizer
from backends.exchange.meta import PARAMS, meta_source
from backends.exchange.models import Source, gguf_source, hf_source, mindformers_source, write_hf, write_mindformers
from backends.weights.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    TEMPLATE,
    TOKENIZER_FILES,
    check_output_file,
    check_output_folder,
    copy_companions,
    sidecar_of,
)
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import is_lora
from backends.weights.safetensors_files import DEFAULT_SHARD_BYTES, Tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.gguf_file import SUFFIX, open_gguf
from converters.common.reader import read_json
from converters.common.shipped import locate_model
from converters.tokenizers.gguf_vocabulary import gguf_tokenizer

Kind = Literal["hf", "peft", "mindformers", "mindformers-lora", "meta", "llama2c", "gguf"]
WORDS: dict[Kind, str] = {
    "hf": "a Hugging Face model",
    "peft": "a PEFT adapter",
    "mindformers": "weights of mindformers",
    "mindformers-lora": "a LoRA of mindformers",
    "meta": "a model in Meta's layout",
    "llama2c": "a model of llama2.c",
    "gguf": "a GGUF model",
}
# what each kind has a use for; any other option would be passed over in silence
USED: dict[Kind, set[str]] = {
    "hf": {"tokenizer"},
    "peft": {"base"},
    "mindformers": {"config", "tokenizer"},
    "mindformers-lora": {"config", "base", "lora_alpha", "weights"},
    "meta": {"config", "tokenizer"},
    "llama2c": {"tokenizer"},
    "gguf": {"tokenizer"},
}
STAMP = "exchanged_from.json"  # says which file the directory beside it came from


@dataclass(frozen=True)
class Exchanged:
    """A conversion that was done.

    Attributes:
        path: what was read.
        kind: what that is.
        out: what was written.
        tensors: weights of a model; 0 for an adapter.
        lora: rank and layers of an adapter; None for a model.
        check: what a converted GGUF model was found to be; None for all else.
    """

    path: Path
    kind: Kind
    out: Path
    tensors: int = 0
    lora: LoraMatrices | None = None
    check: GgufCheck | None = None

    def as_text(self) -> str:
        """What was done, in a line or two."""
        what = f"{self.tensors} tensors"
        if self.lora is not None:
            what = f"rank {self.lora.rank} of {', '.join(self.lora.modules)}"
        done = f"{self.path}: {WORDS[self.kind]}, {what} → {self.out}"
        return done if self.check is None else f"{done}\n{self.check.as_text()}"


def to_mindformers(
    path: str | Path,
    out: str | Path,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    dtype: str | None = None,
    base: str | Path | None = None,
) -> Exchanged:
    """Convert anything but mindformers' own to a mindformers file, bit for bit.

    Args:
        path: a Hugging Face model, a PEFT adapter or run, Meta's directory, a llama2.c file, or a GGUF file.
        out: a ``.ckpt`` or ``.safetensors``; ``OUT.hf`` beside it keeps configuration, tokenizer and template.
        config: configuration of a model that says none itself.
        tokenizer: directory with tokenizer files to put beside a model, or a vocabulary of llama2.c.
        dtype: round to this type; None keeps each tensor's own.
        base: the frozen model under an adapter, to check its shapes against.

    Returns:
        What was converted, and what it was.

    Raises:
        UsageError: there is nothing to convert, or an option has no use for it.
        UserError: it is damaged, does not fit its configuration, or does more than mindformers can.
    """
    # a shipped model may be named by its name alone
    source, target = Path(locate_model(path)), Path(out)
    check_output_file(target)
    kind = kind_of(source)
    _refuse_unused(kind, source, USED[kind], config=config, tokenizer=tokenizer, base=base)
    if kind == "peft":
        found = adapter_to_mindformers(source, target, base=Path(base) if base else None, dtype=dtype)
        return Exchanged(source, kind, target, lora=found)
    if kind.startswith("mindformers"):
        raise UsageError(f"{source}: is {WORDS[kind]} already")
    with _model(source, kind, config, tokenizer) as model:
        write_mindformers(model, target, dtype)
        return Exchanged(source, kind, target, len(model.items))


def to_hf(
    path: str | Path,
    out: str | Path,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    dtype: str | None = None,
    base: str | Path | None = None,
    lora_alpha: float | None = None,
    weights: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    check: bool = True,
) -> Exchanged:
    """Convert anything but Hugging Face's own to a model or PEFT adapter directory, bit for bit.

    Args:
        path: a mindformers file, Meta's directory, a llama2.c file, or a GGUF file, which is dequantized.
        out: a directory that is not there yet.
        config: configuration of a model that says none itself, or the recipe of a LoRA.
        tokenizer: directory with tokenizer files to put beside a model, or a vocabulary of llama2.c.
        dtype: round to this type; None keeps each tensor's own.
        base: the frozen model under an adapter.
        lora_alpha: of a LoRA that nothing describes.
        weights: take the frozen weights of a file that holds a LoRA too, and not the LoRA.
        max_shard_bytes: of one safetensors file.
        check: measure the perplexity and compare the token ids of what was made of a GGUF file.

    Returns:
        What was converted, and what it was.

    Raises:
        UsageError: there is nothing to convert, the output is there, or an option has no use for it.
        UserError: it is damaged, does not fit its configuration, or a check of it failed; nothing is left then.
    """
    source, target = Path(path), Path(out)
    check_output_folder(target)
    kind = kind_of(source)
    if kind in ("hf", "peft"):
        raise UsageError(f"{source}: is {WORDS[kind]} already")
    # of a file with both, the frozen weights are a model and have a model's options
    used = {"config", "tokenizer", "weights"} if kind == "mindformers-lora" and weights else USED[kind]
    given = {"config": config, "tokenizer": tokenizer, "base": base, "lora_alpha": lora_alpha, "weights": weights}
    _refuse_unused(kind, source, used, **given)
    if kind == "mindformers-lora" and not weights:
        # a config.json knows nothing of rank and alpha
        if config is not None and config.suffix not in (".yaml", ".yml"):
            raise UsageError(f"{config}: --config of a LoRA is the mindformers YAML that trained it")
        named = str(base) if base else None
        found = adapter_to_peft(source, target, recipe=config, alpha=lora_alpha, base=named, dtype=dtype)
        return Exchanged(source, kind, target, lora=found)
    found_good: list[GgufCheck] = []

    def finish(folder: Path) -> None:
        # before the directory gets its name: one that failed the check is never there
        if kind == "gguf" and check:
            found_good.append(check_conversion(open_gguf(source), folder, own_tokenizer=tokenizer is None))

    with _model(source, kind, config, tokenizer, with_lora=weights) as model:
        write_hf(model, target, dtype, max_shard_bytes, finish)
        return Exchanged(source, kind, target, len(model.items), check=next(iter(found_good), None))


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
        # without params.json as well, so that meta_source can say what is missing
        if (path / PARAMS).is_file() or any(path.glob("consolidated.*.pth")):
            return "meta"
        if any(path.glob("pytorch_model*.bin")):
            raise UsageError(f"{path}: no {MODEL_CONFIG} there, and pickled weights are not read")
    elif path.suffix == SUFFIX:
        return "gguf"
    elif path.suffix == ".pth":
        raise UsageError(f"{path}: name its directory, which holds {PARAMS} and every shard")
    # a pickled pytorch_model.bin ends so as well; llama2c_source checks the header
    elif path.suffix == ".bin":
        return "llama2c"
    return _kind_of_weights(open_weights(path))


def _kind_of_weights(tensors: Tensors) -> Kind:
    names = tensors.names()
    # before the weights: a file with both is a LoRA unless --weights is given
    if any(".mindpet_delta_lora_" in name for name in names):
        return "mindformers-lora"
    if any(
        name.startswith(("model.tok_embeddings.", "model.norm_out.")) or ".attention_norm." in name for name in names
    ):
        return "mindformers"
    # the rest is recognised only to say what to name instead
    if any(is_lora(name) for name in names):
        raise UsageError(f"{tensors.path}: matrices of a PEFT adapter; name the directory with its {ADAPTER_CONFIG}")
    if any(name.startswith("model.layers.") for name in names):
        raise UsageError(f"{tensors.path}: weights of Hugging Face; name the directory with their {MODEL_CONFIG}")
    raise UsageError(f"{tensors.path}: neither weights of Hugging Face or mindformers nor a LoRA ({names[0]} first)")


def _refuse_unused(kind: Kind, path: Path, used: set[str], **given: Any) -> None:
    for name, value in given.items():
        if value and name not in used:
            raise UsageError(f"--{name.replace('_', '-')} has no use here: {path} is {WORDS[kind]}")


@contextmanager
def _model(
    path: Path, kind: Kind, config: Path | None, tokenizer: Path | None, *, with_lora: bool = False
) -> Iterator[Source]:
    """Open a whole model, with the tokenizer that was named for it."""
    if kind == "gguf" and tokenizer is None:
        with TemporaryDirectory() as temporary:
            # first: a file of another family is told by its name, not by its tokenizer
            source = gguf_source(path, Path(temporary))
            gguf_tokenizer(path).save(temporary)
            yield source
        return
    if kind == "gguf":
        source = gguf_source(path)
    elif kind == "hf":
        source = hf_source(path)
    elif kind == "meta":
        source = meta_source(path, config)
    elif kind == "llama2c":
        source = llama2c_source(path)
    else:
        source = mindformers_source(path, config, with_lora=with_lora)
    if tokenizer is None:
        if kind == "llama2c":
            say(f"note: {path}: without a tokenizer; name its vocabulary (tok*.bin) with --tokenizer")
        yield source
        return
    # a named tokenizer takes the place of all files of the old one, or the two would be mixed
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        for known in source.homes:
            # these two belong to the weights and stay
            copy_companions(known, home, (GENERATION_CONFIG, TEMPLATE))
        if tokenizer.is_file() and tokenizer.suffix == ".bin":
            write_tokenizer(tokenizer, home)
        elif tokenizer.is_file() and tokenizer.name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer, home / tokenizer.name)
        elif not copy_companions(tokenizer, home, TOKENIZER_FILES):
            raise UserError(f"{tokenizer}: no tokenizer files there")
        yield replace(source, homes=(home,))


def is_mindformers_file(path: Path) -> bool:
    """Say whether a path is a weight file by its name, and not a directory."""
    return path.suffix in (".ckpt", ".safetensors") and path.is_file()


def hf_directory(file: Path) -> Path:
    """Return ``FILE.hf`` with the weights of a mindformers file in it, converted once.

    The directory stays, because a sweep, a retention check or a resumed evaluation opens the same file many times. A
    temporary one would cost a conversion each time. It would also have another name each time, and stored answers are
    found by the name and the weights of the directory. A file that has changed since is converted again. If several
    processes ask at once, one converts and the others wait.

    Args:
        file: a ``.ckpt`` or ``.safetensors`` of mindformers.

    Raises:
        UsageError: it is not mindformers' file.
        UserError: nothing says its configuration or its scaling, or the folder cannot be written.
    """
    home = sidecar_of(file)
    # the lock is on the weights themselves: no lock file is left lying about
    with file.open("rb") as handle:
        with suppress(ImportError, OSError):  # a system or a file system without such locks
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)  # gone with the process, however it ends
        _convert_once(file, home)
    return home


def _convert_once(file: Path, home: Path) -> None:
    """Convert unless what is in ``home`` came from this very file; errors are those of ``hf_directory``."""
    status = file.stat()
    stamp = {"file": file.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    # size and time of change instead of a hash: reading billions of weights would take as long as converting them
    if (home / STAMP).is_file() and read_json(home / STAMP) == stamp:
        return
    kind = kind_of(file)
    if not kind.startswith("mindformers"):
        raise UsageError(f"{file}: not a file of mindformers; name its directory")
    # asked before converting, so that the message can name another way
    if not os.access(file.parent, os.W_OK):
        raise UserError(
            f"{file.parent}: cannot be written, and the file is converted beside itself: use "
            f"python -m backends.exchange to-hf {file} -o DIR, and DIR instead"
        )
    say(f"{file}: converting into {home} ({status.st_size / 2**20:,.0f} MiB, once; delete it to have the room back)")

    def finish(folder: Path) -> None:
        # inside the directory before it gets its name: a stamp never stands beside other weights
        write_json(folder / STAMP, stamp)

    if kind == "mindformers-lora":
        adapter_to_peft(file, home, finish=finish)
    else:
        write_hf(mindformers_source(file), home, finish=finish)
