"""The seed style: published answers to the byte, and every equation in every answer true."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from arithmetic_rows import EXAMPLES, OPERANDS, problem_of
from hypothesis import given

from converters.arithmetic import steps
from converters.arithmetic.problems import CHINESE, StepError, parse
from converters.arithmetic.steps import get_style, seed, style_names
from converters.common.errors import UsageError

PREFIX = "计算过程："
NUMBER = r"-?\d+(?:\.\d+)?(?:E[+-]\d+)?"


@pytest.mark.parametrize(("kind", "text", "solution", "answer"), EXAMPLES)
def test_published_answers_to_the_byte(kind: str, text: str, solution: str, answer: str) -> None:
    problem = parse(text, solution)
    assert problem is not None
    assert seed.STEPS[kind](problem) == answer


def numbers(pattern: str, text: str) -> list[Fraction]:
    match = re.fullmatch(pattern.replace("N", f"({NUMBER})"), text)
    assert match, text
    return [Fraction(group) for group in match.groups()]


def near(found: Fraction, expected: Fraction, places: int = 4) -> bool:
    return abs(found - expected) <= Fraction(5, 10 ** (places + 1)) + Fraction(1, 10**9)


def equations_hold(kind: str, text: str, operands: tuple) -> bool:
    """Evaluate what is written, in rational numbers."""
    if kind == "direct computation":
        match = re.fullmatch(rf"({NUMBER}) ([-+*/]) ({NUMBER}) = ({NUMBER})", text)
        assert match, text
        a, b, v = (Fraction(match.group(place)) for place in (1, 3, 4))
        assert (a, b) == (Fraction(operands[0]), Fraction(operands[2]))
        return near(v, {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Fraction(0)}[match.group(2)])
    if kind == "eq solve":
        m, n, numerator, divisor, x = numbers("Nx = N, x = N / N, x = N", text)
        return (m, n) == (divisor, numerator) and near(x, n / m)
    if kind == "mean computation":
        terms, count, mean = text.removeprefix("(").replace(") / ", "|").replace(" = ", "|").split("|")
        return near(Fraction(mean), sum(map(Fraction, terms.split(" + "))) / Fraction(count))
    if kind == "fraction simplify":
        p, q, g, p2, g2, p3, q2, g3, q3, p4, q4 = numbers(
            r"gcd\(N, N\) = N, N / N = N, N / N = N, 最简化的形式为：N/N", text
        )
        assert (p, q, g, g) == (p2, q2, g2, g3)
        assert (p3, q3) == (p4, q4) == (p / g, q / g)
        return math.gcd(int(p3), int(q3)) == 1
    if kind in ("mass computation", "area computation"):
        a, b, v = numbers(r"N \* N = N", text)
        return a * b == v
    if kind == "discount percentage":
        a, b, c, v = numbers(r"\(N - N\) / N = N", text)
        return a == c and near(v, 100 * (a - b) / a, places=2)
    if kind == "sales revenue":
        a, rate, v = numbers(r"N \* \(1 \+ N\) = N", text)
        return near(v, a * (1 + rate))
    if kind == "sqrt computation":
        x, v = numbers("√N = N", text)
        assert x == Fraction(operands[0])
        return abs(v * v - x) <= Fraction(6, 10**5) * (2 * v + 1)
    if kind == "power computation":
        x, n, v = numbers(r"N\^N = N", text)
        return v == x ** int(n)
    a, x, n, v = numbers(r"N \* N \^ N = N", text)
    return abs(v - a * x ** int(n)) <= abs(v) / 10**26


@pytest.mark.parametrize("kind", CHINESE)
def test_every_equation_is_true(kind: str) -> None:
    @given(OPERANDS[kind])
    def holds(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        if kind == "sqrt computation" and operands[0] in (Decimal("0.00"), Decimal("1.00")):
            return
        answer = seed.STEPS[kind](problem)
        assert answer.startswith(PREFIX)
        assert equations_hold(kind, answer.removeprefix(PREFIX), operands)

    holds()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # the digits of the result are rounded wherever they stand
        ("计算 1000.10 - 1000.00 等于多少？", "1000.1 - 1000.00 = 0.1"),
        ("计算 -6914.60 + 0.00 等于多少？", "-6914.6 + 0.00 = -6914.6"),
        ("计算 12.00 - 12.00 等于多少？", "12.00 - 12.00 = 0"),
        ("计算 10.00 - 10.00 等于多少？", "10 - 10 = 0"),
        # a float's rounding, not decimal's: 0.12345 lies above the tie in binary
        ("计算 24.69 / 200.00 等于多少？", "24.69 / 200.00 = 0.1235"),
        ("计算 1.00 / 32.00 等于多少？", "1.00 / 32.00 = 0.0312"),
        ("计算 0.01 / 10000.00 等于多少？", "0.01 / 10000.00 = 0"),
        ("计算 -0.01 / 10000.00 等于多少？", "-0.01 / 10000.00 = -0"),
        ("计算 0.00 * -3.00 等于多少？", "0.00 * -3.00 = -0"),
    ],
)
def test_rounding_as_published(text: str, answer: str) -> None:
    problem = parse(text, "")
    assert problem is not None
    assert seed.STEPS[problem.kind](problem) == PREFIX + answer


@pytest.mark.parametrize("number", ["0.00", "1.00"])
def test_a_replacement_that_breaks_the_expression_refuses_the_row(number: str) -> None:
    problem = problem_of("sqrt computation", (Decimal(number),))
    with pytest.raises(StepError, match="does not hold"):
        seed.STEPS["sqrt computation"](problem)


def test_answers_come_from_the_operands_not_from_a_rounded_solution() -> None:
    problem = parse("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.33")
    assert problem is not None
    assert seed.STEPS[problem.kind](problem) == "计算过程：1.00 / 3.00 = 0.3333"


def test_styles_are_found_and_whole() -> None:
    assert {"raw", "seed"} <= set(style_names())
    assert "digits" not in style_names()
    for name in style_names():
        assert set(get_style(name)) == set(CHINESE)


def test_raw_gives_the_solution() -> None:
    for kind, text, solution, _ in EXAMPLES:
        problem = parse(text, solution)
        assert problem is not None
        assert get_style("raw")[kind](problem) == solution


def test_a_new_style_joins_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud.py").write_text("STEPS = {'eq solve': lambda problem: problem.solution + '!'}\n")
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    assert "loud" in style_names()
    assert get_style("loud")["eq solve"](problem_of("eq solve", (2, 4))) == "方程的解为：-2.0!"


def test_unknown_style_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'seed'"):
        get_style("sede")
