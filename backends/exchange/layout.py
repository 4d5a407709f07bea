"""What a Llama or Qwen2 is made of by its configuration, and what is missing, extra or of another shape."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.files import MODEL_CONFIG
from converters.common.errors import UserError
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.recipe.types import ModelConfig

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
SHOWN = 10  # names of each kind that an error lists

# what belongs to a model besides its weights
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
COMPANIONS = ("config.json", "generation_config.json", *TOKENIZER_FILES, "template.json")


@dataclass(frozen=True)
class Layout:
    """Sizes that decide names and shapes of the weights."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str | Path) -> Layout:
        """Read a Hugging Face configuration.

        Args:
            config: content of ``config.json``.
            source: where it is from, for errors.

        Raises:
            UserError: another architecture, or a size is missing or not a number.
        """
        kind = config.get("model_type")
        if kind not in ARCHITECTURES:
            raise UserError(f"{source}: model_type {kind!r}: only {' and '.join(ARCHITECTURES)} can be exchanged")

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{source}: {key}: found {value!r}, expected a whole number of at least 1")
            return value

        heads, hidden = size("num_attention_heads"), size("hidden_size")
        bias = bool(config.get("attention_bias", False))
        return cls(
            layers=size("num_hidden_layers"),
            hidden=hidden,
            intermediate=size("intermediate_size"),
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_dim=size("head_dim", hidden // heads),
            vocab=size("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or kind == "qwen2",
            o_bias=bias and kind == "llama",
            mlp_bias=bool(config.get("mlp_bias", False)),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by Hugging Face name, in the model's order; a tied output head has no weight of its own."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear = {
            "self_attn.q_proj": (q, self.hidden, self.qkv_bias),
            "self_attn.k_proj": (kv, self.hidden, self.qkv_bias),
            "self_attn.v_proj": (kv, self.hidden, self.qkv_bias),
            "self_attn.o_proj": (self.hidden, q, self.o_bias),
            "mlp.gate_proj": (self.intermediate, self.hidden, self.mlp_bias),
            "mlp.up_proj": (self.intermediate, self.hidden, self.mlp_bias),
            "mlp.down_proj": (self.hidden, self.intermediate, self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for module, (out, width, bias) in linear.items():
                shapes[f"{prefix}.{module}.weight"] = (out, width)
                if bias:
                    shapes[f"{prefix}.{module}.bias"] = (out,)
            shapes[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.hidden)
        return shapes


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str | Path, against: str
) -> None:
    """Compare names and shapes one to one.

    Raises:
        UserError: listing what is missing, what is extra and what has another shape.
    """
    other = [
        f"{name} {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    parts = {
        "missing": [name for name in expected if name not in found],
        "extra": [name for name in found if name not in expected],
        "of another shape": other,
    }
    problems = [f"{len(names)} {what}: {_shortened(names)}" for what, names in parts.items() if names]
    if problems:
        raise UserError(f"{source} does not fit {against}: {'; '.join(problems)}")


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def config_from_recipe(config: ModelConfig, source: str | Path) -> dict[str, Any]:
    """Return the Hugging Face configuration of a mindformers ``model_config``.

    Raises:
        UserError: a setting that has no certain counterpart; ``config.json`` itself is needed then.
    """
    if config.extend_method not in ("None", None) or config.scaling_factor != 1.0:
        raise UserError(
            f"{source}: extend_method {config.extend_method!r} is not carried over; name the model's own config.json"
        )
    if config.attn_proj_has_bias and not config.qkv_has_bias:
        raise UserError(f"{source}: attn_proj_has_bias without qkv_has_bias: no Hugging Face Llama or Qwen2 has this")
    kind = "qwen2" if config.qkv_has_bias and not config.attn_proj_has_bias else "llama"
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.feed_forward_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.max_position_embedding or config.seq_length,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    if kind == "llama":
        fields["attention_bias"] = config.qkv_has_bias
    return fields


def read_model_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a model directory, a ``config.json`` or a mindformers YAML.

    Raises:
        UsageError: there is no such file.
        UserError: it cannot be read as one.
    """
    source = Path(path)
    if source.suffix in (".yaml", ".yml"):
        from backends.recipe.load import load_recipe

        return config_from_recipe(load_recipe(source).model.model_config, source)
    source = source / MODEL_CONFIG if source.is_dir() else source
    config = read_json(source)
    if not isinstance(config, dict):
        raise UserError(f"{source}: a JSON object is expected")
    return config


def copy_companions(home: Path, folder: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    """Copy what belongs to a model besides its weights; returns the names."""
    names = [name for name in COMPANIONS if name not in without and (home / name).is_file()]
    for name in names:
        shutil.copyfile(home / name, folder / name)
    return names
