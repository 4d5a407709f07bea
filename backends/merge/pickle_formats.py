"""The pickled forms: ``pytorch_model*.bin`` of Hugging Face, Meta's ``consolidated.00.pth`` with ``params.json``.

Both are written from the merged safetensors, whose pages are mapped and not loaded: torch.save copies one tensor after
another. Only tensors in a plain dict go in, so that ``torch.load(weights_only=True)`` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.exchange.meta import PARAMS, read_in_halves
from backends.weights.dtypes import numpy_types
from backends.weights.files import GENERATION_CONFIG, MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS
from backends.weights.llama import EMBEDDING, HEAD, LlamaShape
from backends.weights.names import to_mindformers
from backends.weights.rotary import pairs_from_halves, rotary_settings
from backends.weights.safetensors_files import Entry, ShardWriter, open_tensors
from converters.common.errors import UserError
from converters.common.files import write_json
from converters.common.reader import read_json

if TYPE_CHECKING:
    import torch

META_FILE = "consolidated.00.pth"


def to_bin(folder: Path) -> None:
    """Turn the safetensors of a model directory into ``pytorch_model*.bin`` with their index."""
    import torch

    renamed: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    total = 0
    tensors = open_tensors(folder)
    by_file: dict[Path, list[str]] = {}
    for name, entry in tensors.entries.items():
        by_file.setdefault(entry.file, []).append(name)
        total += entry.nbytes
    for file, names in by_file.items():
        renamed[file.name] = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        torch.save({name: _mapped(tensors.entries[name]) for name in names}, folder / renamed[file.name])
        weight_map.update(dict.fromkeys(names, renamed[file.name]))
        # after each shard: the disk holds the model once, and one shard of it twice
        file.unlink()
    index = folder / MODEL_INDEX
    if index.is_file():
        index.unlink()
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "pytorch_model.bin.index.json", content)


def meta_obstacle(config: dict[str, Any], names: list[str]) -> str | None:
    """Return why a model cannot be written in Meta's form, or None if it can.

    Args:
        config: content of ``config.json``.
        names: Hugging Face names of its weights.
    """
    if config.get("model_type") != "llama":
        return f"Meta's form is for Llama, this is {config.get('model_type')!r}"
    biased = next((name for name in names if name.endswith(".bias")), None)
    return f"Meta's form has no place for {biased}" if biased else None


def to_meta(folder: Path) -> None:
    """Turn the safetensors of a Llama directory into Meta's form.

    Raises:
        UserError: the feed-forward width cannot be said in Meta's terms.
    """
    import torch

    config = read_json(folder / MODEL_CONFIG)
    source, shape, params = open_tensors(folder), LlamaShape.from_config(config, folder), meta_params(config)
    # rows of q and k are put in another order, so the mapped pages cannot be those of the merged file
    stage = folder / "meta"
    stage.mkdir()
    with ShardWriter(stage, max_shard_bytes=None) as writer:
        for name in source:
            writer.add(meta_name(name), _in_pairs(name, source.read(name), shape))
        if HEAD not in source:
            # Meta's form knows no tied head
            writer.add("output.weight", source.read(EMBEDDING))
    staged = open_tensors(stage)
    torch.save({name: _mapped(entry) for name, entry in staged.entries.items()}, folder / META_FILE)
    (stage / MODEL_WEIGHTS).unlink()
    stage.rmdir()
    for file in {entry.file for entry in source.entries.values()}:
        file.unlink()
    # what is of Hugging Face would make readers look for weights in that form
    for left in (MODEL_INDEX, MODEL_CONFIG, GENERATION_CONFIG):
        (folder / left).unlink(missing_ok=True)
    write_json(folder / PARAMS, params)


def meta_name(name: str) -> str:
    """Return Meta's name of a Hugging Face Llama weight: mindformers kept Meta's modules under ``model.``."""
    renamed = to_mindformers(name).removeprefix("model.").replace(".embedding_weight", ".weight")
    return renamed.replace("norm_out", "norm").replace("lm_head", "output")


def _in_pairs(name: str, weight: np.ndarray, shape: LlamaShape) -> np.ndarray:
    if name.endswith("q_proj.weight"):
        return pairs_from_halves(weight, shape.heads)
    return pairs_from_halves(weight, shape.kv_heads) if name.endswith("k_proj.weight") else weight


def meta_params(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``params.json`` for a Hugging Face Llama configuration.

    Meta states the feed-forward width as int(m · int(8·dim / 3)) rounded up to ``multiple_of``
    (meta-llama/llama, ``FeedForward``), with m = ``ffn_dim_multiplier``.

    Raises:
        UserError: no such numbers give the width of this model.
    """
    shape = LlamaShape.from_config(config, MODEL_CONFIG)
    dim, width = shape.hidden, shape.intermediate
    base, scaling = rotary_settings(config)
    params: dict[str, Any] = {
        "dim": dim,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": base,
    }
    # params.json has a switch for this, not the factors
    if scaling:
        params["use_scaled_rope"] = True
    plain = int(8 * dim / 3)
    # Meta's own models first (256, 1024, 4096, with 1.3 in Llama 2 70B and 3), then whatever gives the width
    multiple = width & -width  # the largest power of two in it
    for unit in (256, 1024, 4096, multiple):
        # the last one is solved from the formula, half a unit below so that rounding up meets the width
        for multiplier in (None, 1.3, (width - unit / 2) / plain):
            if -(-int((multiplier or 1.0) * plain) // unit) * unit == width:
                params["multiple_of"] = unit
                if multiplier is not None:
                    params["ffn_dim_multiplier"] = multiplier
                return params
    raise UserError(f"intermediate_size {width} cannot be stated in Meta's params.json")


def pickled_reader(folder: Path, config: dict[str, Any]) -> Callable[[str], np.ndarray]:
    """Return a function that reads a tensor of either form by its Hugging Face name; files are mapped, not loaded.

    Args:
        folder: holds ``consolidated.00.pth``, else ``pytorch_model*.bin``.
        config: of the model.
    """
    import torch

    meta = (folder / META_FILE).is_file()
    tensors: dict[str, torch.Tensor] = {}
    for file in [folder / META_FILE] if meta else sorted(folder.glob("pytorch_model*.bin")):
        tensors.update(torch.load(file, map_location="cpu", mmap=True, weights_only=True))

    def stored(name: str) -> np.ndarray:
        if tensors[name].dtype == torch.bfloat16:
            # numpy has no bfloat16, so torch refuses to hand it over: the bits go as int16
            return tensors[name].view(torch.int16).numpy().view(numpy_types()["BF16"])
        return tensors[name].numpy()

    if not meta:
        return stored
    shape = LlamaShape.from_config(config, folder)
    return lambda name: read_in_halves(lambda: stored(meta_name(name)), meta_name(name), shape)()


def _mapped(entry: Entry) -> torch.Tensor:
    """Return one tensor of a safetensors file as torch sees it, its pages mapped from the file."""
    import torch

    kind = numpy_types()[entry.dtype]
    word = np.dtype(np.int16) if entry.dtype == "BF16" else kind
    # copy on write: torch wants memory that could be written to
    (start, _), *more = entry.pieces
    assert not more  # safetensors are never in pieces
    # at least one element, since an empty range cannot be mapped
    values = np.memmap(entry.file, word, "c", start, (max(1, entry.size),))[: entry.size]
    tensor = torch.from_numpy(np.asarray(values))
    return (tensor.view(torch.bfloat16) if entry.dtype == "BF16" else tensor).reshape(entry.shape)
