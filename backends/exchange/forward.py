"""A Llama, Qwen2 or Gemma computed with numpy, one tensor in memory: to check a conversion without a framework.

Slow and short on purpose: one row, no cache, float32. Legend: t tokens, h hidden width, d width of a head, n query
heads, k key heads, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from backends.weights.dtypes import rows_in_blocks
from backends.weights.llama import EMBEDDING, HEAD, LlamaShape
from backends.weights.rotary import inverse_frequencies
from backends.weights.safetensors_files import Tensors


def mean_nll(tensors: Tensors, config: Mapping[str, Any], ids: list[int]) -> float:
    """Return the mean −log p of each token after the first, in nats.

    Args:
        tensors: the model's weights by Hugging Face name.
        config: its Hugging Face configuration.
        ids: of one text, t of them, at least two.

    Raises:
        ValueError: the configuration asks for something else than these three families compute.
    """
    shape = LlamaShape.from_config(config, tensors.path)
    run = _Run(tensors, config, shape, len(ids))
    x = run.embedded(ids)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        x = x + run.attention(run.norm(x, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
        x = x + run.feed_forward(run.norm(x, f"{prefix}.post_attention_layernorm"), f"{prefix}.mlp")
    x = run.norm(x, "model.norm")[:-1]
    logits = run.logits(x)
    top = logits.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    # fsum: the same figure whatever the order
    return math.fsum((total - logits[np.arange(len(x)), ids[1:]]).tolist()) / len(x)


class _Run:
    """One pass over t tokens."""

    def __init__(self, tensors: Tensors, config: Mapping[str, Any], shape: LlamaShape, count: int) -> None:
        self.tensors, self.shape = tensors, shape
        self.gemma = shape.architecture == "gemma"
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))
        # [t, d/2]
        angles = np.outer(np.arange(count), inverse_frequencies(dict(config), shape.head_dim))
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.future = np.triu(np.ones((count, count), bool), 1)

    def read(self, name: str) -> np.ndarray:
        return self.tensors.read(name).astype(np.float32)

    def embedded(self, ids: list[int]) -> np.ndarray:
        x = self.tensors.read(EMBEDDING)[ids].astype(np.float32)
        return x * np.float32(math.sqrt(self.shape.hidden)) if self.gemma else x

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self.read(f"{name}.weight")
        scaled = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon)
        return scaled * (weight + 1 if self.gemma else weight)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        out = x @ self.read(f"{name}.weight").T
        return out + self.read(f"{name}.bias") if f"{name}.bias" in self.tensors else out

    def turned(self, x: np.ndarray) -> np.ndarray:
        """Apply rotary positions to [heads, t, d]."""
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [first * self.cos - second * self.sin, second * self.cos + first * self.sin], axis=-1, dtype=np.float32
        )

    def attention(self, x: np.ndarray, name: str) -> np.ndarray:
        def heads(part: str, count: int) -> np.ndarray:
            return self.linear(x, f"{name}.{part}").reshape(len(x), count, -1).swapaxes(0, 1)

        n, k = self.shape.heads, self.shape.kv_heads
        q = self.turned(heads("q_proj", n))
        key, value = self.turned(heads("k_proj", k)), heads("v_proj", k)
        # n / k query heads share a key head
        key, value = key.repeat(n // k, axis=0), value.repeat(n // k, axis=0)
        scores = q @ key.swapaxes(1, 2) / np.float32(math.sqrt(self.shape.head_dim))
        scores[:, self.future] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return self.linear((weights @ value).swapaxes(0, 1).reshape(len(x), -1), f"{name}.o_proj")

    def feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        gate, up = self.linear(x, f"{name}.gate_proj"), self.linear(x, f"{name}.up_proj")
        with np.errstate(over="ignore"):
            if self.gemma:
                # gelu_pytorch_tanh
                gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
            else:
                gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up, f"{name}.down_proj")

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return [t, v]; the head is converted to float32 by blocks of rows."""
        head = self.tensors.read(EMBEDDING if self.shape.tied else HEAD)
        return np.concatenate([x @ head[rows].astype(np.float32).T for rows in rows_in_blocks(head.shape)], axis=1)
