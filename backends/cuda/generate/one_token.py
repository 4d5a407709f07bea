"""Cheap decoding on transformers' models: neither attention nor the cache copies keys and values.

Grouped-query models have fewer key heads than query heads. Where there is a mask, transformers repeats keys and values
to match, which reads and writes the whole cache at every step of decoding. With a single query position, the query
heads of a group can take the place of positions instead: the same products, and nothing is copied. transformers' own
cache also copies all keys and values into a new tensor at every token; the cache here has room for the whole answer
from the start.

Shapes: b rows, h query heads, k key heads, s tokens so far, room tokens at most, d head size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, DynamicLayer

NAME = "grouped_decoding"


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' ``sdpa`` does; called through its attention interface.

    Args:
        module: the attention layer.
        query: [b, h, positions, d].
        key: [b, k, s, d].
        value: [b, k, s, d].
        attention_mask: [b, 1, positions, s], added to the scores (or of booleans), or None.
        scaling: factor on the scores; None is 1/√d.
        more: what only the general form needs.

    Returns:
        [b, positions, h, d] and None for the attention weights.
    """
    b, h, positions, d = query.shape
    # several positions need the causal order; and without a mask transformers repeats nothing
    if positions > 1 or attention_mask is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    # [b, h, 1, d] → [b, k, h/k, d]: a group's query heads lie side by side, and the mask [b, 1, 1, s] fits all
    grouped = query.reshape(b, key.shape[1], -1, d)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(b, 1, h, d), None  # [b, k, h/k, d] → [b, 1, h, d]


def use_grouped_attention(model: Any) -> None:
    """Give a model with grouped queries this attention, if it uses ``sdpa`` now."""
    config = model.config
    groups = getattr(config, "num_attention_heads", 1) != getattr(config, "num_key_value_heads", 1)
    if not groups or getattr(config, "_attn_implementation", None) != "sdpa":
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, grouped_attention)
    # transformers looks up how to build a mask by the same name
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer; ``keys`` and ``values`` are views [rows, k, s, d] of the filled part.

    transformers takes the number of cached tokens from the shape of ``keys``, so it must not show the empty room.

    Args:
        cache: that the layer is of; says how large it is and which rows are being filled.
    """

    is_initialized: bool
    keys: Tensor
    values: Tensor

    def __init__(self, cache: RoomyCache) -> None:
        super().__init__()
        self.cache = cache
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values, [rows, k, new, d], behind the old ones; return all so far."""
        if not self.is_initialized:
            # heads and type are known only when the first keys come
            b, room, k = self.cache.batch, self.cache.room, key_states.shape[1]
            self.key_room = key_states.new_empty(b, k, room, key_states.shape[-1])
            self.value_room = value_states.new_empty(b, k, room, value_states.shape[-1])
            self.is_initialized = True
        end = self.length + key_states.shape[-2]
        self.key_room[self.cache.rows, :, self.length : end] = key_states
        self.value_room[self.cache.rows, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self.key_room, self.value_room = self.key_room[indices], self.value_room[indices]
        self._show()

    def _show(self) -> None:
        self.keys = self.key_room[self.cache.rows, :, : self.length]
        self.values = self.value_room[self.cache.rows, :, : self.length]


class RoomyCache(Cache):
    """A cache of all layers, empty at first.

    Args:
        batch: b, rows of the batch.
        room: the most tokens of a row that will come.

    Attributes:
        rows: which of the batch the next forward pass holds.
    """

    def __init__(self, batch: int, room: int) -> None:
        self.batch, self.room, self.rows = batch, room, slice(None)
        # each layer is made when its first keys come
        super().__init__(layer_class_to_replicate=functools.partial(RoomyLayer, self))

    def fill(self, rows: slice) -> None:
        """Fill these rows next, from their first token on."""
        self.rows = rows
        for layer in self.layers:
            layer.length = 0
            layer._show()

    def filled(self) -> None:
        """Go on with all rows, which have the same number of tokens by now."""
        self.rows = slice(None)
        for layer in self.layers:
            layer._show()
