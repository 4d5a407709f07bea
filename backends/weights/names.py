"""Names of weights: Hugging Face and PEFT on one side, mindformers on the other.

Both hold a Llama's (and a Qwen2's) linear layers as [out, in] and split rotary pairs into halves, so that going from
one to the other is renaming, one to one; the table is ``LlamaForCausalLM.convert_name`` of mindformers, read both ways.
LoRA matrices are renamed like the layer they belong to: A is [r, in] and B is [out, r] on both sides.
"""

from __future__ import annotations

import re

from backends.weights.lora import LINEAR_LAYERS
from converters.common.errors import UserError

# mindformers → Hugging Face, outside the decoder layers …
OUTSIDE_LAYERS = {
    "model.tok_embeddings.embedding_weight": "model.embed_tokens.weight",
    "model.norm_out.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
# … and inside: the modules that follow model.layers.N.
LAYER_MODULES = {
    **{f"{'attention' if hf.startswith('self_attn') else 'feed_forward'}.{mf}": hf for mf, hf in LINEAR_LAYERS.items()},
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# those that may have a bias or a LoRA
LINEAR_MODULES = {module: hf for module, hf in LAYER_MODULES.items() if hf.split(".")[-1].endswith("_proj")}

_OUTSIDE_TO_MF = {hf: mf for mf, hf in OUTSIDE_LAYERS.items()}
_MODULES_TO_MF = {hf: mf for mf, hf in LAYER_MODULES.items()}
# no leading zeros: each weight has one name
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]*)\.(.+)\.(weight|bias)")
# files have it without the adapter's name ("default"), a live model's state has it with
_PEFT = re.compile(r"base_model\.model\.model\.layers\.(0|[1-9][0-9]*)\.(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_MINDPET = re.compile(r"model\.layers\.(0|[1-9][0-9]*)\.(.+)\.mindpet_delta_lora_([ab])")


def to_mindformers(name: str) -> str:
    """Return the mindformers name of a Hugging Face Llama or Qwen2 weight.

    ``model.layers.0.self_attn.q_proj.weight`` → ``model.layers.0.attention.wq.weight``.

    Raises:
        UserError: no Llama or Qwen2 has a weight of this name.
    """
    renamed = _renamed(name, _OUTSIDE_TO_MF, _MODULES_TO_MF)
    if renamed is None:
        raise UserError(f"{name}: not the name of a weight of a Hugging Face Llama or Qwen2")
    return renamed


def to_hf(name: str) -> str:
    """Return the Hugging Face name of a mindformers Llama weight; the inverse of :func:`to_mindformers`.

    Raises:
        UserError: mindformers' Llama has no weight of this name.
    """
    renamed = _renamed(name, OUTSIDE_LAYERS, LAYER_MODULES)
    if renamed is None:
        raise UserError(f"{name}: not the name of a weight of mindformers' Llama")
    return renamed


def peft_to_mindformers(name: str) -> str:
    """Return the mindformers name of a LoRA matrix of a PEFT adapter.

    ``base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`` →
    ``model.layers.0.attention.wq.mindpet_delta_lora_a``; the form with ``.default.`` of a live model is taken too.

    Raises:
        UserError: it is not a LoRA matrix of a linear layer that mindformers' Llama has.
    """
    found = _PEFT.fullmatch(name)
    module = _MODULES_TO_MF.get(found[2]) if found else None
    if found is None or module not in LINEAR_MODULES:
        raise UserError(f"{name}: not a LoRA matrix of a linear layer of a Llama or Qwen2 decoder")
    return f"model.layers.{found[1]}.{module}.mindpet_delta_lora_{found[3].lower()}"


def mindformers_to_peft(name: str) -> str:
    """Return the name that a mindformers LoRA matrix has in ``adapter_model.safetensors``.

    The inverse of :func:`peft_to_mindformers`.

    Raises:
        UserError: it is not a LoRA matrix of mindformers' Llama.
    """
    found = _MINDPET.fullmatch(name)
    if found is None or found[2] not in LINEAR_MODULES:
        raise UserError(f"{name}: not a LoRA matrix (mindpet_delta_lora_a, _b) of mindformers' Llama")
    return f"base_model.model.model.layers.{found[1]}.{LINEAR_MODULES[found[2]]}.lora_{found[3].upper()}.weight"


def is_lora(name: str) -> bool:
    """Say whether a name, on either side, is a LoRA matrix."""
    return ".lora_" in name or ".mindpet_delta_lora_" in name


def _renamed(name: str, outside: dict[str, str], modules: dict[str, str]) -> str | None:
    """Rename a weight by the two tables; None if they do not have it. Only linear layers may have a bias."""
    found = _LAYER.fullmatch(name)
    if found is None:
        return outside.get(name)
    number, module, kind = found.groups()
    # either way: the name may be of one side or the other
    linear = module in LINEAR_MODULES or module in LINEAR_MODULES.values()
    if module not in modules or (kind == "bias" and not linear):
        return None
    return f"model.layers.{number}.{modules[module]}.{kind}"
