"""Conversion of whole models between Hugging Face's directory and mindformers' single file.

Every format is read as a :class:`Source` with Hugging Face names, checked one to one against the configuration, and
written from it tensor by tensor. Nothing is computed: the bits stay the same unless another type is asked for.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.weights.dtypes import FLOAT_NAMES, round_to
from backends.weights.files import (
    MODEL_CONFIG,
    RECIPE,
    check_output_file,
    copy_companions,
    run_around,
    sidecar_of,
    writing_directory,
)
from backends.weights.gguf_model import gguf_config, open_gguf_tensors
from backends.weights.llama import ARCHITECTURES, EMBEDDING, HEAD, LlamaShape, check_shapes
from backends.weights.mindspore_ckpt import open_weights, writing_weights
from backends.weights.names import is_lora, to_hf, to_mindformers
from backends.weights.safetensors_files import DEFAULT_SHARD_BYTES, ShardWriter, Tensors, open_tensors
from converters.common.console import progress, say
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.recipe.types import ModelConfig

LARGE = 10**9  # elements: from here on a conversion takes seconds and shows its progress
# What MindSpore saves beside the weights: one number each, and the optimizer's copies under a prefix
TRAINING_VALUES = {
    "afactor_step",
    "beta1_power",
    "beta2_power",
    "current_factor",
    "current_iterator_step",
    "epoch_num",
    "global_batch_size",
    "global_step",
    "last_overflow_iterator_step",
    "loss_scale",
    "scale_sense",
    "step_num",
    "weight_decay",
}
# the optimizer's copy of a weight: a prefix such as adam_m, then the name of the weight
_COPY = re.compile(r"(\w+?)[._]((?:model\.|lm_head\.).+)")
_ROTARY = re.compile(r"model\.(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_CONCATENATED = re.compile(r"\.(w_qkv|w_gate_hidden)\.")


@dataclass(frozen=True)
class Item:
    """One weight of a source."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Source:
    """A whole model, readable tensor by tensor.

    Attributes:
        path: where it is from.
        config: its Hugging Face configuration.
        items: weights by Hugging Face name, in the model's order.
        homes: directories with tokenizer and template; files of a later one replace those of an earlier one.
    """

    path: Path
    config: dict[str, Any]
    items: dict[str, Item]
    homes: tuple[Path, ...]


def exchangeable_shape(config: Mapping[str, Any], source: str | Path) -> LlamaShape:
    """Return the sizes of a model that Hugging Face and mindformers both support.

    Args:
        config: content of ``config.json``.
        source: where it is from, for errors.

    Raises:
        UserError: another architecture, or a size is missing or not a number.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"{source}: model_type {kind!r}: only {' and '.join(ARCHITECTURES)} can be exchanged")
    return LlamaShape.from_config(config, source)


def config_from_recipe(config: ModelConfig, source: str | Path) -> dict[str, Any]:
    """Return the Hugging Face configuration of a mindformers ``model_config``.

    Args:
        config: ``model.model_config`` of the recipe.
        source: where the recipe is from, for errors.

    Raises:
        UserError: a setting that has no certain counterpart; ``config.json`` itself is needed then.
    """
    # rotary scaling has several forms and factors, which config.json states exactly
    if config.extend_method not in ("None", None) or config.scaling_factor != 1.0:
        raise UserError(
            f"{source}: extend_method {config.extend_method!r} is not carried over; name the model's own config.json"
        )
    # attention_bias of Llama sets all four, Qwen2 has three fixed ones
    if config.attn_proj_has_bias and not config.qkv_has_bias:
        raise UserError(f"{source}: attn_proj_has_bias without qkv_has_bias: no Hugging Face Llama or Qwen2 has this")
    return LlamaShape.from_recipe(config).to_config() | {
        "max_position_embeddings": config.max_position_embedding or config.seq_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.theta,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def read_model_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a model directory, a GGUF file, a ``config.json`` or a mindformers YAML.

    Raises:
        UsageError: there is no such file.
        UserError: it cannot be read as one.
    """
    source = Path(path)
    if source.suffix in (".yaml", ".yml"):
        from backends.recipe.load import load_recipe

        return config_from_recipe(load_recipe(source).model.model_config, source)
    if is_gguf(source):
        return gguf_config(source)
    source = source / MODEL_CONFIG if source.is_dir() else source
    config = read_json(source)
    if not isinstance(config, dict):
        raise UserError(f"{source}: a JSON object is expected")
    return config


def make_source(
    path: Path, config: dict[str, Any], config_path: str | Path, items: dict[str, Item], *homes: Path
) -> Source:
    """Check the weights against the configuration and put them in the model's order.

    Args:
        path: where the weights are from.
        config: Hugging Face configuration.
        config_path: where that is from, for errors.
        items: weights by Hugging Face name, in any order.
        homes: directories with tokenizer and template; files of a later one replace those of an earlier one.

    Returns:
        The model; a head that is only a copy of the embedding is left out, and a note says so.

    Raises:
        UserError: names or shapes differ; or the output head is said to be the embedding, and is another.
    """
    shape = LlamaShape.from_config(config, config_path)
    if shape.tied and HEAD in items:
        head = items.pop(HEAD)
        # a head that was trained apart would be lost in silence
        if EMBEDDING not in items or head.read().tobytes() != items[EMBEDDING].read().tobytes():
            raise UserError(f"{path}: {HEAD} is not the embedding, although {config_path} ties them")
        say(f"{path}: {HEAD} is the embedding once more and was left out (tie_word_embeddings)")
    expected = shape.parameter_shapes()
    check_shapes({name: item.shape for name, item in items.items()}, expected, path, str(config_path))
    # in the order of the model: the result does not depend on the order in the source
    return Source(path, config, {name: items[name] for name in expected}, homes)


def hf_source(folder: Path) -> Source:
    """Open a Hugging Face model directory.

    Raises:
        UsageError: there is none.
        UserError: it is no Llama or Qwen2, or its weights do not fit its configuration.
    """
    file = folder / MODEL_CONFIG
    if not file.is_file():
        raise UsageError(f"{folder}: no {MODEL_CONFIG} there; a Hugging Face model directory is expected")
    config = read_model_config(file)
    exchangeable_shape(config, file)
    # pickles can run code, so they are not opened
    if not any(folder.glob("*.safetensors")) and any(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder}: only pickled weights (.bin); save them once more as safetensors with transformers")
    tensors = open_tensors(folder)
    names = [name for name in tensors.names() if not _ROTARY.fullmatch(name)]
    if len(names) < len(tensors):
        say(f"{folder}: {len(tensors) - len(names)} stored rotary tables left out; they are computed from rope_theta")
    items = {name: Item(tensors.shape(name), tensors.dtype(name), partial(tensors.read, name)) for name in names}
    return make_source(folder, config, file, items, folder)


def gguf_source(file: Path, *homes: Path) -> Source:
    """Open a GGUF model; its tensors are dequantized when they are read.

    Args:
        file: of a split model its first part.
        homes: directories with tokenizer and template.

    Raises:
        UsageError: there is no such file.
        UserError: it is damaged, of another family, or its weights do not fit its settings.
    """
    tensors = open_gguf_tensors(file)
    items = {name: Item(tensors.shape(name), tensors.dtype(name), partial(tensors.read, name)) for name in tensors}
    return make_source(file, gguf_config(file), file, items, *homes)


def mindformers_source(file: Path, config: str | Path | None = None, *, with_lora: bool = False) -> Source:
    """Open the weights of a mindformers file.

    Args:
        file: ``.ckpt`` or ``.safetensors``.
        config: ``config.json``, a model directory or a mindformers YAML; None takes what ``FILE.hf`` or the run
            around the file says.
        with_lora: leave LoRA matrices out; else they are an error.

    Returns:
        The model with Hugging Face names.

    Raises:
        UserError: no configuration is known, or the weights do not fit it.
    """
    found = Path(config) if config is not None else _recorded_config(file)
    if found is None:
        raise UserError(
            f"{file}: nothing says the model's configuration (no {sidecar_of(file).name}, no recipe.yaml above it): "
            "name its config.json or the mindformers YAML with --config"
        )
    tensors = open_weights(file)
    names = weight_names(tensors, with_lora=with_lora)
    items = {hf: Item(tensors.shape(mf), tensors.dtype(mf), partial(tensors.read, mf)) for hf, mf in names.items()}
    # a run's own template and tokenizer come before those of the model that it started from
    kept = sidecar_of(file)
    homes = [found if found.is_dir() else found.parent, run_around(file), kept if kept.is_dir() else None]
    return make_source(file, read_model_config(found), found, items, *(home for home in homes if home is not None))


def _recorded_config(file: Path) -> Path | None:
    """Return where the configuration of a mindformers file is written down."""
    run = run_around(file)
    # first: written by a conversion, which had the whole config.json, of which a recipe states a part
    places = [sidecar_of(file)]
    if run is not None:
        # a fine-tune's recipe need not repeat the sizes of the model it started from
        from backends.recipe.load import load_recipe

        start = load_recipe(run / RECIPE).load_checkpoint
        places += [Path(start), sidecar_of(Path(start))] if start else []
    recorded = next((place / MODEL_CONFIG for place in places if (place / MODEL_CONFIG).is_file()), None)
    return recorded or (run / RECIPE if run is not None else None)


def weight_names(tensors: Tensors, *, with_lora: bool) -> dict[str, str]:
    """Map Hugging Face names to the names in a mindformers file; a printed note counts what is left out.

    Args:
        tensors: the file.
        with_lora: leave LoRA matrices out; else they are an error.

    Returns:
        The file's name of each weight by its Hugging Face name.

    Raises:
        UserError: a name that mindformers' Llama does not have, or a LoRA that would be lost.
    """
    names: dict[str, str] = {}
    copies: Counter[str] = Counter()
    values, lora, unknown = [], [], []
    for name in tensors.names():
        copy = _COPY.fullmatch(name)
        if copy and not name.startswith(("model.", "lm_head.")):
            copies[copy[1]] += 1
        elif name in TRAINING_VALUES or name.startswith("learning_rate"):
            values.append(name)
        elif _CONCATENATED.search(name):
            raise UserError(
                f"{tensors.path}: {name}: joined matrices (qkv_concat: True), whose order differs between releases of "
                "mindformers; save it with qkv_concat: False"
            )
        elif is_lora(name):
            lora.append(name)
        else:
            try:
                names[to_hf(name)] = name
            except UserError:
                unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(f"{tensors.path}: not weights of mindformers' Llama: {', '.join(unknown[:5])}{more}")
    # the weights alone are the base without its training
    if lora and not with_lora:
        raise UserError(
            f"{tensors.path}: holds a LoRA ({len(lora)} matrices) beside the weights, which would be lost here"
        )
    skipped = [f"{count} optimizer copies ({prefix}.*)" for prefix, count in copies.items()]
    skipped += [f"{len(values)} training values ({', '.join(values)})"] if values else []
    skipped += [f"{len(lora)} LoRA matrices"] if lora else []
    if skipped:
        say(f"{tensors.path}: left out {'; '.join(skipped)}")
    return names


def write_mindformers(source: Source, out: Path, dtype: str | None = None) -> None:
    """Write a model as one mindformers file, and ``OUT.hf`` with its configuration, tokenizer and template.

    Args:
        source: the model.
        out: a ``.ckpt`` or ``.safetensors``.
        dtype: round to this type; None keeps each tensor's own.

    Raises:
        UsageError: the name says no format, or the file would lie among the source's own.
        UserError: mindformers' Llama cannot hold some of the weights.
    """
    check_output_file(out)
    # a reader of that directory could take it for one more shard
    if out.suffix == ".safetensors" and source.path.is_dir() and out.resolve().parent == source.path.resolve():
        raise UsageError(f"{out}: would lie among the model's own shards; name another directory")
    shape = exchangeable_shape(source.config, source.path)
    if shape.mlp_bias:
        raise UserError(f"{source.path}: mlp_bias: mindformers' Llama has no bias there")
    # mindformers has no head_dim: it would cut the same matrix into other heads
    if shape.head_dim * shape.heads != shape.hidden:
        raise UserError(
            f"{source.path}: head_dim {shape.head_dim}: mindformers' Llama takes hidden_size / heads, "
            f"{shape.hidden} / {shape.heads}"
        )
    with writing_weights(out, {}) as (writer, sidecar):
        for home in source.homes:
            copy_companions(home, sidecar)
        write_json(sidecar / MODEL_CONFIG, _with_dtype(source, dtype))
        for name, item in _shown(source, out.name):
            writer.add(to_mindformers(name), round_to(item.read(), dtype, name))


def write_hf(
    source: Source,
    out_folder: Path,
    dtype: str | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write a model as a Hugging Face directory; what was there under its name is replaced.

    Args:
        source: the model.
        out_folder: the directory.
        dtype: round to this type; None keeps each tensor's own.
        max_shard_bytes: a shard is not larger than this.
        finish: adds to the directory before it gets its name.
    """
    with writing_directory(out_folder) as temporary:
        for home in source.homes:
            copy_companions(home, temporary)
        write_json(temporary / MODEL_CONFIG, _with_dtype(source, dtype))
        with ShardWriter(temporary, max_shard_bytes=max_shard_bytes) as writer:
            for name, item in _shown(source, out_folder.name):
                writer.add(name, round_to(item.read(), dtype, name))
        if finish is not None:
            finish(temporary)


def _shown(source: Source, what: str) -> Iterable[tuple[str, Item]]:
    """Go through a model's weights, with a progress bar where it takes long."""
    total = sum(math.prod(item.shape) for item in source.items.values())
    if total < LARGE:
        return source.items.items()
    return progress(source.items.items(), total=len(source.items), desc=what, unit="tensor")


def _with_dtype(source: Source, dtype: str | None) -> dict[str, Any]:
    """Return the configuration with the type that the weights are written in."""
    # a model may mix types (norms in float32): the most frequent one is the model's
    kinds = Counter(item.dtype for item in source.items.values())
    written = dtype or FLOAT_NAMES.get(kinds.most_common(1)[0][0])
    # transformers 5 writes dtype, before it was torch_dtype: whichever the model has stays
    key = "dtype" if "dtype" in source.config else "torch_dtype"
    return {**source.config, key: written} if written else dict(source.config)
