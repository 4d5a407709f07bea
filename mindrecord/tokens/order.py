"""The order of rows in an epoch: the same on every backend, machine and numpy version."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


# every step of an epoch asks for the same order
@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> NDArray[np.int64]:
    """Return the row indices of one epoch, each exactly once, int64 [n].

    Rows are sorted by raw draws of PCG64 seeded by ``[seed, epoch]``: numpy keeps the raw stream of a bit generator
    stable across versions, but not what ``permutation`` makes of it.

    Args:
        n: number of rows.
        seed: of the run.
        epoch: from 0.
        shuffle: whether the order is another one each epoch; without it rows come as they are.
    """
    if not shuffle:
        return np.arange(n, dtype=np.int64)
    keys = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(n)
    # stable: equal keys must come in the same order on every machine
    return np.argsort(keys, kind="stable").astype(np.int64)


def rows_of_step(count: int, batch_size: int, step: int, seed: int, shuffle: bool) -> NDArray[np.int64]:
    """Return the indices of the rows that one optimizer step takes, int64 [batch_size].

    An epoch's incomplete last step is dropped.

    Args:
        count: number of rows.
        batch_size: rows of a step.
        step: from 0, counted over all epochs.
        seed: of the run.
        shuffle: as `epoch_order`.
    """
    epoch, place = divmod(step, count // batch_size)
    return epoch_order(count, seed, epoch, shuffle)[place * batch_size : (place + 1) * batch_size]
