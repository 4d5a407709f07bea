"""A GGUF model as Hugging Face weights and configuration: dequantized, renamed, rows of q and k put back.

What llama.cpp's ``convert_hf_to_gguf.py`` changes is undone here: it reorders the rows of a Llama's q and k into rotary
pairs (not those of Qwen2 and Gemma), adds 1 to Gemma's norms, and writes Llama 3's rotary scaling as a tensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.weights.dtypes import numpy_types
from backends.weights.llama import EMBEDDING, HEAD, LlamaShape
from backends.weights.rotary import halves_from_pairs, llama3_scaling
from backends.weights.safetensors_files import Entry, Tensors
from converters.common.errors import UserError
from converters.common.gguf_file import GgufFile, GgufTensor, open_gguf
from converters.tokenizers.gguf_vocabulary import special_token

# general.architecture, which is model_type in config.json as well
FAMILIES = ("llama", "qwen2", "gemma")
ROPE_FREQS = "rope_freqs.weight"
OUTSIDE_LAYERS = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "output.weight": HEAD,
}
LAYER_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# stored as they are; the bits of BF16 are uint16 for numpy
PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
# settings that make another model of the same tensors; 0 and absent are the same
_OTHER_MODELS = (
    "expert_count",
    "attention.sliding_window",
    "attention.scale",
    "attention.max_alibi_bias",
    "attention.clamp_kqv",
    "attention.logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "rope.scaling.attn_factor",
)


class GgufTensors(Tensors):
    """The tensors of a GGUF model by Hugging Face name; quantised ones are F32 here."""

    def __init__(self, gguf: GgufFile, config: Mapping[str, Any]) -> None:
        self.stored = {hf_name(gguf, name): tensor for name, tensor in gguf.tensors.items() if name != ROPE_FREQS}
        entries = {
            name: Entry(tensor.file, PLAIN.get(tensor.kind, "F32"), tensor.shape, ((tensor.start, tensor.nbytes),))
            for name, tensor in self.stored.items()
        }
        super().__init__(gguf.path, entries, {})
        self.family = config["model_type"]
        self.heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}

    def read(self, name: str) -> np.ndarray:
        """Read one tensor in Hugging Face's form.

        Raises:
            UserError: there is no such tensor, the file has changed since it was opened, or its quantisation cannot be
                undone here.
        """
        self._entry(name)
        values = _dequantized(self.stored[name])
        heads = self.heads.get(name.split(".")[-2]) if self.family == "llama" else None
        if heads is not None:
            # a contiguous copy, as every reader of tensors gives
            return np.ascontiguousarray(halves_from_pairs(values, heads))
        # its weights are around 0 in Hugging Face's form, and llama.cpp multiplies with them as they are
        if self.family == "gemma" and name.endswith("norm.weight"):
            return values - np.ones((), values.dtype)
        return values


def open_gguf_tensors(path: str | os.PathLike[str]) -> GgufTensors:
    """Open the weights of a GGUF model.

    Raises:
        UsageError: there is no such file.
        UserError: as :func:`converters.common.gguf_file.open_gguf` and :func:`gguf_config`.
    """
    gguf = open_gguf(path)
    return GgufTensors(gguf, gguf_config(gguf))


def hf_name(gguf: GgufFile, name: str) -> str:
    """Return the Hugging Face name of a tensor.

    Raises:
        UserError: no model of the families that are read has such a tensor.
    """
    if name in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[name]
    found = _LAYER.fullmatch(name)
    if found is None or found[2] not in LAYER_MODULES:
        raise UserError(f"{gguf.path}: no Llama, Qwen2 or Gemma has a tensor {name}")
    return f"model.layers.{found[1]}.{LAYER_MODULES[found[2]]}.{found[3]}"


def _dequantized(tensor: GgufTensor) -> np.ndarray:
    """Read a tensor as numbers: its own type where that is one, else float32."""
    try:
        with tensor.file.open("rb") as handle:
            handle.seek(tensor.start)
            data = handle.read(tensor.nbytes)
    except OSError as error:
        raise UserError(f"{tensor.file}: could not be read ({error.strerror or error})") from error
    if len(data) != tensor.nbytes:
        raise UserError(f"{tensor.file}: cut off; the file has changed since it was opened")
    if tensor.kind in PLAIN:
        # a copy: what frombuffer gives cannot be written to
        return np.frombuffer(data, numpy_types()[PLAIN[tensor.kind]]).reshape(tensor.shape).copy()
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = tensor.nbytes // (int(np.prod(tensor.shape[:-1])) or 1)
    try:
        values = dequantize(
            np.frombuffer(data, np.uint8).reshape(*tensor.shape[:-1], rows), GGMLQuantizationType[tensor.kind]
        )
    # a type that the package knows by name only
    except NotImplementedError:
        raise UserError(f"{tensor.file}: its type {tensor.kind} cannot be dequantized here") from None
    return np.ascontiguousarray(values, np.float32).reshape(tensor.shape)


@dataclass(frozen=True)
class _Settings:
    """Settings of one architecture, each with the type that is expected."""

    gguf: GgufFile
    family: str

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.family}.{key}"
        value = self.gguf.field(name) if default is None else self.gguf.fields.get(name, default)
        # a list has a value for each layer
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.gguf.path}: {name} is {str(value)[:60]}; one number for all layers is expected")
        return value

    def size(self, key: str, default: float | None = None) -> int:
        return int(self.number(key, default))


def gguf_config(gguf: GgufFile | str | os.PathLike[str]) -> dict[str, Any]:
    """Return the Hugging Face configuration of a GGUF model.

    Raises:
        UsageError: there is no such file.
        UserError: it is of another architecture, or changes its computation in a way that is not carried over.
    """
    if not isinstance(gguf, GgufFile):
        gguf = open_gguf(gguf)
    family = gguf.fields.get("general.architecture")
    if gguf.fields.get("general.type", "model") != "model":
        raise UserError(f"{gguf.path}: holds no model but general.type {gguf.fields['general.type']!r}")
    if family not in FAMILIES:
        raise UserError(f"{gguf.path}: general.architecture {family!r}; only {', '.join(FAMILIES)} are read")
    settings = _Settings(gguf, family)
    for key in _OTHER_MODELS:
        if gguf.fields.get(f"{family}.{key}"):
            value = gguf.fields[f"{family}.{key}"]
            raise UserError(f"{gguf.path}: {family}.{key} is {value}; models with it are not read")
    heads, hidden = settings.size("attention.head_count"), settings.size("embedding_length")
    if heads < 1 or hidden < 1:
        raise UserError(f"{gguf.path}: {hidden} wide with {heads} heads cannot be")
    head_dim = settings.size("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if settings.size(key, head_dim) != head_dim:
            raise UserError(f"{gguf.path}: {family}.{key} is {settings.size(key)}, heads are {head_dim} wide")
    vocab = _vocabulary(gguf, settings)
    names = gguf.tensors
    shape = LlamaShape(
        layers=settings.size("block_count"),
        hidden=hidden,
        intermediate=settings.size("feed_forward_length"),
        heads=heads,
        kv_heads=settings.size("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=vocab,
        # the file leaves out a head that is the embedding
        tied="output.weight" not in names,
        qkv_bias="blk.0.attn_q.bias" in names,
        o_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_gate.bias" in names,
        architecture=family,
    )
    config = shape.to_config() | {
        "max_position_embeddings": settings.size("context_length", 2048),
        "rms_norm_eps": _as_meant(settings.number("attention.layer_norm_rms_epsilon")),
        "rope_theta": _as_meant(settings.number("rope.freq_base", 10000.0)),
    }
    if scaling := _rope_scaling(gguf, settings, config["rope_theta"], head_dim):
        config["rope_scaling"] = scaling
    tokens = gguf.fields.get("tokenizer.ggml.tokens", [])
    for role in ("bos", "eos", "pad"):
        name = special_token(gguf, "padding_token_id" if role == "pad" else f"{role}_token_id") if tokens else None
        config[f"{role}_token_id"] = tokens.index(name) if name is not None else None
    kinds = [PLAIN.get(tensor.kind, "F32") for tensor in names.values() if len(tensor.shape) == 2]
    most = max(set(kinds), key=kinds.count) if kinds else "F32"
    config["torch_dtype"] = {"F16": "float16", "BF16": "bfloat16"}.get(most, "float32")
    return config


def _vocabulary(gguf: GgufFile, settings: _Settings) -> int:
    """Return the rows of the embedding, of which every token of the file has one."""
    if "token_embd.weight" not in gguf.tensors:
        raise UserError(f"{gguf.path}: no tensor token_embd.weight there; the file is not a whole model")
    rows = gguf.tensors["token_embd.weight"].shape[0]
    tokens = len(gguf.fields.get("tokenizer.ggml.tokens", []))
    stated = settings.size("vocab_size", rows)
    if stated != rows or (tokens and tokens != rows):
        count = tokens if tokens and tokens != rows else stated
        raise UserError(f"{gguf.path}: a vocabulary of {count} tokens and an embedding of {rows} rows do not match")
    return rows


def _as_meant(value: float) -> float:
    """Return the shortest decimal that is this float32: 9.99999974e-06 was 1e-5."""
    return float(str(np.float32(value)))


def _rope_scaling(gguf: GgufFile, settings: _Settings, base: float, head_dim: int) -> dict[str, Any] | None:
    family = settings.family
    kind = gguf.fields.get(f"{family}.rope.scaling.type", "none")
    context = settings.size("rope.scaling.original_context_length", 0)
    if ROPE_FREQS in gguf.tensors:
        divisors = _dequantized(gguf.tensors[ROPE_FREQS]).astype(np.float64)
        scaling = llama3_scaling(divisors, base, context or 8192) if len(divisors) * 2 == head_dim else None
        if scaling is None:
            raise UserError(f"{gguf.path}: its {ROPE_FREQS} is no rotary scaling of Llama 3; others are not read")
        return scaling
    if kind == "none":
        # files of before the type was written
        factor = settings.number("rope.scale_linear", 1.0)
        return {"rope_type": "linear", "factor": float(factor)} if factor != 1.0 else None
    if kind == "linear":
        return {"rope_type": "linear", "factor": _as_meant(settings.number("rope.scaling.factor"))}
    raise UserError(f"{gguf.path}: rotary scaling {kind!r}; none, linear and Llama 3's are read")
