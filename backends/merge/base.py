"""The model to merge into: a Hugging Face directory or a mindformers weights file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backends.checkpoint.fingerprint import fingerprint
from backends.merge.adapters import Adapter, all_modules
from backends.weights.dtypes import ROUNDOFF
from backends.weights.files import ADAPTER_CONFIG, MODEL_CONFIG, sidecar_of
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.model_config import has_config, load_config
from backends.weights.names import is_lora, to_mindformers
from backends.weights.safetensors_files import Tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError, did_you_mean
from converters.common.gguf_file import is_gguf
from converters.common.shipped import locate_model

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True)
class Base:
    """A model to merge into.

    Attributes:
        path: directory or file that was named.
        tensors: its weights; only headers are in memory.
        config: ``config.json``; empty where mindformers weights have none beside them.
        mindformers: the weights have mindformers' names.
        home: where configuration and tokenizer lie: the directory, the GGUF file itself, or ``FILE.hf`` beside a file.
    """

    path: Path
    tensors: Tensors
    config: dict[str, Any]
    mindformers: bool
    home: Path

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its weights (:func:`backends.checkpoint.fingerprint.fingerprint`)."""
        return fingerprint(self.tensors.files)

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding matrix."""
        # a model without a head of its own has tied it, even where no configuration says so
        return bool(self.config.get("tie_word_embeddings")) or self.weight_name(HEAD) not in self.tensors

    def weight_name(self, module: str) -> str:
        """Return the name that the weight of a layer has here."""
        name = f"{module}.weight"
        return to_mindformers(name) if self.mindformers else name


def open_base(path: str | Path) -> Base:
    """Open a model to merge into.

    Args:
        path: Hugging Face model directory, name of a shipped model, a GGUF file, or a mindformers ``.ckpt`` or
            ``.safetensors``.

    Returns:
        The base; LoRA matrices and optimizer state of a training checkpoint are left out, and a note says so.

    Raises:
        UsageError: there is none.
        UserError: its files are not whole, or its weights are quantised.
    """
    source = Path(locate_model(path))
    if source.is_dir() and (source / ADAPTER_CONFIG).is_file():
        raise UsageError(f"{source}: an adapter, not a base; give it with --adapter")
    if not source.exists():
        raise UsageError(f"{source}: no such model directory or file")
    tensors = open_weights(source)
    whole = source.is_dir() or is_gguf(source)
    home = source if whole else sidecar_of(source)
    config = load_config(home) if has_config(home) else {}
    # "or {}": the key may be null
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise UserError(f"{source}: quantised ({method}); merge into the model in its full precision")
    # every model has an embedding, and the two sides name it differently
    mindformers = to_mindformers(f"{EMBEDDING}.weight") in tensors
    if mindformers:
        _leave_out_training(tensors)
    elif not whole or not config:
        raise UsageError(f"{source}: no {MODEL_CONFIG} there and no mindformers names inside; name the model directory")
    return Base(source, tensors, config, mindformers, home)


def _leave_out_training(tensors: Tensors) -> None:
    """Take LoRA matrices and an optimizer's state out of a mindformers training checkpoint."""
    extra = [name for name in tensors if is_lora(name) or not name.startswith(("model.", "lm_head."))]
    for name in extra:
        del tensors.entries[name]
    if extra:
        say(f"note: {tensors.path}: {len(extra)} parameters of training, {extra[0]} first, do not go into the result")


def check_fit(base: Base, adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that cannot belong to this base.

    Raises:
        UserError: it lacks a layer that an adapter changes, or has it in another shape or type.
    """
    for adapter in adapters:
        known = {base.weight_name(module): module for module in all_modules([adapter])}
        lacking = [module for name, module in known.items() if name not in base.tensors and not _is_tied(base, module)]
        if lacking:
            near = did_you_mean(f"{lacking[0]}.weight", base.tensors.names())
            raise UserError(
                f"{adapter.path}: {len(lacking)} of {len(known)} layers are not in {base.path}, {lacking[0]} "
                f"first{near}: it is an adapter for another base"
            )
        for module, factors in adapter.modules.items():
            name = source_of(base, module)
            shape = base.tensors.shape(name)
            if shape != factors.shape:
                raise UserError(
                    f"{adapter.path}: {module} is made for a weight {list(factors.shape)}, {base.path} has "
                    f"{list(shape)}: it is an adapter for another base"
                )
            if base.tensors.dtype(name) not in ROUNDOFF:
                kinds = ", ".join(ROUNDOFF)
                raise UserError(f"{base.path}: {name} is {base.tensors.dtype(name)}; merging needs one of {kinds}")
        # peft stores the weight of a tied head beside the adapter: it tells whether the base is the same
        for module, copy in adapter.copies.items():
            stored = adapter.tensors.read(copy).astype(np.float32)
            if not np.array_equal(stored, base.tensors.read(source_of(base, module)).astype(np.float32)):
                raise UserError(
                    f"{adapter.path}: brings a {module} that differs from that of {base.path}: another base"
                )


def _is_tied(base: Base, module: str) -> bool:
    return module == HEAD and base.tied


def source_of(base: Base, module: str) -> str:
    """Return the name of the tensor that a layer's weight is read from.

    Args:
        base: the model.
        module: Hugging Face name of the layer; a tied ``lm_head`` is read from the embedding matrix.
    """
    return base.weight_name(EMBEDDING if _is_tied(base, module) else module)


def check_recorded(base: Base, adapters: Sequence[Adapter], *, allow: bool) -> None:
    """Compare the base with the one that the adapters were trained on, as far as that is recorded.

    Args:
        base: to merge into.
        adapters: to merge.
        allow: print a note about another base instead of refusing it.

    Raises:
        UserError: it is another one, and ``allow`` is not set.
    """
    for adapter in adapters:
        recorded = adapter.base_fingerprint
        named = Path(adapter.base_name) if adapter.base_name else None
        # nothing is recorded, but this is the very directory that the adapter names
        if recorded is None and named is not None and named.resolve() == base.path.resolve():
            continue
        if recorded is None and named is not None and has_config(named):
            # the model that it names is at hand: its weights tell what its name cannot
            recorded = open_base(named).fingerprint
        if recorded is None:
            about = f"names {adapter.base_name}" if adapter.base_name else "does not name its base"
            if named is None or named.name != base.path.resolve().name:
                say(f"note: {adapter.path} {about}; that {base.path} is the same can only be judged by the shapes")
            continue
        if recorded == base.fingerprint:
            continue
        both = f"was trained on weights {recorded}, those of {base.path} are {base.fingerprint}"
        if base.mindformers:
            # the hash is over bytes of files, which differ between the two forms of the same model
            say(f"note: {adapter.path} {both}; they are the same only if these are those in mindformers' form")
        elif not allow:
            raise UserError(
                f"{adapter.path} {both}: another base; --allow-base-mismatch if it is the same in other files"
            )
        else:
            say(f"note: {adapter.path} {both}; merging all the same")
