"""How many rows of each kind, and which: exact totals, the same choice for the same seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converters.common.errors import UsageError, UserError, did_you_mean
from converters.pipeline.output import BALANCES, PROPORTIONAL, UNIFORM

if TYPE_CHECKING:
    import numpy as np  # imported where it is used: command lines read their options through here


def largest_remainder(weights: Mapping[str, int], total: int) -> dict[str, int]:
    """Share a total out in proportion to weights; the shares add up to the total exactly.

    Hamilton's method: each share is its exact quota rounded down; what is left goes, one each, to the largest
    fractions, the earlier kind first among equals.

    Args:
        weights: of each kind, not all zero.
        total: what is shared out.

    Returns:
        The share of each kind.
    """
    whole = sum(weights.values())
    shares, fractions = {}, {}
    for name, weight in weights.items():
        # in integers, so that equal fractions are equal on every machine
        shares[name], fractions[name] = divmod(total * weight, whole)
    left = total - sum(shares.values())
    for name in sorted(fractions, key=lambda name: -fractions[name])[:left]:
        shares[name] += 1
    return shares


def level(available: Mapping[str, int], total: int, balance: str = UNIFORM) -> dict[str, int]:
    """Share ``total`` out evenly, or in proportion to the square roots of the available rows.

    A kind that has too few rows gives all of them, and the others make up for it.

    Args:
        available: the available rows of each kind.
        total: rows wanted, at most as many as are available.
        balance: UNIFORM or SQUARE_ROOT.

    Returns:
        The rows to take of each kind.
    """
    shares: dict[str, int] = {}
    # roots in thousandths, as integers: the shares must not depend on how a machine rounds
    open_kinds = {
        name: 1 if balance == UNIFORM else math.isqrt(count * 10**6) for name, count in available.items() if count
    }
    while open_kinds:
        even = largest_remainder(open_kinds, total - sum(shares.values()))
        short = [name for name in open_kinds if available[name] <= even[name]]
        if not short:
            return {**dict.fromkeys(available, 0), **shares, **even}
        # what these lack makes the others' shares larger, which may leave further kinds short: so once more
        for name in short:
            shares[name] = available[name]
            del open_kinds[name]
    return {**dict.fromkeys(available, 0), **shares}


def parse_balance(text: str, names: Sequence[str]) -> str | dict[str, int]:
    """Read ``--balance``.

    Args:
        text: a name of BALANCES, or ``kind=rows,kind=rows``.
        names: the kinds that may be named.

    Returns:
        The name, or the rows by kind.

    Raises:
        UsageError: it is none of these, or names an unknown kind.
    """
    if text in BALANCES:
        return text
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or not number.isdecimal():
            raise UsageError(f"--balance {part.strip()!r}: expected {', '.join(BALANCES)} or '{names[0]}=12000,…'")
        if name not in names:
            raise UsageError(f"--balance: no kind {name!r}{did_you_mean(name, names)}")
        counts[name] = int(number)
    return counts


def plan(
    available: Mapping[str, int], rows: int | None, balance: str | Mapping[str, int], multiple: int
) -> dict[str, int]:
    """Decide how many rows of each kind to take.

    Args:
        available: the available rows of each kind.
        rows: rows wanted in all; None for all that are available, or for the sum of explicit counts.
        balance: one of BALANCES, or explicit counts; kinds without one share the rest proportionally.
        multiple: the total is rounded down to a multiple of this.

    Returns:
        The rows to take, by kind.

    Raises:
        UsageError: the request contradicts itself.
        UserError: more rows are asked for than there are.
    """
    explicit = balance if not isinstance(balance, str) else {}
    fixed = sum(explicit.values())
    if rows is None:
        if isinstance(balance, str) and balance != PROPORTIONAL:
            # taking all rows of every kind leaves nothing to balance
            raise UsageError(f"--balance {balance} needs --rows")
        rows = fixed if explicit else sum(available.values())
    total = rows - rows % multiple
    if total < fixed:
        raise UsageError(
            f"--balance names {fixed} rows, but the total is {total} (--rows {rows}, a multiple of {multiple})"
        )
    for name, count in explicit.items():
        if count > available.get(name, 0):
            raise UserError(f"{name}: {count} rows wanted, {available.get(name, 0)} there are; lower --balance")
    others = {name: count for name, count in available.items() if name not in explicit}
    if total - fixed > sum(others.values()):
        raise UserError(f"{total - fixed} rows wanted, {sum(others.values())} there are; lower --rows")
    if isinstance(balance, str) and balance != PROPORTIONAL:
        return level(available, total, balance)
    shares = largest_remainder(others, total - fixed) if sum(others.values()) else dict.fromkeys(others, 0)
    return {name: explicit.get(name, shares.get(name, 0)) for name in available}


def random_keys(rows: int, seed: int) -> np.ndarray:
    """Draw a random key for each row; sorting rows by their keys puts them into random order. Float64 [rows]."""
    import numpy as np

    # the second number keeps this draw apart from the one of the order
    return np.random.default_rng([seed, 0]).random(rows)


def shuffled(rows: int, seed: int) -> np.ndarray:
    """Draw a random order of ``rows`` rows: their positions. Int64 [rows]."""
    import numpy as np

    return np.random.default_rng([seed, 1]).permutation(rows)


def pick(
    kinds: np.ndarray, names: Sequence[str], keys: np.ndarray, quotas: Sequence[Mapping[str, int]]
) -> list[np.ndarray]:
    """Choose disjoint sets of rows: for each kind, in the order of its keys, the first quota, then the next, ….

    Args:
        kinds: uint8 [rows], indices into ``names``.
        names: the kinds.
        keys: float64 [rows].
        quotas: one mapping a set, kind → rows.

    Returns:
        For each set the positions chosen, ascending (int64).
    """
    import numpy as np

    chosen: list[list[np.ndarray]] = [[] for _ in quotas]
    for number, name in enumerate(names):
        wanted = [quota.get(name, 0) for quota in quotas]
        if not sum(wanted):
            continue
        # the sets are consecutive pieces of the kind's random order, so that no row is in two of them
        ends = np.cumsum(wanted)
        places = np.flatnonzero(kinds == number)
        # only the smallest keys have to be in order
        first = np.argpartition(keys[places], ends[-1] - 1)[: ends[-1]]
        order = places[first[np.argsort(keys[places[first]])]]
        for part, start, end in zip(chosen, ends - wanted, ends, strict=True):
            part.append(order[start:end])
    return [np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64) for parts in chosen]
