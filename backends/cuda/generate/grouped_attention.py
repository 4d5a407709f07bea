"""Attention of one new token under grouped queries, without copying keys and values for every query head.

Grouped-query models keep fewer key heads than query heads. transformers repeats keys and values to match whenever there
is a mask, at every step of decoding, which reads and writes the whole cache. With a single query position the query
heads of a group can stand in the place of positions instead: the same products, nothing copied.

Shapes: b rows, h query heads, k key heads, g = h / k, s keys, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

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
    if positions > 1 or attention_mask is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    grouped = query.reshape(b, key.shape[1], -1, d)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(b, 1, h, d), None


def use_grouped_attention(model: Any) -> None:
    """Let a model with grouped queries attend this way, if it attends through ``sdpa``."""
    config = model.config
    groups = getattr(config, "num_attention_heads", 1) != getattr(config, "num_key_value_heads", 1)
    if not groups or getattr(config, "_attn_implementation", None) != "sdpa":
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
