"""One forward pass of mindformers' Llama with a cache of keys and values, on any device that MindSpore has.

mindformers caches them on cards only (paged attention). Without a cache every new token would read the whole text
again. This pass uses mindformers' own layers, with their weights and LoRA. Only attention is written out, so that keys
and values of earlier calls can come in and go out. All shapes are dynamic: one compilation serves every batch.

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

# not -inf: softmax over a row of -inf alone would be NaN
HIDDEN = np.finfo(np.float32).min
# MindSpore raises RuntimeError for everything; its message alone says that memory was short
FULL = re.compile(
    r"out of memory|memory (isn't|is not|not) enough|alloc\w* .*memory.* fail|memory .*alloc\w* fail", re.I
)


class DeviceFull(RuntimeError):
    """The device has no memory left for this batch."""


@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, each [b, k, p, d].

    The first of the p places is zeros and always masked, so that no axis has length 0 before the first token.

    Attributes:
        keys: one tensor a layer.
        values: one tensor a layer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class _Pass(nn.Cell):
    """The network as a graph; see the module for shapes."""

    def __init__(self, network: Any) -> None:
        # the parameters keep the names that they have in the network
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
        x = ops.cast(self.network.model.tok_embeddings(ids), self.dtype)  # [b, n, h·d]
        all_keys: tuple[Tensor, ...] = ()
        all_values: tuple[Tensor, ...] = ()
        for i in range(self.count):
            layer = self.layers[i]
            attention = layer.attention
            y = layer.attention_norm(x)
            # [b, n, h·d] → [b, h, n, d]; key and value: [b, n, k·d] → [b, k, n, d]
            query = attention.wq(y).reshape((b, n, self.h, self.d)).transpose((0, 2, 1, 3))
            key = attention.wk(y).reshape((b, n, self.k, self.d)).transpose((0, 2, 1, 3))
            value = attention.wv(y).reshape((b, n, self.k, self.d)).transpose((0, 2, 1, 3))
            query, key = self.rotate(query, key, (cos, sin, None))
            # [b, k, p, d] and [b, k, n, d] → [b, k, t, d]; keys are kept after rotation, so it is done once
            key, value = ops.concat((keys[i], key), 2), ops.concat((values[i], value), 2)
            all_keys += (key,)
            all_values += (value,)
            # [b, h, n, d] → [b, k, (h/k)·n, d]: the query heads of a group take the place of positions of their key
            # head, so that keys and values are not repeated
            t = key.shape[2]
            scores = self.products(query.reshape((b, self.k, -1, self.d)), key) * self.scale
            # [b, k, (h/k)·n, t] → [b, h, n, t]; softmax in float32, as mindformers is configured to
            scores = ops.cast(scores.reshape((b, self.h, n, t)), ms.float32) + mask
            weights = ops.cast(self.softmax(scores), self.dtype).reshape((b, self.k, -1, t))
            # [b, k, (h/k)·n, d] → [b, h, n, d] → [b, n, h, d]
            seen = self.weighted(weights, value).reshape((b, self.h, n, self.d)).transpose((0, 2, 1, 3))
            x = x + attention.wo(seen.reshape((b, n, self.h * self.d)))
            x = x + layer.feed_forward(layer.ffn_norm(x))
        # [b, n, h·d] → [m, h·d]: norm and head for the wanted positions only
        last = ops.gather(x.reshape((-1, self.h * self.d)), wanted, 0)
        logits = self.network.lm_head(self.network.model.norm_out(last))
        return ops.cast(logits, ms.float32), all_keys, all_values


class _Keep(nn.Cell):
    """Select rows of a cache, as a graph: keys and values never leave the device."""

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
        # mutable: a plain tuple would be compiled in as a constant
        whole = ms.mutable((kept,) * self.layers)
        # None marks an axis whose length may differ from call to call
        angles = self._dynamic(None, 1, None, self.d)
        ids = self._dynamic(None, None, dtype=ms.int32)
        some = self._dynamic(None, dtype=ms.int32)
        self._pass.set_inputs(ids, angles, angles, self._dynamic(None, 1, None, None), some, whole, whole)
        self._keep.set_inputs(some, whole, whole)

    def empty(self, b: int) -> Cache:
        """Return the cache for a new batch of ``b`` rows."""
        zeros = tuple(ms.ops.zeros((b, self.k, 1, self.d), self.dtype) for _ in range(self.layers))
        return Cache(zeros, zeros)

    def run(
        self, ids: np.ndarray, positions: np.ndarray, sees: np.ndarray, wanted: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, Cache]:
        """Read new tokens.

        Args:
            ids: int [b, n].
            positions: int [b, n], from 0.
            sees: bool [b, n, t - 1], True where a new token may attend to a token; the cache's first place is left out.
            wanted: int [m], places in the b · n tokens whose logits are wanted.
            cache: keys and values of the tokens read before.

        Returns:
            Logits float32 [m, v], and the cache with the new tokens.

        Raises:
            DeviceFull: the memory does not suffice.
        """
        if positions.max() >= len(self._cos):
            self._extend(int(positions.max()) + 1)
        mask = np.full((*sees.shape[:2], sees.shape[2] + 1), HIDDEN, dtype=np.float32)
        # column 0 is the cache's empty place and stays hidden
        mask[:, :, 1:][sees] = 0
        with naming_a_full_device():
            logits, keys, values = self._pass(
                Tensor(ids.astype(np.int32)),
                # [b, n, d] → [b, 1, n, d], the same for all heads
                Tensor(self._cos[positions][:, None]),
                Tensor(self._sin[positions][:, None]),
                Tensor(mask[:, None]),
                Tensor(wanted.astype(np.int32)),
                ms.mutable(cache.keys),
                ms.mutable(cache.values),
            )
            # inside the with: asnumpy waits for the computation, so its error comes here
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
        """Keep mindformers' own tables of cosines and sines, float32 [positions, d]."""
        self._cos, self._sin = frequencies.freqs_cos.asnumpy(), frequencies.freqs_sin.asnumpy()

    def _extend(self, positions: int) -> None:
        """Make the tables of cosines and sines longer, to at least this many positions."""
        config = self.config
        frequencies = FreqsMgr(
            head_dim=self.d,
            max_position_embedding=max(positions, 2 * len(self._cos)),  # doubled, so that a growing text seldom extends
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
    """Raise :class:`DeviceFull` in place of the error with which MindSpore reports too little memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or FULL.search(str(error)):
            # from None: the traceback would keep the failed batch's tensors alive
            raise DeviceFull("the device has no memory left") from None
        raise
