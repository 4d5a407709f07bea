"""Weights on the disk: PEFT adapters and Hugging Face models, as safetensors, written whole."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from backends.weights.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, adding_files


def save_weights(model: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the adapter of a PEFT model, or the whole of any other model, into a directory.

    Args:
        model: what was trained.
        folder: an existing directory.
        dtype: round a whole model to this type; None keeps what it was trained in.
    """
    if hasattr(model, "peft_config"):
        _save_adapter(model, folder)
        return
    # the model itself keeps its type: training goes on after a checkpoint
    state = {name: tensor.detach().to(dtype or tensor.dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    if dtype is not None:
        # save_pretrained writes the type of the model in memory, not that of the tensors it was given
        config = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        # the name of the key depends on the release of transformers
        for key in {"dtype", "torch_dtype"} & config.keys():
            config[key] = str(dtype).removeprefix("torch.")
        (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _save_adapter(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    # "auto" would look for the base on the network, to see whether its vocabulary was changed
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / ADAPTER_WEIGHTS)
    config = copy.copy(model.peft_config["default"])
    # as PEFT's own save_pretrained does: who loads the file wants it frozen
    config.inference_mode = True
    fields = config.to_dict()
    # sets have no order of their own; the same adapter must have the same bytes
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(fields.items())}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def load_weights(model: Any, folder: Path) -> None:
    """Load what :func:`save_weights` wrote into the model, bit for bit.

    Args:
        model: of the same kind and sizes as the one that was saved.
        folder: where it was saved.

    Raises:
        ValueError: a tensor of the model is not in the files.
    """
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS))
        return
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        stored.update(load_file(file))
    # not strict: save_pretrained leaves out tied tensors, which are allowed to be missing
    missing = model.load_state_dict(stored, strict=False).missing_keys
    tied = set(getattr(model, "_tied_weights_keys", None) or [])
    if set(missing) - tied:
        raise ValueError(f"{folder}: tensors are missing: {sorted(set(missing) - tied)}")


def save_final_weights(model: Any, folder: Path, whole_model_dtype: str) -> None:
    """Put the trained weights at the top of the run directory, each file whole or absent.

    Args:
        model: what was trained.
        folder: the run directory.
        whole_model_dtype: type of a whole model's weights; an adapter keeps its own.
    """
    dtype = getattr(torch, whole_model_dtype)
    with adding_files(folder) as temporary:
        save_weights(model, temporary, dtype)
