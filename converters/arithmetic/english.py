"""English rows in the style of competition mathematics: LaTeX, a reasoned solution, the answer in a box.

The contest's file ends with 9,993 of them. These are built from six patterns, so that their length, their escapes
and their line breaks are like the real ones; every problem is different and every answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np


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
    left, right, root = a + b, b, c - 50
    constant = a * root + d
    return (
        f"Find the value of $x$ for which ${left}x + {d} = {right}x + ({constant})$.",
        "We collect the terms in $x$ on the left and the constants on the right: \\begin{align*}\n"
        f"{left}x - {right}x &= {constant} - {d} \\\\\n{a}x &= {constant - d}.\n\\end{{align*}}\n\n"
        f"Dividing both sides by ${a}$ gives $x = \\boxed{{{root}}}$.",
    )


def _remainder(a: int, b: int, c: int, d: int) -> tuple[str, str]:
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
