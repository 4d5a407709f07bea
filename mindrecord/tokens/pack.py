"""Packing: many short rows in one, so that no computation goes into padding.

Shapes: n rows, t ids of all rows laid end to end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from converters.common.errors import UserError
from converters.tokenizers.segments import row_offsets
from mindrecord.tokens.encode import TokenRows


def pack_rows(rows: TokenRows, capacity: int, bos_id: int | None) -> TokenRows:
    """Put whole rows end to end, up to ``capacity`` ids.

    In a packed row, a BOS is where the next row begins: that is how a model can tell rows apart by their ids alone
    (`backends.ascend.train.registered`), whatever end tokens stand between turns.

    Args:
        rows: each beginning with its BOS, and with no other one.
        capacity: ids of a packed row.
        bos_id: the BOS; None where a tokenizer has none.

    Returns:
        Packed rows; their ids are the joined ids of the rows in them.

    Raises:
        UserError: rows are not told apart by their BOS, or one is longer than ``capacity``.
    """
    if bos_id is None:
        # without a BOS no row can be packed; the error names the first
        wrong = np.arange(1)
    else:
        is_bos = rows.input_ids == bos_id
        wrong = np.flatnonzero(~is_bos[rows.offsets[:-1]] | (np.add.reduceat(is_bos, rows.offsets[:-1]) != 1))
    if len(wrong):
        raise UserError(
            f"row {rows.ids[wrong[0]]} cannot be packed: each row must begin with the BOS and hold no other one, which "
            "this tokenizer or template does not give; write padded rows (without --pack)"
        )
    bins = pack(rows.lengths, capacity)
    # rows in the order of the bins, and of their ids the places where they stood
    order = np.concatenate(bins)
    lengths = rows.lengths[order]
    ends = row_offsets(lengths)
    source = np.arange(ends[-1]) + np.repeat(rows.offsets[:-1][order] - ends[:-1], lengths)
    offsets = ends[np.concatenate([[0], np.cumsum([len(one) for one in bins])])]
    ids = ["+".join(rows.ids[i] for i in one) for one in bins]
    return TokenRows(rows.input_ids[source], rows.labels[source], offsets, ids)


def pack(lengths: NDArray[np.int64] | Sequence[int], capacity: int) -> list[NDArray[np.int64]]:
    """Put rows into bins of ``capacity`` tokens; deterministic.

    Each bin takes the longest row left, then the rows that fill it best. The search goes over the histogram of
    lengths, and a bin's pattern is repeated as long as there are rows for it, so that the time hardly depends on the
    number of rows. Plain first-fit decreasing is taken where it needs fewer bins.

    Args:
        lengths: tokens of each row, int [n].
        capacity: tokens of a bin.

    Returns:
        Row indices of each bin, int64, ascending; every row is in exactly one.

    Raises:
        UserError: a row is longer than a bin.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes):
        return []
    if sizes.max() > capacity:
        worst = int(sizes.argmax())
        raise UserError(f"row {worst} has {sizes[worst]} tokens, more than a bin of {capacity}; drop or truncate it")
    if sizes.min() < 1:
        raise UserError(f"row {int(sizes.argmin())} has no tokens")
    counts = {int(size): int(count) for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)}
    # min takes the first of equals, the exact fill
    best = min((_plan(counts, capacity, exact) for exact in (True, False)), key=_bins)
    return _deal(sizes, best)


_Plan = list[tuple[list[int], int]]


def _bins(plan: _Plan) -> int:
    return sum(times for _, times in plan)


def _plan(counts: dict[int, int], capacity: int, exact: bool) -> _Plan:
    """Return ``(lengths in a bin, how many such bins)``; without ``exact`` this is first-fit decreasing.

    First-fit decreasing puts into its first bin, going down the lengths, whatever still fits, then does the same with
    what is left: filling bin by bin gives the very same bins, and equal ones follow each other.
    """
    left = dict(sorted(counts.items(), reverse=True))
    plan: _Plan = []
    while left:
        if exact:
            longest = next(iter(left))
            content = [longest, *_best_fill(left, longest, capacity - longest)]
        else:
            content = []
            space = capacity
            for length, count in left.items():
                taken = min(count, space // length)
                content += [length] * taken
                space -= taken * length
        # the same pattern again, as long as rows of these lengths last
        used = Counter(content)
        times = min(left[length] // copies for length, copies in used.items())
        plan.append((content, times))
        for length, copies in used.items():
            left[length] -= times * copies
            if not left[length]:
                del left[length]
    return plan


def _best_fill(left: dict[int, int], taken: int, space: int) -> list[int]:
    """Return lengths whose sum comes nearest to ``space`` from below, the longer ones preferred.

    A subset-sum search: bit i of ``reach`` says that a sum of i can be made. ``taken`` is the length of the one
    row that is in the bin already.
    """
    reach, trail = 1, []
    # sums that do not fit are of no use
    mask = (1 << (space + 1)) - 1
    for length, count in left.items():
        # one bit more for each row of this length, unless no new sum comes of it
        # and one less of the longest: that one is in the bin already
        for _ in range(min(count - (length == taken), space // length)):
            grown = (reach | reach << length) & mask
            if grown == reach:
                break
            trail.append((length, reach))
            reach = grown
        # the bin can be filled completely, so shorter rows need not be tried
        if reach >> space:
            break
    # back along the trail: a length was needed where the sum could not be made before it
    total = reach.bit_length() - 1
    chosen = []
    for length, before in reversed(trail):
        if not before >> total & 1:
            chosen.append(length)
            total -= length
    return chosen[::-1]


def _deal(sizes: NDArray[np.int64], plan: _Plan) -> list[NDArray[np.int64]]:
    """Give the bins of a plan their rows: within a length, in order."""
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]
    cursor = {int(length): int(start) for length, start in zip(*np.unique(ordered, return_index=True), strict=True)}
    bins: list[NDArray[np.int64]] = []
    for content, times in plan:
        columns = []
        for length in content:
            columns.append(order[cursor[length] : cursor[length] + times])
            cursor[length] += times
        bins.extend(np.sort(np.stack(columns, axis=1), axis=1))
    return bins
