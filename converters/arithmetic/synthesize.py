"""Raw rows like the contest's: the same sentences, ranges, number formats, mix and duplicates.

The contest's file has 800,000 Chinese rows whose kinds are drawn at random (``MIX``) with operands uniform over each
kind's range, so that small ranges repeat themselves: about 539,000 problems are different. 9,993 English rows,
all different, follow at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from converters.arithmetic.english import english_rows
from converters.arithmetic.problems import problem_text, solution_text
from converters.common.files import atomic

CONTEST_ROWS = 809_993
CONTEST_ENGLISH = 9_993
BLOCK = 100_000

MIX = {
    "direct computation": 0.45,
    "eq solve": 0.30,
    "sqrt computation": 0.05,
    "power computation": 0.05,
    "function computation": 0.025,
    "mean computation": 0.025,
    "area computation": 0.025,
    "mass computation": 0.025,
    "fraction simplify": 0.025,
    "discount percentage": 0.0125,
    "sales revenue": 0.0125,
}
"""Share of each kind in the Chinese rows, duplicates included."""

Draw = Callable[[np.random.Generator, int], Iterator[tuple[Any, ...]]]


def synthesize(out: str | Path, rows: int = CONTEST_ROWS, seed: int = 0) -> dict[str, int]:
    """Write ``rows`` raw rows as JSONL; the same seed gives the same bytes.

    Returns:
        The number of Chinese and of English rows.
    """
    english = round(rows * CONTEST_ENGLISH / CONTEST_ROWS)
    chinese = rows - english
    with atomic(out) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for block, start in enumerate(range(0, chinese, BLOCK)):
            rng = np.random.default_rng([seed, block])
            handle.writelines(chinese_lines(rng, min(BLOCK, chinese - start)))
        for problem, solution in english_rows(np.random.default_rng([seed, 2**32 - 1]), english):
            handle.write(json.dumps({"problem": problem, "solution": solution}, ensure_ascii=False) + "\n")
    return {"chinese": chinese, "english": english}


def chinese_lines(rng: np.random.Generator, rows: int) -> list[str]:
    """Draw ``rows`` Chinese rows as JSON lines, the kinds in random order."""
    kinds = list(MIX)
    drawn = rng.choice(len(kinds), size=rows, p=list(MIX.values()))
    lines = [""] * rows
    for number, kind in enumerate(kinds):
        places = np.flatnonzero(drawn == number).tolist()
        for place, operands in zip(places, DRAWS[kind](rng, len(places)), strict=True):
            # no character of these sentences needs escaping in JSON
            problem, solution = problem_text(kind, operands), solution_text(kind, operands)
            lines[place] = f'{{"problem": "{problem}", "solution": "{solution}"}}\n'
    return lines


def _hundredths(rng: np.random.Generator, low: int, high: int, size: int) -> list[Decimal]:
    """Decimals with two places, uniform over ``low/100 … high/100``."""
    return [Decimal(number).scaleb(-2) for number in rng.integers(low, high, size, endpoint=True).tolist()]


def _integers(rng: np.random.Generator, low: int, high: int, size: int) -> list[int]:
    numbers: list[int] = rng.integers(low, high, size, endpoint=True).tolist()
    return numbers


def _direct(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    operators = ["+-*/"[number] for number in rng.integers(0, 4, size).tolist()]
    left = _hundredths(rng, -1_000_000, 1_000_000, size)
    for a, operator, b in zip(left, operators, _hundredths(rng, -1_000_000, 1_000_000, size), strict=True):
        while operator == "/" and not b:
            (b,) = _hundredths(rng, -1_000_000, 1_000_000, 1)
        yield a, operator, b


def _equation(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    magnitude, sign = _integers(rng, 1, 100, size), rng.choice([-1, 1], size).tolist()
    for m, s, n in zip(magnitude, sign, _integers(rng, -100, 100, size), strict=True):
        yield s * m, n


def _mean(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    for count in _integers(rng, 3, 10, size):
        yield tuple(_integers(rng, 1, 100, count))


def _fraction(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    for p in _integers(rng, 1, 9, size):
        yield p, int(rng.integers(p + 1, 10, endpoint=True))


def _pair(high: int) -> Draw:
    """Two integers of 1 … ``high``."""

    def draw(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
        yield from zip(_integers(rng, 1, high, size), _integers(rng, 1, high, size), strict=True)

    return draw


def _sqrt(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    yield from zip(_hundredths(rng, 0, 1_000_000, size))


def _power(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    yield from zip(_hundredths(rng, -100_000, 100_000, size), _integers(rng, 0, 5, size), strict=True)


def _function(rng: np.random.Generator, size: int) -> Iterator[tuple[Any, ...]]:
    x = _hundredths(rng, 10, 1_000, size)
    yield from zip(x, _integers(rng, 1, 100, size), _integers(rng, 1, 100, size), strict=True)


DRAWS: dict[str, Draw] = {
    "direct computation": _direct,
    "eq solve": _equation,
    "sqrt computation": _sqrt,
    "power computation": _power,
    "function computation": _function,
    "mean computation": _mean,
    "area computation": _pair(100),
    "mass computation": _pair(10),
    "fraction simplify": _fraction,
    "discount percentage": _pair(100),
    "sales revenue": _pair(100),
}
"""Operands of each kind, uniform over its range."""
