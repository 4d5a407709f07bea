"""From token rows to the tensors of one optimizer step.

A step takes ``batch_size`` rows of the epoch's order. How they lie in memory is decided here and changes
nothing but rounding: dealt out over processes, cut into micro-batches of at most ``micro_batch_tokens``
tokens, each either packed end to end or padded to its longest row.

Shapes: t tokens of a micro-batch, k supervised ones, n rows, s longest row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from backends.cuda.attention import PackedLayout
from mindrecord.tokens.encode import IGNORE_INDEX, TokenRows


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one forward pass.

    Exactly one of ``layout`` (packed) and ``attention_mask`` (padded) is set.

    Attributes:
        input_ids: int64 [1, t] packed, [n, s] padded.
        position_ids: the same shape; each row starts at 0.
        supervised: int64 [k], flat places whose next token counts in the loss.
        targets: int64 [k], those next tokens.
        rows: numbers of the rows in the data, int64 [n].
        tokens: number of real tokens.
        layout: where each packed row lies.
        attention_mask: int64 [n, s], 0 at padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    supervised: torch.Tensor
    targets: torch.Tensor
    rows: np.ndarray
    tokens: int
    layout: PackedLayout | None = None
    attention_mask: torch.Tensor | None = None


def share_of_process(rows: np.ndarray, lengths: np.ndarray, process: int, processes: int) -> np.ndarray:
    """Return this process's share of a step's rows; all processes get about the same number of tokens.

    Rows are dealt out from the longest to the processes 0, 1, …, N−1, then N−1, …, 1, 0, and so on.

    Args:
        rows: numbers of the step's rows.
        lengths: tokens of every row of the data.
        process: index of this process.
        processes: how many there are.
    """
    by_length = rows[np.argsort(-lengths[rows], kind="stable")]
    # for 3 processes: turn 0 1 2 3 4 5 goes to process 0 1 2 2 1 0
    turn = np.arange(len(by_length)) % (2 * processes)
    return by_length[np.minimum(turn, 2 * processes - 1 - turn) == process]


def micro_batches(
    data: TokenRows, rows: np.ndarray, capacity: int, device: torch.device, *, packed: bool, pad_id: int
) -> list[MicroBatch]:
    """Cut rows into micro-batches of at most ``capacity`` tokens; a longer row makes one of its own.

    Args:
        data: all rows.
        rows: numbers of the rows to take.
        capacity: tokens of a micro-batch; where rows are padded, padding counts.
        device: where the tensors are needed.
        packed: lay rows end to end, or pad them to the longest.
        pad_id: token that fills shorter rows.
    """
    lengths = data.lengths[rows] - 1  # the last token is a target only
    order = np.argsort(lengths, kind="stable")
    build = _packed if packed else _padded
    return [build(data, rows[order[cut]], device, pad_id) for cut in _cuts(lengths[order], capacity, packed)]


def _cuts(ascending: np.ndarray, capacity: int, packed: bool) -> list[slice]:
    """Cut rows in order of length into as few runs as fit the capacity.

    Rows of similar length stay together: it keeps padding small, in attention's blocks and in padded rows.
    """
    cuts, first, tokens = [], 0, 0
    for row, length in enumerate(ascending):
        tokens += int(length)
        # ascending, so this row is the longest so far and sets the padded width
        size = tokens if packed else (row + 1 - first) * int(length)
        if size > capacity and row > first:
            cuts.append(slice(first, row))
            first, tokens = row, int(length)
    return [*cuts, slice(first, len(ascending))]


def _packed(data: TokenRows, rows: np.ndarray, device: torch.device, pad_id: int) -> MicroBatch:
    pairs = [data.row(int(row)) for row in rows]
    ids = np.concatenate([tokens[:-1] for tokens, _ in pairs]).astype(np.int64)
    # position i predicts token i + 1; cross_entropy takes int64
    targets = np.concatenate([labels[1:] for _, labels in pairs]).astype(np.int64)
    lengths = np.array([len(tokens) - 1 for tokens, _ in pairs])
    # each row counts its positions from 0
    positions = np.concatenate([np.arange(length) for length in lengths])
    supervised = np.flatnonzero(targets != IGNORE_INDEX)
    return MicroBatch(
        input_ids=torch.from_numpy(ids).to(device)[None],
        position_ids=torch.from_numpy(positions).to(device)[None],
        supervised=torch.from_numpy(supervised).to(device),
        targets=torch.from_numpy(targets[supervised]).to(device),
        rows=rows,
        tokens=len(ids),
        layout=PackedLayout.of(lengths, device),
    )


def _padded(data: TokenRows, rows: np.ndarray, device: torch.device, pad_id: int) -> MicroBatch:
    pairs = [data.row(int(row)) for row in rows]
    longest = max(len(tokens) for tokens, _ in pairs) - 1
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    targets = np.full((len(rows), longest), IGNORE_INDEX, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, (tokens, labels) in enumerate(pairs):
        ids[place, : len(tokens) - 1] = tokens[:-1]
        targets[place, : len(tokens) - 1] = labels[1:]
        mask[place, : len(tokens) - 1] = 1
    supervised = np.flatnonzero(targets.ravel() != IGNORE_INDEX)
    # copied, since torch cannot share the read-only view
    positions = np.broadcast_to(np.arange(longest), ids.shape).copy()
    return MicroBatch(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        supervised=torch.from_numpy(supervised).to(device),
        targets=torch.from_numpy(targets.ravel()[supervised]).to(device),
        rows=rows,
        tokens=int(mask.sum()),
        attention_mask=torch.from_numpy(mask).to(device),
    )
