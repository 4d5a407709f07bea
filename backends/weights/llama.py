"""The geometry of a Llama: its sizes, and the linear layers, weights and LoRA matrices that follow from them.

Llama, Qwen2 (biases on query, key and value) and Gemma (heads wider than their share, a tied head) have the same
weights up to those differences. Shapes are [out, in], as Hugging Face and mindformers store them.

Legend: h hidden width, f feed-forward width, q and kv widths of all query heads and of all key (or value) heads,
v vocabulary, r rank of a LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.lora import LINEAR_LAYERS
from backends.weights.rotary import rotary_settings
from converters.common.errors import UserError

if TYPE_CHECKING:
    from backends.recipe.types import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# model_type of config.json → the network's class in transformers, for those that mindformers' Llama carries too
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# the others that CUDA carries and whose sizes are known here
CLASSES = {**ARCHITECTURES, "gemma": "GemmaForCausalLM"}
SHOWN = 10  # names of each kind that an error lists


@dataclass(frozen=True)
class LlamaShape:
    """Sizes that decide names and shapes of the weights.

    Attributes:
        layers: decoder layers.
        hidden: h.
        intermediate: f.
        heads: query heads.
        kv_heads: heads of keys and of values.
        head_dim: width of one head.
        vocab: v.
        tied: the output head is the embedding matrix.
        qkv_bias: query, key and value have biases.
        o_bias: the attention's output has one.
        mlp_bias: the three feed-forward layers have biases.
        architecture: ``model_type`` of config.json: which code computes. Two shapes are equal without it.
        rotary_base: base of the rotary angles. Neither it nor the next two belong to the shapes that are compared.
        rms_norm_eps: added to the mean square in every norm.
        positions: tokens that the model was made for; None where nothing says.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    architecture: str = field(default="llama", compare=False)
    rotary_base: float = field(default=10000.0, compare=False)
    rms_norm_eps: float = field(default=1e-6, compare=False)
    positions: int | None = field(default=None, compare=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str | Path) -> LlamaShape:
        """Take the sizes from a Hugging Face configuration.

        Args:
            config: content of ``config.json``.
            source: where it is from, for errors.

        Raises:
            UserError: a size is missing or not a number.
        """

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key)
            # null in config.json means the default, as a missing key does
            value = default if value is None else value
            # True is an int in Python
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{source}: {key}: found {value!r}, expected a whole number of at least 1")
            return value

        kind = config.get("model_type")
        heads, hidden = size("num_attention_heads"), size("hidden_size")
        bias, qwen2 = bool(config.get("attention_bias")), kind == "qwen2"
        return cls(
            layers=size("num_hidden_layers"),
            hidden=hidden,
            intermediate=size("intermediate_size"),
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_dim=size("head_dim", hidden // heads),
            vocab=size("vocab_size"),
            # Gemma ties its head without saying so
            tied=bool(config.get("tie_word_embeddings", kind == "gemma")),
            # Qwen2 has biases on q, k and v whatever its configuration says, and never one on the output
            qkv_bias=bias or qwen2,
            o_bias=bias and not qwen2,
            mlp_bias=bool(config.get("mlp_bias")),
            architecture=str(kind),
            rotary_base=rotary_settings(config)[0],
            # the last is transformers' own default
            rms_norm_eps=float(config.get("rms_norm_eps") or 1e-6),
            positions=config.get("max_position_embeddings"),
        )

    @classmethod
    def from_recipe(cls, config: ModelConfig) -> LlamaShape:
        """Take the sizes from ``model.model_config`` of a recipe."""
        # a Llama with attention_bias has one on the output too
        qwen2 = config.qkv_has_bias and not config.attn_proj_has_bias
        return cls(
            layers=config.num_layers,
            hidden=config.hidden_size,
            intermediate=config.feed_forward_size,
            heads=config.num_heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim or config.hidden_size // config.num_heads,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
            qkv_bias=config.qkv_has_bias,
            o_bias=config.attn_proj_has_bias,
            architecture="qwen2" if qwen2 else "llama",
            rotary_base=config.theta,
            rms_norm_eps=config.rms_norm_eps,
            positions=config.max_position_embedding,
        )

    def to_config(self) -> dict[str, Any]:
        """Return the keys of a ``config.json`` that state these sizes."""
        activation = "gelu_pytorch_tanh" if self.architecture == "gemma" else "silu"
        config = {
            "architectures": [CLASSES[self.architecture]],
            "model_type": self.architecture,
            "hidden_act": activation,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "tie_word_embeddings": self.tied,
        }
        if self.architecture != "qwen2":
            # Qwen2 has no such key: its biases are fixed in its code
            config["attention_bias"] = self.qkv_bias
        if self.architecture == "gemma":
            # transformers reads this name first, and warns where it is missing
            config["hidden_activation"] = activation
        if self.mlp_bias:
            config["mlp_bias"] = True
        if self.head_dim * self.heads != self.hidden or self.architecture == "gemma":
            # left out where it is the default (Gemma's is 256), so that readers without this key can read the rest
            config["head_dim"] = self.head_dim
        return config

    def to_model_config(self) -> dict[str, Any]:
        """Return the keys of mindformers' ``model_config`` that state these sizes."""
        return {
            "hidden_size": self.hidden,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "n_kv_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "intermediate_size": self.intermediate,
            "tie_word_embeddings": self.tied,
            "qkv_has_bias": self.qkv_bias,
            "attn_proj_has_bias": self.o_bias,
        }

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of a decoder layer by its mindformers name, in the model's order."""
        h, f, q, kv = self.hidden, self.intermediate, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"wq": (q, h), "wk": (kv, h), "wv": (kv, h), "wo": (h, q), "w1": (f, h), "w3": (f, h), "w2": (h, f)}

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by its Hugging Face name, in the model's order; a tied head has none of its own."""
        biased = {"wq": self.qkv_bias, "wk": self.qkv_bias, "wv": self.qkv_bias, "wo": self.o_bias}
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name, (out, width) in self.linear_layers.items():
                shapes[f"{prefix}.{LINEAR_LAYERS[name]}.weight"] = (out, width)
                # the layers that are not in the table are those of the feed-forward
                if biased.get(name, self.mlp_bias):
                    shapes[f"{prefix}.{LINEAR_LAYERS[name]}.bias"] = (out,)
            shapes[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes[HEAD] = (self.vocab, self.hidden)
        return shapes

    @property
    def matrix_parameters(self) -> int:
        """Parameters that a token is multiplied with: all linear layers and the head, not the embedding."""
        # a tied head counts, too: it is multiplied with, whoever owns the matrix
        return self.layers * sum(out * width for out, width in self.linear_layers.values()) + self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    def lora_shapes(self, layers: Iterable[str], rank: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Return the shapes of LoRA's matrices in one decoder layer.

        Args:
            layers: mindformers names of the linear layers with LoRA, such as ``wq``.
            rank: r.

        Returns:
            By name of the layer, ``A`` [r, in] and ``B`` [out, r].
        """
        linear = self.linear_layers
        return {name: {"A": (rank, linear[name][1]), "B": (linear[name][0], rank)} for name in layers}

    def adapter_shapes(self, layers: Iterable[str], rank: int) -> dict[str, tuple[int, int]]:
        """Return the shape of every LoRA matrix of an adapter by its PEFT name, over all decoder layers.

        Args:
            layers: mindformers names of the linear layers with LoRA, such as ``wq``.
            rank: r.
        """
        matrices = self.lora_shapes(layers, rank)
        return {
            f"base_model.model.model.layers.{layer}.{LINEAR_LAYERS[name]}.lora_{half}.weight": shape
            for layer in range(self.layers)
            for name, both in matrices.items()
            for half, shape in both.items()
        }

    def lora_parameters(self, layers: Iterable[str], rank: int) -> int:
        """Return the number of LoRA's parameters in all decoder layers: r · (in + out) for each linear layer.

        Args:
            layers: mindformers names of the linear layers with LoRA, such as ``wq``.
            rank: r.
        """
        return self.layers * sum(rank * sum(self.linear_layers[name]) for name in layers)


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str | Path, against: str
) -> None:
    """Compare names and shapes one to one.

    Args:
        found: shapes by name, of the weights.
        expected: shapes by name, as they should be.
        source: where the weights are from, for the error.
        against: what they are compared with, for the error.

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
