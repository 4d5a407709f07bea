"""A KV cache that is written in place: room for the whole answer is there from the start.

transformers' own cache copies all keys and values into a new tensor at every token.

Shapes: b rows, k key heads, s tokens so far, room tokens at most, d head size.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer; ``keys`` and ``values`` are views [b, k, s, d] of what is filled.

    Args:
        room: the most tokens that will come.
    """

    is_initialized: bool
    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values, [b, k, new, d], behind the old ones; return all so far."""
        if not self.is_initialized:
            b, k, _, d = key_states.shape
            self.key_room = key_states.new_empty(b, k, self.room, d)
            self.value_room = value_states.new_empty(b, k, self.room, value_states.shape[-1])
            self.is_initialized = True
        end = self.length + key_states.shape[-2]
        self.key_room[:, :, self.length : end] = key_states
        self.value_room[:, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self.key_room, self.value_room = self.key_room[indices], self.value_room[indices]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self.key_room[:, :, : self.length], self.value_room[:, :, : self.length]


def roomy_cache(room: int) -> Cache:
    """Return an empty cache for at most ``room`` tokens a row."""
    return Cache(layer_class_to_replicate=functools.partial(RoomyLayer, room))
