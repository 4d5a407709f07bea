"""mindformers' Llama from Hugging Face files: configuration, weights and LoRA, every name and shape checked.

Llama (grouped queries, tied or untied embeddings, Llama 3's rotary scaling) and Qwen2, whose only difference is a bias
on query, key and value, are what mindformers' ``LlamaForCausalLM`` carries. Anything else is refused before a tensor is
read. MindSpore is imported when a network is built, after :func:`backends.ascend.device.start`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.exchange.adapters import read_adapter_config
from backends.weights.llama import LlamaShape
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.model_config import config_place, load_config
from backends.weights.names import is_lora, peft_to_mindformers, to_mindformers
from backends.weights.rotary import rotary_settings
from backends.weights.safetensors_files import Tensors, open_tensors
from converters.common.console import say
from converters.common.errors import UserError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

MODEL_TYPES = ("llama", "qwen2")
NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
)
NOT_PLAIN = "the ascend backend runs plain LoRA only; merge the adapter into its base"
ROTARY_BUFFER = ".rotary_emb.inv_freq"  # old Llama files carry it; it is computed from the configuration


@dataclass(frozen=True)
class Lora:
    """An adapter's shape, which :func:`attach` needs to make room for its tensors.

    Attributes:
        modules: mindformers names (``wq`` …) of the adapted layers.
        rank: r, the inner size of the two matrices.
        alpha: the product of the matrices is scaled by alpha / r.
    """

    modules: tuple[str, ...]
    rank: int
    alpha: float


def model_config(folder: Path) -> dict[str, Any]:
    """Translate the configuration of a model directory or GGUF file to arguments of mindformers' ``LlamaConfig``.

    Raises:
        UserError: mindformers' Llama cannot compute this model.
    """
    file, config = config_place(folder), load_config(folder)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{file}: model_type {kind!r}; the ascend backend runs {' and '.join(MODEL_TYPES)} (mindformers' Llama), "
            "--backend cuda runs this one"
        )
    if absent := [key for key in NEEDED if not config.get(key)]:
        raise UserError(f"{file}: no {', '.join(absent)} there")
    shape = LlamaShape.from_config(config, file)
    # what mindformers' Llama has no setting for: a key that says otherwise would be ignored silently
    wanted = {
        "hidden_act": (None, "silu"),
        "mlp_bias": (None, False),
        "use_sliding_window": (None, False),
        "head_dim": (None, shape.hidden // shape.heads),
    }
    for key, values in wanted.items():
        if config.get(key) not in values:
            raise UserError(f"{file}: {key} is {config[key]!r}; mindformers' Llama has {values[-1]!r} only")
    return {
        **shape.to_model_config(),
        "rms_norm_eps": config["rms_norm_eps"],
        # 2048 is transformers' default for Llama
        "max_position_embedding": config.get("max_position_embeddings") or 2048,
        **_rotary(config, file),
    }


def _rotary(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return base and scaling of the rotary positions."""
    theta, rope = rotary_settings(config)
    # mindformers refuses keys that it does not know
    kind = rope.pop("rope_type", "default")
    if kind == "default":
        return {"theta": theta, "extend_method": "None"}
    if kind != "llama3":
        raise UserError(f"{file}: rotary scaling {kind!r}; the ascend backend runs none and llama3's")
    return {
        "theta": theta,
        "extend_method": "LLAMA3",
        "scaling_factor": {**rope, "factor": float(rope["factor"])},  # mindformers takes no whole number there
    }


def lora_config(folder: Path, stored: Tensors) -> Lora:
    """Read an adapter's shape, and refuse what mindformers' LoRA does not compute.

    Args:
        folder: the PEFT adapter's directory.
        stored: its tensors.

    Raises:
        UserError: the adapter is of another kind, or names layers that no Llama has.
    """
    config = read_adapter_config(folder, NOT_PLAIN)
    # by the tensors themselves: target_modules in the file may be a pattern
    modules = {peft_to_mindformers(name).split(".")[-2] for name in stored.names()}
    if not modules:
        raise UserError(f"{stored.path}: no LoRA matrices there")
    return Lora(tuple(sorted(modules)), int(config["r"]), float(config["lora_alpha"]))


def load_network(files: CheckpointFiles, dtype: str, **settings: Any) -> Any:
    """Build mindformers' Llama with the weights of a checkpoint; an adapter is attached, not merged.

    Args:
        files: the checkpoint.
        dtype: of weights and matrix products; norms, softmax and rotary positions are computed in float32.
        settings: further arguments of ``LlamaConfig``, such as ``seq_length`` and ``use_past``.

    Returns:
        ``LlamaForCausalLM`` in evaluation mode.

    Raises:
        UserError: the model is not one that mindformers carries, or its files do not fit it to the last tensor.
    """
    from mindformers import LlamaConfig, LlamaForCausalLM
    from mindspore.nn.utils import no_init_parameters

    folder = files.base or files.path
    sizes = model_config(folder)
    options = {
        "batch_size": 1,
        "seq_length": 1,
        "pad_token_id": files.tokenizer.pad_id,
        "compute_dtype": dtype,
        "param_init_type": dtype,
        "layernorm_compute_type": "float32",
        "softmax_compute_type": "float32",
        "rotary_dtype": "float32",
        # the next three have no CPU kernel; the paged settings turn flash attention on again
        "use_flash_attention": False,
        "use_rope_slice": True,
        "fused_rms_norm": False,
    }
    adapter = open_tensors(files.path) if files.base else None
    lora = lora_config(files.path, adapter) if adapter is not None else None
    # no random numbers are drawn for weights that `fill` replaces
    with no_init_parameters():
        network = LlamaForCausalLM(LlamaConfig(**{**options, **sizes, **settings}))
        if lora is not None:
            network = attach(network, lora)
    network.set_train(False)
    tied = sizes["tie_word_embeddings"]
    fill(network, open_weights(folder), adapter, tied=tied)
    return network


def attach(network: Any, lora: Lora) -> Any:
    """Put mindpet's LoRA beside the layers that ``lora`` names.

    This is what mindformers' ``get_pet_model`` does, without its wrapper and without the file that it leaves in the
    user's directory.
    """
    from mindformers.pet.pet_config import LoraConfig
    from mindformers.pet.tuners.lora_adapter import LoraAdapter

    # mindformers uses re.match on the layer's own name: without $ a name would match longer ones, too
    chosen = "|".join(f"{name}$" for name in lora.modules)
    config = LoraConfig(lora_rank=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=chosen)
    return LoraAdapter.get_pet_model(network, config)


def fill(network: Any, base: Tensors, adapter: Tensors | None, *, tied: bool) -> None:
    """Put stored tensors into a network, one at a time, after all names and shapes have been compared.

    Args:
        network: mindformers' Llama.
        base: the frozen model's tensors by Hugging Face names.
        adapter: LoRA tensors by PEFT names.
        tied: the network has no ``lm_head`` of its own.

    Raises:
        UserError: tensors are missing or too many, or have another shape; nothing is half loaded.
    """
    import mindspore as ms

    held = {parameter.name: parameter for parameter in network.get_parameters()}
    found: dict[str, tuple[Tensors, str]] = {}
    for stored, name, ours in [*_named(base, tied), *((adapter, n, peft_to_mindformers(n)) for n in adapter or ())]:
        assert stored is not None
        if ours not in held:
            raise UserError(f"{stored.path}: {name} has no place in this model")
        if tuple(stored.shape(name)) != tuple(held[ours].shape):
            raise UserError(
                f"{stored.path}: {name} is {list(stored.shape(name))}, where the model has {list(held[ours].shape)}"
            )
        found[ours] = (stored, name)
    absent = sorted(held.keys() - found.keys())
    if absent:
        where = adapter.path if adapter is not None and is_lora(absent[0]) else base.path
        raise UserError(f"{where}: {len(absent)} tensors of the model are missing, {absent[0]} first")
    for ours, (stored, name) in found.items():
        # float32 holds every float16 and bfloat16 value exactly
        values = np.ascontiguousarray(stored.read(name), dtype=np.float32)
        held[ours].set_data(ms.Tensor(values).astype(held[ours].dtype))


def _named(base: Tensors, tied: bool) -> Iterator[tuple[Tensors, str, str]]:
    """Yield the base's tensors with the names that mindformers gives them."""
    for name in base.names():
        if name.endswith(ROTARY_BUFFER):
            continue
        if tied and name == "lm_head.weight":
            say(f"{base.path}: lm_head.weight is left out, since config.json ties it to the embedding")
            continue
        yield base, name, to_mindformers(name)
