"""Meta's own layout, read as Hugging Face weights.

The rows of q and k are put in the other order (:mod:`backends.weights.rotary`). Shards hold parts of matrices, which
are joined along the dimension that Meta's model parallelism splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backends.exchange.models import Item, Source, exchangeable_shape, make_source, read_model_config
from backends.weights.dtypes import numpy_types, type_name
from backends.weights.llama import EMBEDDING, HEAD, LlamaShape
from backends.weights.names import to_hf
from backends.weights.rotary import halves_from_pairs
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json

PARAMS = "params.json"
_SHARD = re.compile(r"consolidated\.\d\d\.pth")
_ROWS = re.compile(r"\.(wq|wk|wv|w1|w3)\.weight$|^output\.weight$")  # split along their rows
_COLUMNS = re.compile(r"\.(wo|w2)\.weight$")
# BOS and EOS by vocabulary: Llama 1 and 2, and Llama 3
SPECIAL_IDS = {32000: (1, 2), 128256: (128000, 128001)}
CONTEXT = {32000: 4096, 128256: 8192}


def hf_name(name: str) -> str:
    """Return the Hugging Face name of one of Meta's; mindformers kept Meta's names of the layers.

    Raises:
        UserError: Meta's Llama has no weight of this name.
    """
    outside = {
        "tok_embeddings.weight": EMBEDDING,
        "norm.weight": "model.norm.weight",
        "output.weight": HEAD,
    }
    return outside[name] if name in outside else to_hf(f"model.{name}")


def meta_source(folder: Path, config: str | Path | None = None) -> Source:
    """Open a directory with ``consolidated.NN.pth`` and ``params.json``. Reading the pickles needs torch.

    Args:
        folder: the directory.
        config: ``config.json`` or a model directory; None makes one of ``params.json``.

    Returns:
        The model with Hugging Face names, q and k in halves, shards joined when a tensor is read.

    Raises:
        UsageError: a file is missing.
        UserError: a file is damaged, shards do not fit each other, or the weights do not fit the configuration.
    """
    shards = _open_shards(folder)
    params = read_json(folder / PARAMS)
    # a table that is computed from rope_theta
    names = [name for name in shards[0] if name != "rope.freqs"]
    for number, shard in enumerate(shards):
        if set(shard) - {"rope.freqs"} != set(names):
            raise UserError(f"{folder}: shard {number:02d} holds other weights than shard 00")
    axes = {name: _split_axis(name, shards, params) for name in names}
    shapes = {name: _joined_shape(name, shards, axes[name]) for name in names}
    found = read_model_config(config) if config is not None else _config_from_params(params, shapes, folder / PARAMS)
    shape = exchangeable_shape(found, config or folder / PARAMS)
    items = {}
    for name in names:
        kind = type_name(_numpy_type(shards[0][name]))
        read = partial(_read_joined, name, shards, axes[name])
        items[hf_name(name)] = Item(shapes[name], kind, read_in_halves(read, name, shape))
    return make_source(folder, found, config or folder / PARAMS, items, folder)


def _open_shards(folder: Path) -> list[dict[str, Any]]:
    if not (folder / PARAMS).is_file():
        raise UsageError(f"{folder}: no {PARAMS} there")
    files = sorted(file for file in folder.glob("consolidated.*.pth") if _SHARD.fullmatch(file.name))
    # "or 1": an empty directory lacks the first shard
    for wanted in (folder / f"consolidated.{number:02d}.pth" for number in range(len(files) or 1)):
        if wanted not in files:
            raise UsageError(f"{folder}: {wanted.name} is missing")
    try:
        import torch
    # torch is needed for pickles alone, so it may well be absent
    except ImportError as error:
        raise UserError(f"{folder}: reading .pth files needs torch: pip install torch") from error
    shards = []
    for file in files:
        try:
            # weights_only: a pickle must not run code; mmap: a shard's pages are read when its tensors are
            shards.append(torch.load(file, map_location="cpu", weights_only=True, mmap=True))
        except Exception as error:  # torch raises whatever the damaged byte leads to
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{file}: not a whole weights file of PyTorch ({first[:120]})") from error
        if not isinstance(shards[-1], dict) or not all(
            isinstance(value, torch.Tensor) for value in shards[-1].values()
        ):
            raise UserError(f"{file}: not a mapping of names to tensors")
    return shards


def _split_axis(name: str, shards: list[dict[str, Any]], params: dict[str, Any]) -> int | None:
    """Return along which dimension shards split a weight; None if each holds all of it."""
    if len(shards) == 1:
        return None
    if name == "tok_embeddings.weight":
        # Llama 1 and 2 split the width, Llama 3 the vocabulary
        return 0 if shards[0][name].shape[1] == params.get("dim") else 1
    return 0 if _ROWS.search(name) else 1 if _COLUMNS.search(name) else None


def _joined_shape(name: str, shards: list[dict[str, Any]], axis: int | None) -> tuple[int, ...]:
    shapes = [tuple(shard[name].shape) for shard in shards]
    if axis is None:
        return shapes[0]
    width = sum(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], width, *shapes[0][axis + 1 :])


def _numpy_type(tensor: Any) -> np.dtype[Any]:
    name = str(tensor.dtype).removeprefix("torch.")
    return numpy_types()["BF16"] if name == "bfloat16" else np.dtype(name)


def _read_joined(name: str, shards: list[dict[str, Any]], axis: int | None) -> np.ndarray:
    import torch

    parts = [shard[name].contiguous() for shard in (shards if axis is not None else shards[:1])]
    # numpy has no bfloat16: the bytes are taken and named anew
    arrays = [
        part.reshape(-1).view(torch.uint8).numpy().view(_numpy_type(part)).reshape(tuple(part.shape)) for part in parts
    ]
    return arrays[0] if axis is None else np.concatenate(arrays, axis)


def read_in_halves(read: Callable[[], np.ndarray], name: str, shape: LlamaShape) -> Callable[[], np.ndarray]:
    """Return a reader of one of Meta's weights that puts the rows of q and k in halves and leaves others as they are.

    Args:
        read: returns the weight [out, in] in Meta's order.
        name: Meta's name of it, such as ``layers.0.attention.wq.weight``.
        shape: of the model; says how many heads q and k have.
    """
    if name.endswith((".wq.weight", ".wk.weight")):
        return lambda: halves_from_pairs(read(), shape.heads if name.endswith(".wq.weight") else shape.kv_heads)
    return read


def _config_from_params(params: Any, shapes: dict[str, tuple[int, ...]], source: Path) -> dict[str, Any]:
    """Return the Hugging Face configuration of ``params.json``; the weights say what it leaves out."""
    needed = ("dim", "n_layers", "n_heads")
    if not isinstance(params, dict) or not all(isinstance(params.get(key), int) for key in needed):
        raise UserError(f"{source}: {', '.join(needed)} are expected")
    # params.json has the switch but not the factors, and guessed ones would make another model
    if params.get("use_scaled_rope"):
        raise UserError(f"{source}: use_scaled_rope without its factors: name the model's config.json with --config")
    if "layers.0.feed_forward.w1.weight" not in shapes or "tok_embeddings.weight" not in shapes:
        raise UserError(f"{source.parent}: no weights of a Llama there")
    # the weights are asked, since params.json need not state it
    vocab = shapes["tok_embeddings.weight"][0]
    # params.json has none of these: the vocabulary tells which Llama it is
    bos, eos = SPECIAL_IDS.get(vocab, (1, 2))
    shape = LlamaShape(
        layers=params["n_layers"],
        hidden=params["dim"],
        intermediate=shapes["layers.0.feed_forward.w1.weight"][0],
        heads=params["n_heads"],
        kv_heads=params.get("n_kv_heads") or params["n_heads"],
        head_dim=params["dim"] // params["n_heads"],
        vocab=vocab,
    )
    return shape.to_config() | {
        "max_position_embeddings": CONTEXT.get(vocab, 2048),
        "rms_norm_eps": params.get("norm_eps", 1e-5),
        "rope_theta": float(params.get("rope_theta", 10000.0)),
        "bos_token_id": bos,
        "eos_token_id": eos,
    }
