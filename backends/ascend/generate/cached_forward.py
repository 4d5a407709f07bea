"""One forward pass of mindformers' Llama with keys and values kept, on any device that MindSpore has.

mindformers keeps them only on a card (paged attention); without, every token would read the whole text again. Here its
layers are the same objects, with their weights and LoRA, and only attention is written out, so that keys and values of
earlier calls come in and go out. All shapes are dynamic: one compilation serves every batch.

Shapes: b rows, n new tokens a row, p tokens kept from before, t = p + n, h query heads, k key heads, d head size,
m positions whose logits are wanted, v vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.modules.layers import FreqsMgr, RotaryEmbedding
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

HIDDEN = np.finfo(np.float32).min
FULL = re.compile(
    r"out of memory|memory (isn't|is not|not) enough|alloc\w* .*memory.* fail|memory .*alloc\w* fail", re.I
)


class DeviceFull(RuntimeError):
    """The device has no memory left for this batch."""


@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, each [b, k, p, d]; the first of the p is empty and never seen.

    Attributes:
        keys: one tensor a layer.
        values: one tensor a layer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class _Pass(nn.Cell):
    """The network as a graph; see the module for shapes."""

    def __init__(self, network: Any) -> None:
        super().__init__(auto_prefix=False)
        config = network.config
        self.network, self.layers = network, network.model.layers
        self.count = config.num_layers
        self.h, self.k = config.num_heads, config.n_kv_heads or config.num_heads
        self.d = config.hidden_size // config.num_heads
        self.scale = float(self.d**-0.5)
        self.dtype = config.compute_dtype
        self.products = P.BatchMatMul(transpose_b=True)
        self.weighted = P.BatchMatMul()
        self.softmax = P.Softmax()
        self.rotate = RotaryEmbedding(self.d, ms.float32, use_rope_slice=True)

    def construct(
        self,
        ids: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        wanted: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return logits float32 [m, v] and all keys and values, [b, k, t, d] a layer.

        Args:
            ids: int32 [b, n].
            cos: float32 [b, 1, n, d], of each token's position.
            sin: the same.
            mask: float32 [b, 1, n, t], added to the scores.
            wanted: int32 [m], places in the b · n new tokens.
            keys: [b, k, p, d] a layer.
            values: the same.
        """
        b, n = ids.shape
        x = ops.cast(self.network.model.tok_embeddings(ids), self.dtype)
        all_keys: tuple[Tensor, ...] = ()
        all_values: tuple[Tensor, ...] = ()
        for i in range(self.count):
            layer = self.layers[i]
            attention = layer.attention
            y = layer.attention_norm(x)
            query = attention.wq(y).reshape((b, n, self.h, self.d)).transpose((0, 2, 1, 3))
            key = attention.wk(y).reshape((b, n, self.k, self.d)).transpose((0, 2, 1, 3))
            value = attention.wv(y).reshape((b, n, self.k, self.d)).transpose((0, 2, 1, 3))
            query, key = self.rotate(query, key, (cos, sin, None))
            key, value = ops.concat((keys[i], key), 2), ops.concat((values[i], value), 2)
            all_keys += (key,)
            all_values += (value,)
            # the query heads of a group stand side by side as positions of their key head: nothing is repeated
            t = key.shape[2]
            scores = self.products(query.reshape((b, self.k, -1, self.d)), key) * self.scale
            scores = ops.cast(scores.reshape((b, self.h, n, t)), ms.float32) + mask
            weights = ops.cast(self.softmax(scores), self.dtype).reshape((b, self.k, -1, t))
            seen = self.weighted(weights, value).reshape((b, self.h, n, self.d)).transpose((0, 2, 1, 3))
            x = x + attention.wo(seen.reshape((b, n, self.h * self.d)))
            x = x + layer.feed_forward(layer.ffn_norm(x))
        last = ops.gather(x.reshape((-1, self.h * self.d)), wanted, 0)
        logits = self.network.lm_head(self.network.model.norm_out(last))
        return ops.cast(logits, ms.float32), all_keys, all_values


class _Keep(nn.Cell):
    """Choose rows of a cache."""

    def construct(
        self, rows: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        chosen_keys: tuple[Tensor, ...] = ()
        chosen_values: tuple[Tensor, ...] = ()
        for key, value in zip(keys, values):  # noqa: B905 - MindSpore's compiler knows no strict
            chosen_keys += (ops.gather(key, rows, 0),)
            chosen_values += (ops.gather(value, rows, 0),)
        return chosen_keys, chosen_values


class CachedForward:
    """Runs a network with numpy in and out.

    Args:
        network: mindformers' Llama, in evaluation mode.
    """

    def __init__(self, network: Any) -> None:
        config = network.config
        self.config = config
        self.layers, self.k = config.num_layers, config.n_kv_heads or config.num_heads
        self.d = config.hidden_size // config.num_heads
        self.dtype = config.compute_dtype
        self._set_tables(network.model.freqs_mgr)
        self._pass, self._keep = _Pass(network), _Keep()
        self._pass.set_train(False)
        kept = self._dynamic(None, self.k, None, self.d, dtype=self.dtype)
        whole = ms.mutable((kept,) * self.layers)
        angles = self._dynamic(None, 1, None, self.d)
        ids = self._dynamic(None, None, dtype=ms.int32)
        some = self._dynamic(None, dtype=ms.int32)
        self._pass.set_inputs(ids, angles, angles, self._dynamic(None, 1, None, None), some, whole, whole)
        self._keep.set_inputs(some, whole, whole)

    def empty(self, b: int) -> Cache:
        """Return the cache to begin with."""
        zeros = tuple(ms.ops.zeros((b, self.k, 1, self.d), self.dtype) for _ in range(self.layers))
        return Cache(zeros, zeros)

    def run(
        self, ids: np.ndarray, positions: np.ndarray, sees: np.ndarray, wanted: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, Cache]:
        """Read new tokens and return the logits that are wanted, float32 [m, v], and the cache with them in it.

        Args:
            ids: int [b, n].
            positions: int [b, n], from 0.
            sees: bool [b, n, t - 1], who sees whom, without the empty first of the cache.
            wanted: int [m], places in the b · n tokens.
            cache: what was read before.

        Raises:
            DeviceFull: the memory does not suffice.
        """
        if positions.max() >= len(self._cos):
            self._extend(int(positions.max()) + 1)
        mask = np.full((*sees.shape[:2], sees.shape[2] + 1), HIDDEN, dtype=np.float32)
        mask[:, :, 1:][sees] = 0
        with naming_a_full_device():
            logits, keys, values = self._pass(
                Tensor(ids.astype(np.int32)),
                Tensor(self._cos[positions][:, None]),
                Tensor(self._sin[positions][:, None]),
                Tensor(mask[:, None]),
                Tensor(wanted.astype(np.int32)),
                ms.mutable(cache.keys),
                ms.mutable(cache.values),
            )
            return logits.asnumpy(), Cache(keys, values)

    def keep(self, cache: Cache, rows: np.ndarray) -> Cache:
        """Return the cache of these rows only.

        Raises:
            DeviceFull: the memory does not suffice.
        """
        with naming_a_full_device():
            chosen = Tensor(rows.astype(np.int32))
            return Cache(*self._keep(chosen, ms.mutable(cache.keys), ms.mutable(cache.values)))

    def _set_tables(self, frequencies: Any) -> None:
        """Take cosines and sines from mindformers' own manager, float32 [positions, d]."""
        self._cos, self._sin = frequencies.freqs_cos.asnumpy(), frequencies.freqs_sin.asnumpy()

    def _extend(self, positions: int) -> None:
        config = self.config
        frequencies = FreqsMgr(
            head_dim=self.d,
            max_position_embedding=max(positions, 2 * len(self._cos)),
            rotary_dtype=ms.float32,
            theta=config.theta,
            scaling_factor=config.scaling_factor,
            extend_method=config.extend_method,
        )
        self._set_tables(frequencies)

    @staticmethod
    def _dynamic(*shape: int | None, dtype: Any = ms.float32) -> Tensor:
        return Tensor(shape=list(shape), dtype=dtype)


@contextmanager
def naming_a_full_device() -> Iterator[None]:
    """Turn what MindSpore raises when the memory does not suffice into :class:`DeviceFull`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or FULL.search(str(error)):
            raise DeviceFull("the device has no memory left") from None
        raise
