"""The record holder's style: every equation in it holds, and the last number is the solution."""

from __future__ import annotations

import ast
import operator
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from arithmetic_rows import OPERANDS, problem_of
from hypothesis import given

from converters.arithmetic.problems import CHINESE, Problem, StepError
from converters.arithmetic.steps import Style, get_style, precision_names
from converters.arithmetic.steps.decompose import STEPS
from eval.math.rules import grade, parse

PROMISES = {"exact": ("exact", "close", "sig4"), "sig6": ("close", "sig4"), "2dp": ("close",)}
OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def evaluate(text: str) -> Fraction:
    """The exact value of sums, products and quotients of decimals."""
    text = text.strip()

    def walk(node: ast.AST) -> Any:
        if isinstance(node, ast.BinOp):
            left, right = walk(node.left), walk(node.right)
            return OPERATIONS[type(node.op)](left, int(right) if isinstance(node.op, ast.Pow) else right)
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        assert isinstance(node, ast.Constant), text
        return Fraction(ast.get_source_segment(text, node) or "")

    return Fraction(walk(ast.parse(text, mode="eval").body))


def check_lines(text: str) -> None:
    """Recompute every line; a rounded last line must be near."""
    for line in text.split("\n"):
        if "=" not in line:
            continue
        line = re.sub(r" (平方厘米|克)$", "", line.removeprefix("final, ").removeprefix("x = "))
        if "x =" in line:  # the equation's own line, and its constant
            continue
        line = re.sub(r"^-([\d.]+)\^2", r"(-\1)^2", line).replace("^", "**")
        if remainder := re.fullmatch(r"(\d+) / (\d+) = (\d+) R (\d+)", line):
            a, b, quotient, rest = map(int, remainder.groups())
            assert divmod(a, b) == (quotient, rest)
        elif "~=" in line:
            left, right = line.split("~=")
            assert abs(evaluate(left) - evaluate(right)) <= Fraction(1, 2) / 10 ** len(right.partition(".")[2])
        else:
            values = [evaluate(side) for side in line.split("=")]
            assert values.count(values[0]) == len(values), line


@pytest.mark.parametrize("precision", PROMISES)
@pytest.mark.parametrize("kind", CHINESE)
def test_every_line_holds_and_the_answer_is_what_its_precision_promises(kind: str, precision: str) -> None:
    write = get_style(Style("decompose", precision))[kind]

    @given(OPERANDS[kind])
    def check(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        text = write(problem)
        label = parse(problem.solution)
        assert label is not None
        right = grade(parse(text), label)
        assert all(right[rule] for rule in PROMISES[precision])
        if precision != "exact":  # there the answer is the data set's float, its error included
            check_lines(text)

    check()


@pytest.mark.parametrize(
    ("kind", "operands", "text"),
    [
        ("direct computation", (Decimal("967.09"), "-", Decimal("-688.16")), "1655.25"),
        (
            "direct computation",
            (Decimal("-7.50"), "*", Decimal("32.04")),
            "7.50 * 32.04 = 7.50 * (30 + 2 + 0.04)\n7.50 * 30 = 225.0000\n7.50 * 2 = 15.0000\n7.50 * 0.04 = 0.3000\n"
            "225.0000 + 15.0000 = 240.0000\n240.0000 + 0.3000 = 240.3000\nfinal, -7.50 * 32.04 = -240.3000",
        ),
        (
            "direct computation",
            (Decimal("2.00"), "/", Decimal("-0.03")),
            "200 * 10^6 = 200000000\n"
            "200000000 - 3 * 60000000 = 200000000 - 180000000 = 20000000\n"
            "20000000 - 3 * 6000000 = 20000000 - 18000000 = 2000000\n"
            "2000000 - 3 * 600000 = 2000000 - 1800000 = 200000\n"
            "200000 - 3 * 60000 = 200000 - 180000 = 20000\n"
            "20000 - 3 * 6000 = 20000 - 18000 = 2000\n"
            "2000 - 3 * 600 = 2000 - 1800 = 200\n"
            "200 - 3 * 60 = 200 - 180 = 20\n"
            "20 - 3 * 6 = 20 - 18 = 2\n"
            "200000000 / 3 = 66666666 R 2\n"
            "final, 2.00 / -0.03 ~= -66.66667",
        ),
        ("power computation", (Decimal("819.19"), 0), "1"),
        ("power computation", (Decimal("-7.10"), 1), "-7.10"),
        ("fraction simplify", (4, 10), "2/5"),
        ("mass computation", (10, 3), "final, 10 * 3 = 30 克"),
        (
            "area computation",
            (57, 84),
            "57 * 84 = 57 * (80 + 4)\n57 * 80 = 4560\n57 * 4 = 228\n4560 + 228 = 4788\nfinal, 57 * 84 = 4788 平方厘米",
        ),
    ],
)
def test_texts(kind: str, operands: tuple, text: str) -> None:
    assert STEPS[kind](problem_of(kind, operands)) == text


def test_a_quotient_that_rounds_up_to_a_new_digit() -> None:
    write = get_style(Style("decompose", "2dp"))["direct computation"]
    text = write(problem_of("direct computation", (Decimal("9999.99"), "/", Decimal("-10000.00"))))
    assert text.endswith("final, 9999.99 / -10000.00 ~= -1.00")


def test_an_answer_that_is_not_the_solution_is_refused() -> None:
    assert precision_names("decompose") == ("exact", "sig6", "2dp")
    with pytest.raises(StepError, match="not"):
        STEPS["eq solve"](Problem("eq solve", "解方程 1x + 2 = 0", "方程的解为：2.0", (1, 2)), "exact")
