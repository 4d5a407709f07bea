"""Arithmetic drills in bare symbols: the skills that the word problems need, without their words.

A drill is a prompt such as ``967.09+688.16=`` and an answer in the cells of ``steps.digits``. In most of them operands
are not negative; ``signed`` and ``power`` have both signs. What a sentence asks for and how its parts combine is left
to fine-tuning.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from converters.arithmetic.problems import Problem
from converters.arithmetic.steps import digits, worked
from converters.arithmetic.steps.digits import ANSWER, Work, decimal_text, running_sum, simplification


def _answer(work: Work, value: int, places: int) -> str:
    return work.text(negative=value < 0) + ANSWER + decimal_text(value, places)


def _operand(rng: random.Random) -> int:
    """An integer of hundredths: mostly six digits as in the contest, sometimes fewer."""
    return rng.randrange(1_000_000) if rng.random() < 0.7 else rng.randrange(10 ** rng.randint(1, 6))


def _places(rng: random.Random) -> int:
    return 2 if rng.random() < 0.7 else 0


def _sign(rng: random.Random) -> int:
    return rng.choice((-1, 1))


def _divide(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.4:
        a, b, places = rng.randrange(10 ** rng.randint(1, 4)), rng.randint(1, 10 ** rng.randint(1, 3)), 0
    else:
        a, b, places = _operand(rng), max(1, _operand(rng)), _places(rng)
    # at most three digits before the point, so that rows stay short
    if a // b >= 1000:
        a %= 1000 * b
    work = digits.divide(a, b, 2)
    return f"{decimal_text(a, places)}/{decimal_text(b, places)}=", _answer(work, work.value, 2)


def _root(rng: random.Random) -> tuple[str, str]:
    a = rng.randrange(1_000_000) if rng.random() < 0.8 else rng.randrange(10 ** rng.randint(2, 6))
    # as the worked style has it: two decimals, and two pairs of digits before the point
    work = digits.root(100 * a, 4)
    return f"√{decimal_text(a, 2)}=", _answer(work, work.value, 2)


def _sum(rng: random.Random) -> tuple[str, str]:
    terms = _terms(rng)
    return "+".join(map(str, terms)) + "=", running_sum(terms, counted=True) + ANSWER + str(sum(terms))


def _mean(rng: random.Random) -> tuple[str, str]:
    terms = _terms(rng)
    return f"({'+'.join(map(str, terms))})/{len(terms)}=", worked.mean(_problem("mean computation", *terms))


def _terms(rng: random.Random) -> list[int]:
    return [rng.randint(1, 100) for _ in range(rng.randint(3, 10))]


def _share(rng: random.Random) -> tuple[str, str]:
    """A difference of two numbers in per cent of the first."""
    a, b = rng.randint(1, 100), rng.randint(1, 100)
    return f"({a}-{b})/{a}%=", worked.discount(_problem("discount percentage", a, b))


def _power(rng: random.Random) -> tuple[str, str]:
    exponent = rng.choices(range(6), (1, 1, 4, 5, 3, 3))[0]
    # to the fifth, numbers of more than five digits would make the longest rows by far
    units = rng.randrange(100_000) if rng.random() < 0.8 else rng.randrange(10 ** rng.randint(1, 5))
    base = decimal_text(_sign(rng) * units, _places(rng))
    return f"{base}^{exponent}=", worked.nth_power(_problem("power computation", Decimal(base), exponent))


def _problem(kind: str, *operands: Any) -> Problem:
    # in its default precision the worked style reads the operands alone
    return Problem(kind, "", "", operands)


def _simplify(rng: random.Random) -> tuple[str, str]:
    p, q = rng.randint(1, 30), rng.randint(2, 30)
    return f"{p}/{q}~", simplification(p, q) + ANSWER + f"{p // math.gcd(p, q)}/{q // math.gcd(p, q)}"


def _signed(rng: random.Random) -> tuple[str, str]:
    """One operation on operands of either sign: the sign is settled first, as in the ``worked`` steps."""
    operator = rng.choices("+-*/", (20, 28, 22, 30))[0]
    if rng.random() < 0.25:
        a, b = (_sign(rng) * rng.randrange(10 ** rng.randint(1, 3)) for _ in "ab")
        places = 0
    else:
        a, b, places = _sign(rng) * _operand(rng), _sign(rng) * _operand(rng), 2
    if operator == "/":
        b = b or 7
        # fmod keeps the sign of a, which % would not
        a = int(math.fmod(a, 1000 * b))
    left, right = decimal_text(a, places), decimal_text(b, places)
    return f"{left}{operator}{right}=", worked.direct(
        _problem("direct computation", Decimal(left), operator, Decimal(right))
    )


SKILLS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "signed": _signed,
    "divide": _divide,
    "root": _root,
    "power": _power,
    "sum": _sum,
    "mean": _mean,
    "share": _share,
    "simplify": _simplify,
}

_BINARY = re.compile(r"(-?[\d.]+)([-+*/^])(-?[\d.]+)[=~]")


def surrounded(rng: random.Random, prompt: str, words: list[str], ends: str) -> str:
    """Put a drill's prompt among words, so that a model learns to find operands anywhere in a row.

    Args:
        rng: draws the words and gaps.
        prompt: a drill's prompt, such as ``967.09+688.16=``.
        words: the words to draw from.
        ends: signs, one of which ends the row.
    """

    def some(most: int) -> str:
        return rng.choice(("", "", " ", "，")).join(rng.choice(words) for _ in range(rng.randint(0, most)))

    match = _BINARY.fullmatch(prompt)
    if match:
        left, operator, right = match.groups()
        gap = rng.choice(("", " ", " "))
        inside = some(2) if rng.random() < 0.4 else ""
        core = f"{left}{gap}{inside}{operator}{some(2) if inside else ''}{gap}{right}"
    else:
        core = prompt.rstrip("=~")
        if "+" in core and "(" not in core:
            between = rng.choice(("+", ", ", ", ", " + ", "，"))
            core = f"{rng.choice(('[', '[', '：', ''))}{core.replace('+', between)}{rng.choice((']', ']', ''))}"
    before = some(7) + rng.choice(("", " ", "：", " "))
    after = rng.choice(("", " ", " ")) + some(7) + rng.choice(ends)
    return (before + core + after).strip()


def drill(rng: random.Random, skill: str) -> list[str]:
    """Draw one drill of ``skill``: ``[prompt, answer]``."""
    return list(SKILLS[skill](rng))
