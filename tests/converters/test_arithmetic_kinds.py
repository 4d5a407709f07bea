"""Kinds: texts to the byte, values by an independent way of computing, and what a solution may look like."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from arithmetic_rows import EXAMPLES, OPERANDS, problem_of
from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.problems import (
    CHINESE,
    ENGLISH,
    KINDS,
    StepError,
    check,
    parse,
    problem_text,
    solution_text,
    value,
)

ENGLISH_ROW = ("Simplify $\\sqrt{245}$.", "So, $\\sqrt{245}=\\sqrt{49\\cdot5}=\\boxed{7\\sqrt{5}}$.")


@pytest.mark.parametrize(("kind", "text", "solution", "_answer"), EXAMPLES)
def test_published_rows_to_the_byte(kind: str, text: str, solution: str, _answer: str) -> None:
    problem = parse(text, solution)
    assert problem is not None
    assert problem.kind == kind
    check(problem)
    assert problem_text(kind, problem.operands) == text
    assert solution_text(kind, problem.operands) == solution


def test_names_are_those_of_report_004() -> None:
    assert len(CHINESE) == 11
    assert (*CHINESE, ENGLISH) == KINDS
    assert {kind for kind, *_ in EXAMPLES} == set(CHINESE)


def exact(kind: str, operands: tuple) -> Fraction | None:
    """The value in rational numbers; None where it is irrational."""
    numbers = [Fraction(item) if not isinstance(item, str) else item for item in operands]
    if kind == "direct computation":
        a, operator, b = numbers
        return {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else Fraction(0)}[operator]
    if kind == "mean computation":
        return sum(numbers) / len(numbers)
    if kind == "sqrt computation":
        return None
    a, b = numbers[:2]
    return {
        "eq solve": lambda: -b / a,
        "fraction simplify": lambda: a / b,
        "mass computation": lambda: a * b,
        "area computation": lambda: a * b,
        "discount percentage": lambda: 100 * (a - b) / a,
        "sales revenue": lambda: a * (100 + b) / 100,
        "power computation": lambda: a ** int(b),
        "function computation": lambda: b * a ** int(numbers[2]),
    }[kind]()


@pytest.mark.parametrize("kind", CHINESE)
def test_values_equal_rational_arithmetic(kind: str) -> None:
    @given(OPERANDS[kind])
    def holds(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        assert problem.kind == kind
        assert problem.operands == operands
        check(problem)
        found, expected = Fraction(value(problem)), exact(kind, operands)
        if expected is None:
            found, expected = found * found, Fraction(operands[0])
        assert abs(found - expected) <= abs(expected) / 10**26
        assert solution_text(kind, problem.operands) == problem.solution

    holds()


@pytest.mark.parametrize("kind", CHINESE)
def test_one_wrong_digit_is_found(kind: str) -> None:
    @given(OPERANDS[kind], st.data())
    def refused(operands: tuple, data: st.DataObject) -> None:
        right = problem_of(kind, operands)
        start = right.solution.index("=") + 1 if "=" in right.solution else 0
        mantissa = right.solution.split("E")[0]
        places = [place for place in range(start, len(mantissa)) if mantissa[place].isdecimal()]
        # floats are right to fifteen digits, decimals and integers to the last
        place = data.draw(st.sampled_from(places[:15] if "." in mantissa else places))
        digit = data.draw(st.sampled_from([d for d in "0123456789" if d != right.solution[place]]))
        wrong = parse(right.problem, right.solution[:place] + digit + right.solution[place + 1 :])
        assert wrong is not None
        with pytest.raises(StepError, match=r"does not follow|not of the form"):
            check(wrong)

    refused()


@pytest.mark.parametrize(
    ("text", "solution"),
    [
        ("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.33"),
        ("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.3333333333333333"),
        ("计算 2.00 的平方根？", "√2.00 = 1.41"),
        ("解方程 3x + -1 = 0", "方程的解为：0.33"),
        ("解方程 -5x + 0 = 0", "方程的解为：-0.0"),
        ("去年销售额为 28 万元，今年销售额增加了 82%，请计算今年的销售额。", "50.959999999999994"),
        ("当 x = 4.03 时，求函数 y = 57x^54 的值", "函数的值为：2.76916E+34"),
        ("计算 -0.00 + 0.00 等于多少？", "-0.00 + 0.00 = 0.00"),
        ("计算 0.00 的 0 次方？", "0.00^0 = 1"),
    ],
)
def test_rounded_and_float_solutions_follow(text: str, solution: str) -> None:
    problem = parse(text, solution)
    assert problem is not None
    check(problem)


@pytest.mark.parametrize(
    ("text", "solution", "reason"),
    [
        ("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0.34", "expected 0.3333333333333333333333333333, found 0.34"),
        ("计算 1.00 / 3.00 等于多少？", "1.00 / 3.00 = 0", "does not follow"),
        ("计算 7469.98 * -2455.65 等于多少？", "7469.98 * -2455.65 = -18343656.3871", "expected -18343656.3870"),
        ("计算 1.00 + 1.00 等于多少？", "2.00", "not of the form"),
        ("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = 2.00 ", "found 2.00 "),
        ("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = NaN", "found NaN"),
        ("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = ２.00", "does not follow"),
        ("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = 2E-999999999999999999999", "does not follow"),
        ("计算 1.00 / 0.00 等于多少？", "1.00 / 0.00 = 0", "DivisionByZero"),
        ("计算 0.00 / 0.00 等于多少？", "0.00 / 0.00 = 1", "InvalidOperation"),
        ("解方程 0x + 5 = 0", "方程的解为：0.0", "ZeroDivisionError"),
        ("商品原价为 0 元，打折后的价格为 28 元，请计算打折的折扣比例。", "0.0", "ZeroDivisionError"),
        ("计算 -4.00 的平方根？", "√-4.00 = 2", "InvalidOperation"),
        ("将分数 4/10 进行简化。", "最简化的形式为：4/10", "expected 2/5, found 4/10"),
        ("将分数 4/0 进行简化。", "最简化的形式为：1/0", "ZeroDivisionError"),
        ("某物体的密度为 10 克/立方厘米，体积为 3 立方厘米，请计算该物体的质量。", "30", "not of the form"),
        ("当 x = 9.99 时，求函数 y = 9x^99999999999 的值", "函数的值为：1", "Overflow"),
    ],
)
def test_what_does_not_follow_is_refused_with_the_reason(text: str, solution: str, reason: str) -> None:
    problem = parse(text, solution)
    assert problem is not None
    with pytest.raises(StepError, match=reason):
        check(problem)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "计算",
        "计算 1.00 ^ 2.00 等于多少？",
        "计算 1.00 + 2.00 等于多少?",
        "计算 １.00 + 2.00 等于多少？",
        "计算 +1.00 + 2.00 等于多少？",
        "计算 1.00 + 2.00 等于多少？\n",
        "求以下数据的平均值：[]",
        "解方程 3x² + 1 = 0",
        "解方程 " + "9" * 5000 + "x + 1 = 0",
        "今天天气如何？",
        "What is $1+1$?",
    ],
)
def test_unknown_kinds_are_none(text: str) -> None:
    assert parse(text, "1") is None


def test_english_is_known_by_its_boxed_answer() -> None:
    problem = parse(*ENGLISH_ROW)
    assert problem is not None
    assert (problem.kind, problem.operands) == (ENGLISH, ())
    check(problem)
    with pytest.raises(StepError, match="English"):
        value(problem)
    assert parse("今天 $\\sqrt{245}$", ENGLISH_ROW[1]) is None


def test_values_do_not_depend_on_the_callers_decimal_context() -> None:
    from decimal import localcontext

    problem = problem_of("direct computation", (Decimal("1.00"), "/", Decimal("3.00")))
    with localcontext() as context:
        context.prec = 5
        check(problem)
        assert str(value(problem)) == "0.3333333333333333333333333333"
