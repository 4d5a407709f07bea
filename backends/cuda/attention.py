"""Exact attention over rows that lie one after another in one long tensor, without a mask.

Rows of a micro-batch are laid end to end as ``[1, t]``. Linear layers and norms see only real tokens;
attention alone needs to know where a row begins. It gathers queries, keys and values into a few small
``[rows, heads, longest, head_dim]`` blocks of rows of like length, runs causal attention on each, and puts
the results back. A query never sees a key of another row, and what is padded inside a block lies after the
row's last token, where a causal query does not look; so the result equals that of separate rows.

Gathering and putting back are each other's inverse, so the backward pass of one is the forward pass of the
other: no scattered addition, the same bits every time.

Shapes: t tokens, n rows of a block, s longest row of the block, p = Σ n·s padded tokens, h heads, d head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "packed_rows"


@dataclass(frozen=True)
class PackedLayout:
    """Where each row of a micro-batch lies; built once and shared by all layers.

    ``gather`` int64[p] has for every cell of the blocks the token it holds, ``pad`` int64[p − t] lists the cells
    that hold none, ``scatter`` int64[t] has for every token its cell, ``blocks`` lists (rows, longest).
    """

    gather: torch.Tensor
    pad: torch.Tensor
    scatter: torch.Tensor
    blocks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> PackedLayout:
        """Lay out rows of the given lengths (in ascending order, as they lie in memory)."""
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        gather, pad, blocks = [], [], []
        scatter = np.empty(int(lengths.sum()), dtype=np.int64)
        cells = 0
        for first, last in _blocks(lengths):
            longest = int(lengths[last - 1])
            offset = np.arange(longest)
            empty = offset[None, :] >= lengths[first:last, None]  # [n, s]
            tokens = starts[first:last, None] + np.minimum(offset[None, :], lengths[first:last, None] - 1)
            gather.append(tokens.ravel())
            pad.append(cells + np.flatnonzero(empty.ravel()))
            real = np.flatnonzero(~empty.ravel())
            scatter[tokens.ravel()[real]] = cells + real
            cells += tokens.size
            blocks.append((last - first, longest))
        return cls(
            torch.from_numpy(np.concatenate(gather)).to(device),
            torch.from_numpy(np.concatenate(pad)).to(device),
            torch.from_numpy(scatter).to(device),
            tuple(blocks),
        )


def _blocks(lengths: np.ndarray, slack: float = 1.25) -> list[tuple[int, int]]:
    """Cut ascending lengths into runs whose longest row is at most ``slack`` times the shortest (and 8 tokens)."""
    cuts = [0]
    for row, length in enumerate(lengths):
        shortest = lengths[cuts[-1]]
        if length > max(shortest * slack, shortest + 8):
            cuts.append(row)
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True))


class _Gather(torch.autograd.Function):
    """[t, …] → [p, …]; a padded cell holds a copy of its row's last token and passes no gradient on."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        ctx.layout = layout
        return tokens.index_select(0, layout.gather)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.index_select(0, ctx.layout.scatter), None


class _Scatter(torch.autograd.Function):
    """[p, …] → [t, …]: the inverse of :class:`_Gather`."""

    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        ctx.layout = layout
        return cells.index_select(0, layout.scatter)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        cells = grad.index_select(0, ctx.layout.gather)
        return cells.index_fill_(0, ctx.layout.pad, 0), None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_rows: PackedLayout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row, as transformers' attention interface calls it.

    Args:
        module: the attention layer.
        query: [1, h, t, d].
        key: [1, kv heads, t, d].
        value: [1, kv heads, t, d].
        attention_mask: None; rows are told apart by ``packed_rows``.
        scaling: factor on the scores; None is 1/√d.
        dropout: probability of dropping a score.
        packed_rows: the micro-batch's layout.

    Returns:
        [1, t, h, d] and None for the attention weights.
    """
    if packed_rows is None:
        raise ValueError("packed_rows attention was called without a layout")
    sizes = [rows * longest for rows, longest in packed_rows.blocks]
    gathered = (_Gather.apply(x.squeeze(0).transpose(0, 1), packed_rows) for x in (query, key, value))  # [p, h, d]
    # split, not slices: its backward pass is one concatenation, a slice's is a zero-filled copy of the whole
    pieces = zip(*(x.split(sizes) for x in gathered), strict=True)
    parts = []
    for block, piece in zip(packed_rows.blocks, pieces, strict=True):
        q, k, v = (x.unflatten(0, block).transpose(1, 2) for x in piece)  # [n, h, s, d]
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [n·s, h, d]
    cells = parts[0] if len(parts) == 1 else torch.cat(parts)
    return _Scatter.apply(cells, packed_rows).unsqueeze(0), None


def register() -> str:
    """Make the attention known to transformers; returns the name for ``attn_implementation``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, **__: Any) -> None:
    """Rows are told apart by their layout: no 4-D mask is built."""
    return None


def obstacle_to_packing(config: Any, longest: int) -> str | None:
    """Say why a model's attention cannot be computed by :func:`packed_attention`, or None if it can.

    Args:
        config: the Hugging Face configuration.
        longest: tokens of the longest row; a window at least that long changes nothing.
    """
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < longest:
        return f"its attention looks back {window} tokens, the longest row has {longest}"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    if getattr(config, "attention_chunk_size", None):
        return "it attends in chunks"
    if getattr(config, "use_sliding_window", True) and any(
        kind not in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or []
    ):
        return "it has layers without plain attention"
    return None
