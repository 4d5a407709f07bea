"""Trained parameters and AdamW's moments: out of a MindSpore training step into files, and back, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backends.weights.files import ADAPTER_WEIGHTS
from backends.weights.names import is_lora, mindformers_to_peft, peft_to_mindformers, to_hf, to_mindformers
from backends.weights.safetensors_files import ShardWriter, Tensors, open_tensors
from converters.common.errors import UserError

OPTIMIZER = "optimizer"
STEP = "global_step"


def trained_values(optimizer: Any) -> dict[str, np.ndarray]:
    """Values of the trained parameters, by mindformers' names."""
    return {parameter.name: parameter.asnumpy() for parameter in optimizer.parameters}


def save_moments(optimizer: Any, folder: Path) -> None:
    """Write the moments and the number of steps into ``optimizer.safetensors``."""
    with ShardWriter(folder, max_shard_bytes=None, stem=OPTIMIZER) as writer:
        for moments in (optimizer.exp_avg, optimizer.exp_avg_sq):
            for moment in moments:
                writer.add(moment.name, moment.asnumpy())
        writer.add(STEP, optimizer.global_step.asnumpy())


def restore(optimizer: Any, folder: Path) -> None:
    """Take back what a checkpoint holds: parameters, moments, number of steps.

    Raises:
        UserError: the checkpoint lacks a tensor or has one of another shape.
    """
    weights, moments = open_tensors(folder), open_tensors(folder / f"{OPTIMIZER}.safetensors")
    adapter = (folder / ADAPTER_WEIGHTS).is_file()
    names = {(peft_to_mindformers if adapter else to_mindformers)(name): name for name in weights.names()}
    for parameter in optimizer.parameters:
        _set(parameter, weights, names.get(parameter.name, parameter.name))
    for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq):
        _set(moment, moments, moment.name)
    _set(optimizer.global_step, moments, STEP)


def _set(parameter: Any, tensors: Tensors, name: str) -> None:
    from mindspore import Tensor

    values = tensors.read(name)
    if tuple(values.shape) != tuple(parameter.shape):
        raise UserError(f"{tensors.path}: {name} has shape {list(values.shape)}, expected {list(parameter.shape)}")
    parameter.set_data(Tensor(values, dtype=parameter.dtype))


def peft_names(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LoRA matrices under the names of ``adapter_model.safetensors``, in the order of their names, as PEFT has them."""
    return dict(sorted((mindformers_to_peft(name), value) for name, value in values.items() if is_lora(name)))


def hf_names(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of a whole model under their Hugging Face names."""
    return {to_hf(name): value for name, value in values.items()}
