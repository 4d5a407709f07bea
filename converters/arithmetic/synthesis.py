"""Raw rows like the contest's: the same sentences, ranges, number formats, mix and duplicates.

The contest's file has 800,000 Chinese rows whose kinds are drawn at random (``MIX``) with operands uniform over each
kind's range, so that small ranges repeat themselves: about 539,000 problems are different. 9,993 English rows, all
different, follow at the end: in the style of competition mathematics, built from six patterns so that their length,
their escapes and their line breaks are like the real ones, and with right answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from converters.arithmetic.problems import CONTEST_ROWS, problem_text, solution_text
from converters.common.errors import UsageError, did_you_mean
from converters.common.files import atomic

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
DIRECT, OPERATORS = "direct computation", "+-*/"
"""The kind that has operators, and these; one in four rows of it has each."""

Draw = Callable[[np.random.Generator, int], Iterator[tuple[Any, ...]]]


def write_rows(out: str | Path, rows: int, seed: int, kinds: Sequence[str] | None = None) -> dict[str, int]:
    """Write raw rows as JSONL.

    Args:
        out: the file to write.
        rows: how many; English ones are among them in the contest's share, unless ``kinds`` are given.
        seed: the same seed gives the same bytes.
        kinds: names of MIX or OPERATORS; the rows are of these alone, in the contest's proportions to each other.

    Returns:
        The number of ``chinese`` and of ``english`` rows.

    Raises:
        UsageError: fewer than one row, a negative seed, or an unknown kind.
    """
    if rows < 1 or seed < 0:
        raise UsageError("--rows must be at least 1 and --seed at least 0")
    shares, operators = _mix(kinds)
    english = round(rows * CONTEST_ENGLISH / CONTEST_ROWS) if kinds is None else 0
    chinese = rows - english
    with atomic(out) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for block, start in enumerate(range(0, chinese, BLOCK)):
            # a generator for each block: whole blocks are the same however many rows are asked for
            rng = np.random.default_rng([seed, block])
            handle.writelines(chinese_lines(rng, min(BLOCK, chinese - start), shares, operators))
        # a second number that no block of Chinese rows has
        for problem, solution in english_rows(np.random.default_rng([seed, 2**32 - 1]), english):
            handle.write(json.dumps({"problem": problem, "solution": solution}, ensure_ascii=False) + "\n")
    return {"chinese": chinese, "english": english}


def _mix(kinds: Sequence[str] | None) -> tuple[dict[str, float], str]:
    """Return the share of each kind among the Chinese rows, and the operators of direct computation."""
    if kinds is None:
        return MIX, OPERATORS
    known = [*MIX, *OPERATORS]
    for name in kinds:
        if name not in known:
            raise UsageError(f"--kinds: no kind {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    if not kinds:
        raise UsageError("--kinds names no kind")
    # direct computation by its name is all four operators
    operators = OPERATORS if DIRECT in kinds else "".join(sign for sign in OPERATORS if sign in kinds)
    weights = {kind: share for kind, share in MIX.items() if kind in kinds}
    if operators:
        weights[DIRECT] = MIX[DIRECT] * len(operators) / len(OPERATORS)
    return {kind: weight / sum(weights.values()) for kind, weight in weights.items()}, operators


def chinese_lines(
    rng: np.random.Generator, rows: int, shares: dict[str, float] = MIX, operators: str = OPERATORS
) -> list[str]:
    """Draw ``rows`` Chinese rows as JSON lines, the kinds in random order.

    Args:
        rng: what everything is drawn from.
        rows: how many.
        shares: share of each kind; they sum up to 1.
        operators: signs of direct computation, all equally likely.
    """
    kinds = list(shares)
    drawn = rng.choice(len(kinds), size=rows, p=list(shares.values()))
    lines = [""] * rows
    for number, kind in enumerate(kinds):
        places = np.flatnonzero(drawn == number).tolist()
        draw = partial(_direct, operators=operators) if kind == DIRECT else DRAWS[kind]
        for place, operands in zip(places, draw(rng, len(places)), strict=True):
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


def _direct(rng: np.random.Generator, size: int, operators: str = OPERATORS) -> Iterator[tuple[Any, ...]]:
    signs = [operators[number] for number in rng.integers(0, len(operators), size).tolist()]
    left = _hundredths(rng, -1_000_000, 1_000_000, size)
    for a, operator, b in zip(left, signs, _hundredths(rng, -1_000_000, 1_000_000, size), strict=True):
        # a division by zero has no solution to write
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


def english_rows(rng: np.random.Generator, rows: int) -> Iterator[tuple[str, str]]:
    """Yield ``rows`` pairs of problem and solution, no problem twice."""
    seen: set[str] = set()
    while len(seen) < rows:
        pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
        problem, solution = pattern(*rng.integers(2, 100, 4).tolist())
        if problem not in seen:
            seen.add(problem)
            yield problem, solution


def _marbles(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    total, common = a + b + c + d, math.gcd(a, a + b + c + d)
    return (
        f"A jar holds ${a}$ red, ${b}$ green, ${c}$ blue and ${d}$ white marbles. One of them is drawn at random. "
        "What is the probability that it is red? Express your answer as a common fraction.",
        f"In all there are ${a}+{b}+{c}+{d}={total}$ marbles, each as likely to be drawn as any other. Of these, "
        f"${a}$ are red, so the probability is $\\frac{{{a}}}{{{total}}}$, which in lowest terms is "
        f"$\\boxed{{\\frac{{{a // common}}}{{{total // common}}}}}$.",
    )


def _linear(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    # from -48 to 49, so that negative solutions occur
    left, right, root = a + b, b, c - 50
    constant = a * root + d
    return (
        f"Find the value of $x$ for which ${left}x + {d} = {right}x + ({constant})$.",
        "We collect the terms in $x$ on the left and the constants on the right: \\begin{align*}\n"
        f"{left}x - {right}x &= {constant} - {d} \\\\\n{a}x &= {constant - d}.\n\\end{{align*}}\n\n"
        f"Dividing both sides by ${a}$ gives $x = \\boxed{{{root}}}$.",
    )


def _remainder(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    # at least 3: d is drawn from 2 on
    modulus = d + 1
    product, rest = (a % modulus) * (b % modulus), (a * b + c) % modulus
    return (
        f"What is the remainder when ${a} \\cdot {b} + {c}$ is divided by ${modulus}$?",
        f"We work modulo ${modulus}$. Since ${a} \\equiv {a % modulus}$ and ${b} \\equiv {b % modulus}$, the product "
        f"is congruent to ${product} \\equiv {product % modulus}$. Adding ${c}$ gives "
        f"${product % modulus + c} \\equiv {rest} \\pmod{{{modulus}}}$, so the remainder is $\\boxed{{{rest}}}$.",
    )


def _quadratic(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    total = a * d * d + b * d - c
    return (
        f"Let $f(x) = {a}x^2 + {b}x - {c}$. What is $f({d})$?",
        f"Substituting $x = {d}$ into the definition, we find \\[f({d}) = {a} \\cdot {d}^2 + {b} \\cdot {d} - {c} = "
        f"{a * d * d} + {b * d} - {c}.\\] Therefore, $f({d}) = \\boxed{{{total}}}$.",
    )


def _sequence(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    start, step, place = a * 10 + b, c, d + 10
    return (
        f"The first three terms of an arithmetic sequence are ${start}$, ${start + step}$ and ${start + 2 * step}$. "
        f"What is term number ${place}$, counted from $1$?",
        f"The common difference is ${start + step} - {start} = {step}$. To reach term number ${place}$ we take "
        f"${place - 1}$ such steps from the first term, so it equals ${start} + {place - 1} \\cdot {step} = "
        f"\\boxed{{{start + (place - 1) * step}}}$.",
    )


def _corner(a: int, b: int, c: int, d: int) -> tuple[str, str]:
    width, height, cut_width, cut_height = a + c, b + d, c, d
    return (
        f"From one corner of a ${width}$ by ${height}$ rectangle, a ${cut_width}$ by ${cut_height}$ rectangle is cut "
        "off, as shown. What is the area of the shaded part that is left?\n\n[asy]\nsize(150);\n"
        f"fill((0,0)--({width},0)--({width},{b})--({a},{b})--({a},{height})--(0,{height})--cycle, gray(0.7));\n"
        f'draw((0,0)--({width},0)--({width},{height})--(0,{height})--cycle);\nlabel("${width}$",({width / 2},0),S);\n'
        "[/asy]",
        f"The whole rectangle has area ${width} \\cdot {height} = {width * height}$ and the part cut off has area "
        f"${cut_width} \\cdot {cut_height} = {cut_width * cut_height}$. What is left has area "
        f"${width * height} - {cut_width * cut_height} = \\boxed{{{width * height - cut_width * cut_height}}}$.",
    )


PATTERNS: tuple[Callable[[int, int, int, int], tuple[str, str]], ...] = (
    _marbles,
    _linear,
    _remainder,
    _quadratic,
    _sequence,
    _corner,
)
