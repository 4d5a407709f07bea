"""The pickled forms: ``pytorch_model*.bin`` of Hugging Face, Meta's ``consolidated.00.pth`` with ``params.json``.

Both are written from the merged safetensors, whose pages are mapped and not loaded: torch.save copies one tensor after
another. Only tensors in a plain dict go in, so that ``torch.load(weights_only=True)`` reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.weights.names import to_mindformers
from backends.weights.safetensors_files import Entry, ShardWriter, numpy_types, open_tensors
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
        file.unlink()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        index.unlink()
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "pytorch_model.bin.index.json", content)


def meta_obstacle(config: dict[str, Any], names: list[str]) -> str | None:
    """Return why a model cannot be written in Meta's form, or None."""
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

    config = read_json(folder / "config.json")
    source = open_tensors(folder)
    params = meta_params(config)
    stage = folder / "meta"
    stage.mkdir()
    with ShardWriter(stage, max_shard_bytes=None) as writer:
        for name in source:
            writer.add(meta_name(name), pairs_from_halves(name, source.read(name), config))
        if "lm_head.weight" not in source:
            writer.add("output.weight", source.read("model.embed_tokens.weight"))
    staged = open_tensors(stage)
    torch.save({name: _mapped(entry) for name, entry in staged.entries.items()}, folder / META_FILE)
    (stage / "model.safetensors").unlink()
    stage.rmdir()
    for file in {entry.file for entry in source.entries.values()}:
        file.unlink()
    for left in ("model.safetensors.index.json", "config.json", "generation_config.json"):
        (folder / left).unlink(missing_ok=True)
    write_json(folder / "params.json", params)


def meta_name(name: str) -> str:
    """Return Meta's name of a Hugging Face Llama weight: mindformers kept Meta's modules under ``model.``."""
    renamed = to_mindformers(name).removeprefix("model.").replace(".embedding_weight", ".weight")
    return renamed.replace("norm_out", "norm").replace("lm_head", "output")


def pairs_from_halves(name: str, weight: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Put the rows of a query or key layer from Hugging Face's rotary halves into Meta's pairs.

    Within each head of width d Hugging Face turns row i with row i + d/2, Meta row 2i with row 2i + 1; the inverse of
    :func:`backends.exchange.meta.halves_from_pairs`. Other tensors stay as they are.

    Args:
        name: Hugging Face name.
        weight: [out, in].
        config: of the model.
    """
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = config["num_attention_heads"]
    if name.endswith("k_proj.weight"):
        heads = config.get("num_key_value_heads") or heads
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, width)


def meta_params(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``params.json`` for a Hugging Face Llama configuration.

    Meta states the feed-forward width as int(m · int(8·dim / 3)) rounded up to ``multiple_of``
    (meta-llama/llama, ``FeedForward``), with m = ``ffn_dim_multiplier``.

    Raises:
        UserError: no such numbers give the width of this model.
    """
    dim, width = config["hidden_size"], config["intermediate_size"]
    rope = config.get("rope_parameters") or config
    params: dict[str, Any] = {
        "dim": dim,
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": rope.get("rope_theta", 10000.0),
    }
    if config.get("rope_scaling"):
        params["use_scaled_rope"] = True
    plain = int(8 * dim / 3)
    multiple = width & -width  # the largest power of two in it
    for unit in (256, 1024, 4096, multiple):
        for multiplier in (None, 1.3, (width - unit / 2) / plain):
            if -(-int((multiplier or 1.0) * plain) // unit) * unit == width:
                params["multiple_of"] = unit
                if multiplier is not None:
                    params["ffn_dim_multiplier"] = multiplier
                return params
    raise UserError(f"intermediate_size {width} cannot be stated in Meta's params.json")


def read_pickled(folder: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of either form, by Hugging Face's or Meta's names; nothing is loaded yet."""
    import torch

    files = [folder / META_FILE] if (folder / META_FILE).is_file() else sorted(folder.glob("pytorch_model*.bin"))
    found: dict[str, torch.Tensor] = {}
    for file in files:
        found.update(torch.load(file, map_location="cpu", mmap=True, weights_only=True))
    return found


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's numbers as numpy; bfloat16 as ``ml_dtypes``."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_types()["BF16"])
    return tensor.numpy()


def _mapped(entry: Entry) -> torch.Tensor:
    """Return one tensor of a safetensors file as torch sees it, its pages mapped from the file."""
    import torch

    kind = numpy_types()[entry.dtype]
    word = np.dtype(np.int16) if entry.dtype == "BF16" else kind
    # copy on write: torch wants memory that could be written to
    (start, _), *more = entry.pieces
    assert not more  # safetensors are never in pieces
    values = np.memmap(entry.file, word, "c", start, (max(1, entry.size),))[: entry.size]
    tensor = torch.from_numpy(np.asarray(values))
    return (tensor.view(torch.bfloat16) if entry.dtype == "BF16" else tensor).reshape(entry.shape)
