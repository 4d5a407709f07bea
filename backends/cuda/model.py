"""Models for the torch backend: from a checkpoint or from random weights, with or without LoRA.

A checkpoint is what a user has: a run directory, a PEFT adapter directory, a Hugging Face model directory, or a GGUF
file. Nothing is fetched over the network and no remote code is run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.cuda.processes import speak
from backends.recipe.types import ModelConfig, PetConfig
from backends.run.machine import allowed_cores, cpu_threads
from backends.weights.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG
from backends.weights.llama import LlamaShape, check_shapes
from backends.weights.lora import LINEAR_LAYERS, hf_modules, initial_lora_a
from backends.weights.model_config import has_config, load_config, model_shape
from backends.weights.rotary import rotary_settings
from converters.common.errors import UsageError, UserError, first_line
from converters.common.gguf_file import is_gguf
from converters.common.reader import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from converters.tokenizers.base import Tokenizer


def choose_device(name: str) -> torch.device:
    """Return the device; ``auto`` falls back to the CPU and says so, ``cuda`` does not.

    Raises:
        UserError: ``cuda`` was asked for and there is none.
    """
    import os

    import torch

    if name != "cpu" and torch.cuda.is_available():
        # torchrun numbers the processes of a machine: one card each
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    if name == "cuda":
        built = torch.version.cuda
        why = "the driver sees no device" if built else f"torch {torch.__version__} is built for the CPU only"
        raise UserError(f"--device cuda: no CUDA device ({why}); --device cpu or auto runs without one")
    # torch counts the cores of the affinity, and knows nothing of a container's quota
    threads = min(torch.get_num_threads(), cpu_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    torch.set_num_threads(threads)
    if name == "auto":
        count = f"{threads} thread{'s' * (threads > 1)}"
        speak(f"device: CPU, {count} on {allowed_cores()} allowed cores (no CUDA device found)")
    return torch.device("cpu")


def choose_dtype(
    name: str, stated: str, device: torch.device, *, source: str = "recipe", flags: Sequence[str] = ()
) -> torch.dtype:
    """Return the type of the matrix products, and say why where it is not the stated one.

    Args:
        name: a type of torch, or ``auto``: the stated one on CUDA; on a CPU float32, or bfloat16 where it is stated
            and the processor multiplies it faster.
        stated: the recipe's or the checkpoint's type.
        device: where the products are computed.
        source: who states it, for the message.
        flags: the processor's units for bfloat16 products (:func:`backends.run.machine.bf16_flags`). Training alone
            passes them: in bfloat16 two nearly equal logits may change places with the shape of a batch, and an answer
            must not depend on its batch.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type != "cpu":
        return getattr(torch, stated)
    # float16 has no fast products on a CPU, and its gradients overflow
    if stated == "bfloat16" and flags:
        speak(f"precision: bfloat16 products ({flags[0]}), weights in float32 (compute_dtype=float32 turns them off)")
        return torch.bfloat16
    if stated != "float32":
        why = "is for accelerators" if source != "recipe" else "is slow on this processor"
        speak(f"precision: float32 (the {source}'s {stated} {why}; --dtype forces it here)")
    return torch.float32


def llama_config(config: ModelConfig, tokenizer: Tokenizer | None = None) -> Any:
    """Return the Hugging Face configuration of a Llama that starts from random weights (``run_mode: train``).

    Args:
        config: the recipe's ``model_config``.
        tokenizer: gives the special ids; None leaves transformers' own.
    """
    from transformers import LlamaConfig

    ids = {}
    if tokenizer is not None:
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
    sizes = LlamaShape.from_recipe(config).to_config()
    del sizes["model_type"]  # the class says it
    return LlamaConfig(
        **sizes,
        # 2048 is transformers' own default for Llama; longer rows need more
        max_position_embeddings=config.max_position_embedding or max(2048, config.seq_length),
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.theta,
        initializer_range=config.init_method_std,
        **ids,
    )


def new_model(config: Any, seed: int, attention: str) -> PreTrainedModel:
    """Return a causal model with random weights in float32, the same for the same seed.

    Args:
        config: the Hugging Face configuration.
        seed: of torch's random numbers.
        attention: ``attn_implementation``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def read_config(path: str | Path) -> Any:
    """Read the Hugging Face configuration of a model directory or a GGUF file.

    Raises:
        UsageError: there is no such path or no model in it.
        UserError: the configuration cannot be understood.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    folder = Path(path)
    if is_gguf(folder):
        config = load_config(folder)
        return CONFIG_MAPPING[config["model_type"]].from_dict(config)
    if not folder.is_dir():
        raise UsageError(f"{path}: no such model directory or GGUF file")
    if not has_config(folder):
        raise UsageError(f"{path}: no {MODEL_CONFIG} there; a Hugging Face model directory is expected")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder / MODEL_CONFIG}: {first_line(error)}") from error
    stated = read_json(folder / MODEL_CONFIG)
    if "rope_theta" in (stated.get("rope_parameters") or {}) and hasattr(config, "rope_theta"):
        # transformers 4 takes its default base, silently, where transformers 5 wrote the file
        config.rope_theta, scaling = rotary_settings(stated)
        config.rope_scaling = scaling or None
    return config


def read_model(path: str | Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """Load the model of a Hugging Face directory, from safetensors only, or of a GGUF file.

    Args:
        path: the directory or file.
        dtype: type of the weights in memory.
        attention: ``attn_implementation``.

    Raises:
        UsageError: there is no such directory or no model in it.
        UserError: the weights cannot be read, or some are missing.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    config = read_config(path)
    loading = {"config": config, "dtype": dtype, "attn_implementation": attention, "output_loading_info": True}
    try:
        if is_gguf(path):
            # from memory: transformers' own reader of such files keeps them open, and saving is then refused
            kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model, report = kind.from_pretrained(None, state_dict=_state(path, dtype), **loading)
        else:
            model, report = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, use_safetensors=True, **loading
            )
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: the weights cannot be read ({first_line(error)})") from error
    # transformers only warns of them, and leaves random numbers in their place
    missing = report["missing_keys"]
    if missing:
        raise UserError(f"{path}: {len(missing)} tensors are missing, {sorted(missing)[0]} first")
    if report["unexpected_keys"]:
        speak(f"{path}: {len(report['unexpected_keys'])} tensors the model has no use for were left out")
    return model


def _state(path: str | Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Read all weights of a GGUF model, each rounded to the type that it shall have in memory."""
    import numpy as np
    import torch

    from backends.weights.gguf_model import open_gguf_tensors

    tensors = open_gguf_tensors(path)
    check_shapes({name: tensors.shape(name) for name in tensors}, model_shape(path).parameter_shapes(), path, "itself")
    # by way of float32, which holds every float16 and bfloat16 value exactly: torch does not read numpy's bfloat16
    return {name: torch.from_numpy(tensors.read(name).astype(np.float32)).to(dtype) for name in tensors}


def add_lora(model: PreTrainedModel, pet: PetConfig, seed: int, base: str) -> Any:
    """Freeze the model and add LoRA with the start that every backend shares (A drawn from the seed, B zero).

    Args:
        model: the base, changed in place.
        pet: the recipe's ``pet_config``.
        seed: that the A matrices are drawn from.
        base: where the base lies, as the adapter shall name it.

    Returns:
        The PEFT model.

    Raises:
        UserError: no layer of this model has a chosen name.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    names = hf_modules(pet)
    rank = pet.lora_rank
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        # adapter_config.json says 16, not 16.0: PEFT declares the field a whole number
        lora_alpha=int(pet.lora_alpha) if float(pet.lora_alpha).is_integer() else pet.lora_alpha,
        lora_dropout=pet.lora_dropout,
        target_modules=names,
        bias="none",
    )
    model.name_or_path = base  # what PEFT writes into the adapter
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"pet_config.target_modules: {pet.target_modules!r}: {first_line(error)}") from error
    # the start is drawn by mindformers' layer names, so that both backends draw the same
    mindformers_name = {module.split(".")[1]: name for name, module in LINEAR_LAYERS.items()}
    for name, parameter in tuned.named_parameters():
        # e.g. base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight
        found = re.search(r"layers\.(\d+)\..*?(\w+)\.lora_A\.", name)
        if found and parameter.requires_grad:
            start = initial_lora_a(seed, int(found[1]), mindformers_name[found[2]], rank, parameter.shape[1])
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(start))
    return tuned


@dataclass(frozen=True)
class Loaded:
    """What :func:`load_model` found.

    Attributes:
        base: directory of the base under an adapter; None for a whole model.
        adapter_tensors: number of the adapter's tensors; 0 for a whole model.
    """

    base: Path | None
    adapter_tensors: int


def load_model(
    path: str | Path, device: torch.device, dtype: torch.dtype, base: str | Path | None = None
) -> tuple[Any, Loaded]:
    """Load an adapter on its base, or a whole model, for generation and evaluation.

    Args:
        path: directory with an adapter or a whole model: a run, a checkpoint of it, or one from elsewhere.
        device: where to put it.
        dtype: type of the weights.
        base: the frozen model under an adapter, if it is not where the adapter says.

    Returns:
        The model in evaluation mode on the device, and what was found.

    Raises:
        UsageError: there is nothing to load.
        UserError: the adapter does not fit the base, to the last tensor.
    """
    folder = Path(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        return read_model(folder, dtype, "sdpa").to(device).eval(), Loaded(None, 0)
    from peft import PeftModel
    from safetensors import safe_open

    below = Path(base or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    model = PeftModel.from_pretrained(read_model(below, dtype, "sdpa"), str(folder))
    # PEFT only warns of tensors that are missing, so names are compared here
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        stored = set(file.keys())
    # in memory the adapter's name stands in each parameter's name; in the file it does not
    held = {name.replace(".default.", ".") for name in model.state_dict() if ".lora_" in name}
    if stored != held:
        odd = sorted(stored ^ held)
        raise UserError(f"{folder}: {len(odd)} adapter tensors do not match the base {below}, {odd[0]} first")
    return model.to(device).eval(), Loaded(below, len(stored))
