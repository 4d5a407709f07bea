"""Exact attention over rows that lie one after another in one long tensor, without a mask.

Rows of a micro-batch are laid end to end as ``[1, t]``, so that linear layers and norms compute real tokens only.
Attention alone needs to know where a row begins. It copies queries, keys and values into a few small blocks
``[rows, heads, longest, head_dim]`` of rows of similar length, runs causal attention on each block, and copies the
results back. A query never sees a key of another row. Padding inside a block comes after the row's last token, where a
causal query does not look. So the result equals that of separate rows.

Both copies are gathers, and each is the other's inverse, so that the backward pass of one is the forward pass of the
other. There is no scattered addition, whose order varies on a GPU: the result has the same bits every time.

Shapes: t tokens, n rows of a block, s longest row of the block, p = Σ n·s cells of all blocks, h heads, d head_dim.
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

    Attributes:
        gather: int64 [p], the token that each cell of the blocks holds.
        pad: int64 [p − t], the cells that hold no token of their own.
        scatter: int64 [t], the cell of each token.
        blocks: (n, s) of each block.
    """

    gather: torch.Tensor
    pad: torch.Tensor
    scatter: torch.Tensor
    blocks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> PackedLayout:
        """Lay out rows.

        Args:
            lengths: tokens of each row, int64 [rows], ascending, in the order in which the rows lie in memory.
            device: where the indices are needed.
        """
        # [rows], the first token of each
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        gather, pad, blocks = [], [], []
        scatter = np.empty(int(lengths.sum()), dtype=np.int64)
        cells = 0
        for first, last in _blocks(lengths):
            longest = int(lengths[last - 1])
            offset = np.arange(longest)
            empty = offset[None, :] >= lengths[first:last, None]  # [n, s]
            # [n, s]; a cell past the end of its row repeats the last token, so that it holds a finite value
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
    """Cut ascending lengths into blocks, (first row, row after the last).

    The longest row of a block has at most ``slack`` times the tokens of the shortest, or 8 more where that is larger.
    """
    cuts = [0]
    for row, length in enumerate(lengths):
        shortest = lengths[cuts[-1]]
        # without the 8, very short rows would each become a block of their own
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
        # padded cells get no gradient: no query of a real token sees them
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
        # the copies of last tokens had no part in the output
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
    # each: [1, h, t, d] → [t, h, d] → [p, h, d]
    gathered = (_Gather.apply(x.squeeze(0).transpose(0, 1), packed_rows) for x in (query, key, value))
    # split, not slices: its backward pass is one concatenation, a slice's is a zero-filled copy of the whole
    pieces = zip(*(x.split(sizes) for x in gathered), strict=True)
    parts = []
    for block, piece in zip(packed_rows.blocks, pieces, strict=True):
        q, k, v = (x.unflatten(0, block).transpose(1, 2) for x in piece)  # [n·s, h, d] → [n, h, s, d]
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))  # [n, h, s, d] → [n·s, h, d]
    cells = parts[0] if len(parts) == 1 else torch.cat(parts)
    return _Scatter.apply(cells, packed_rows).unsqueeze(0), None  # [p, h, d] → [1, t, h, d]


def register() -> str:
    """Register the attention with transformers.

    Returns:
        The name to pass as ``attn_implementation``.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    # transformers looks up how to build a mask by the same name
    AttentionMaskInterface.register(NAME, _no_mask)
    return NAME


def _no_mask(*_: Any, **__: Any) -> None:
    """Build no 4-D mask: the layout says which tokens belong to one row."""
    return None


def obstacle_to_packing(config: Any, longest: int) -> str | None:
    """Say why a model's attention cannot be computed by :func:`packed_attention`; None if it can.

    Args:
        config: the Hugging Face configuration.
        longest: tokens of the longest row; a window at least that long changes nothing.
    """
    # Mistral has a window and no switch for it; Qwen2 has the switch, off by default
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
