"""The weights that training starts from, as one file in mindformers' names, every tensor checked.

mindformers only warns of a weight that it does not find, and then trains on random numbers. So names and shapes are
compared here, before it reads anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backends.ascend.sizes import lora_shapes, parameter_shapes
from backends.recipe.types import Recipe
from backends.weights.dtypes import FLOATS, numpy_types
from backends.weights.files import writing_directory
from backends.weights.llama import check_shapes
from backends.weights.lora import initial_lora_a
from backends.weights.mindspore_ckpt import CkptWriter, open_weights
from backends.weights.names import is_lora, to_mindformers
from backends.weights.safetensors_files import ShardWriter
from converters.common.gguf_file import is_gguf

START = "start"
# buffers of older Hugging Face checkpoints, and optimizer state and counters of mindformers ones: no weights
NO_WEIGHTS = ("rotary_emb.inv_freq", "adam_m.", "adam_v.", "global_step", "epoch_num", "step_num", "loss_scale")


def write_start(recipe: Recipe, sizes: dict[str, Any], folder: Path, dtype: str, form: str = "safetensors") -> Path:
    """Write base and LoRA as mindformers reads them; the file is whole or absent.

    Args:
        recipe: says where the base is; without one, weights are drawn from the seed.
        sizes: as :func:`backends.ascend.sizes.model_sizes`.
        folder: becomes the directory of the file.
        dtype: float32, bfloat16 or float16: the type of the frozen weights. What is trained is float32.
        form: ``safetensors``, or ``ckpt``, the only one that several workers with a whole model each can read.

    Returns:
        The path of the file.

    Raises:
        UserError: a weight is missing, unknown or of another shape.
    """
    shapes, lora = parameter_shapes(sizes), lora_shapes(sizes, recipe)
    kind = numpy_types()[FLOATS[dtype if recipe.pet is not None else "float32"]]
    source = _checked(recipe, shapes, lora) if recipe.load_checkpoint else _drawn(recipe, shapes)
    held = set()
    with writing_directory(folder) as temporary, _writer(temporary, form) as writer:
        for name, values in source:
            held.add(name)
            writer.add(name, values.astype(np.float32 if name in lora else kind, copy=False))
        for name, values in initial_lora(recipe.seed, lora):
            # a mindformers file may bring LoRA matrices of its own, and training goes on with them
            if name not in held:
                writer.add(name, values)
    return folder / f"{START}.{form}"


def _writer(folder: Path, form: str) -> CkptWriter | ShardWriter:
    if form == "ckpt":
        return CkptWriter(folder / f"{START}.ckpt")
    return ShardWriter(folder, max_shard_bytes=None, stem=START)


def initial_lora(seed: int, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and first value of every LoRA matrix, the same on every backend: a drawn from the seed, b zero.

    Args:
        seed: of the recipe.
        shapes: a is [r, in], b is [out, r].
    """
    for name, shape in shapes.items():
        if name.endswith("_b"):
            yield name, np.zeros(shape, np.float32)
        else:
            # model.layers.3.attention.wq.mindpet_delta_lora_a
            _, _, layer, _, linear, _ = name.split(".")
            yield name, initial_lora_a(seed, int(layer), linear, *shape)


def _checked(
    recipe: Recipe, shapes: dict[str, tuple[int, ...]], lora: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Compare all of the base's weights with what is expected, then return them one by one, in mindformers' names."""
    path = Path(recipe.load_checkpoint)
    tensors = open_weights(path)
    # a mindformers file has mindformers' names already; a directory and GGUF have Hugging Face's
    renamed = path.is_dir() or is_gguf(path)
    names: dict[str, str] = {}
    for stored in tensors.names():
        if any(part in stored for part in NO_WEIGHTS):
            continue
        name = to_mindformers(stored) if renamed else stored
        if name == "lm_head.weight" and name not in shapes:
            continue  # tied: the embedding is the head
        names[name] = stored
    check_names(path, {name: tensors.shape(stored) for name, stored in names.items()}, shapes, lora)
    # not `yield`: that would put off the checks above to the first read, when the output is open already
    return ((name, tensors.read(names[name])) for name in [*shapes, *lora] if name in names)


def check_names(
    path: Path,
    found: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
    lora: dict[str, tuple[int, ...]],
) -> None:
    """Compare the tensors of a checkpoint with what the recipe's model has, one to one.

    LoRA matrices may be all absent (training starts new ones) or all there (training continues with them).

    Args:
        path: of the checkpoint, for messages.
        found: name and shape of its tensors.
        shapes: name and shape of the base's weights.
        lora: name and shape of the LoRA matrices.

    Raises:
        UserError: a tensor is missing, is too many, or has another shape; LoRA matrices are named by rank and layer.
    """
    adapter = {name: shape for name, shape in found.items() if is_lora(name)}
    if adapter:
        check_shapes(adapter, lora, f"LoRA of {path}", "the recipe's pet_config")
    base = {name: shape for name, shape in found.items() if name not in adapter}
    check_shapes(base, shapes, path, "the recipe's model")


def _drawn(recipe: Recipe, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield random weights: normal with ``init_method_std``, norms one, biases zero."""
    spread = recipe.model.model_config.init_method_std
    for name, shape in shapes.items():
        if len(shape) == 1:
            yield name, np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
            continue
        # a stream for each weight: its values depend on seed and name, not on the order of drawing
        key = hashlib.sha256(f"weight/{recipe.seed}/{name}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
        yield name, (generator.standard_normal(shape, dtype=np.float32) * np.float32(spread))
