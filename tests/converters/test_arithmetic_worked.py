"""Worked steps: every cell holds by itself, and the last line is the solution."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.arithmetic.kinds import CHINESE, Problem, StepError, parse, problem_text, solution_text, value
from converters.arithmetic.steps import digits
from converters.arithmetic.steps.worked import STEPS


def hundredths(low: int, high: int) -> st.SearchStrategy[Decimal]:
    return st.integers(low * 100, high * 100).map(lambda units: Decimal(units).scaleb(-2))


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


OPERANDS: dict[str, st.SearchStrategy[tuple]] = {
    "direct computation": st.tuples(hundredths(-10000, 10000), st.sampled_from("+-*/"), hundredths(-10000, 10000)),
    "eq solve": st.tuples(integers(-100, 100).filter(bool), integers(-100, 100)),
    "mean computation": st.lists(integers(1, 100), min_size=3, max_size=10).map(tuple),
    "fraction simplify": st.tuples(integers(1, 9), integers(2, 10)),
    "mass computation": st.tuples(integers(1, 10), integers(1, 10)),
    "discount percentage": st.tuples(integers(1, 100), integers(1, 100)),
    "area computation": st.tuples(integers(1, 100), integers(1, 100)),
    "sqrt computation": st.tuples(hundredths(0, 10000)),
    "power computation": st.tuples(hundredths(-1000, 1000), integers(0, 5)),
    "sales revenue": st.tuples(integers(1, 100), integers(1, 100)),
    "function computation": st.tuples(hundredths(0, 10).filter(bool), integers(1, 100), integers(1, 100)),
}


def make(kind: str, operands: tuple) -> Problem:
    problem = parse(problem_text(kind, operands), solution_text(kind, operands))
    assert problem is not None
    assert problem.kind == kind
    return problem


def final_value(text: str) -> Decimal:
    answer = text.rpartition("答案：")[2].split(" ")[0]
    if "/" in answer:
        p, q = answer.split("/")
        return Decimal(p) / Decimal(q)
    return Decimal(answer)


@pytest.mark.parametrize("kind", CHINESE)
def test_every_kind_ends_at_its_solution(kind: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(OPERANDS[kind])
    def check(operands: tuple) -> None:
        if kind == "direct computation" and operands[1] == "/" and operands[2] == 0:
            return
        problem = make(kind, operands)
        text = STEPS[kind](problem)
        exact = value(problem)
        assert abs(final_value(text) - exact) <= Decimal("0.01") + Decimal("0.00001") * abs(exact)
        check_cells(text)

    check()


def check_cells(text: str) -> None:
    """Recompute every column, product and remainder of a worked text from its neighbours alone."""
    rows = text.rpartition(digits.ANSWER)[0].split("\n")
    divisor = None
    for number, row in enumerate(rows):
        if column := re.fullmatch(r"(?:-\()?(\d+)([+-])(\d+)\)?:((?:\d[+-]\d=\d[c,])+)", row):
            a, sign, b, cells = column.groups()
            assert len(cells) == 6 * len(a) == 6 * len(b)
            carry = 0
            for place in range(len(a)):
                x, _, y, _, result, flag = cells[6 * place : 6 * place + 6]
                assert (x, y) == (a[-1 - place], b[-1 - place])
                total = int(x) + int(y) + carry if sign == "+" else int(x) - int(y) - carry
                carry = int(total > 9 or total < 0)
                assert (int(result), flag) == (total % 10, "c" if carry else ",")
        elif divisor is None and (head := re.fullmatch(r"(?:x=)?(?:-\()?\d+/(\d+)\)?", row)):
            divisor = head.group(1)  # a division is always the last operation: what follows are its rows
        elif divisor is not None:
            division = re.fullmatch(r"(\d+)/(\d)(?::(\d+);((?:\d[c,])+))?", row)
            assert division is not None
            check_take_away(division.group(1), divisor, *division.groups()[1:])
        elif rooted := re.fullmatch(r"(\d+)/(\d+)\*(\d)(?::(\d+);((?:\d[c,])+))?", row):
            check_take_away(*rooted.groups())
        else:
            check_product_rows(rows, number)


def check_take_away(remainder: str, factor: str, digit: str, product: str | None, difference: str | None) -> None:
    """``remainder - factor * digit`` cell by cell; what is left is less than another ``factor``."""
    if product is None:
        assert digit == "0"
        return
    carry, units = 0, ""
    for place, char in enumerate(reversed(factor)):
        total = int(char) * int(digit) + carry
        carry = total // 10
        assert product[2 * place : 2 * place + 2] == f"{total:02}"
        units = str(total % 10) + units
    taken, borrow = f"{carry}{units}", 0
    for place in range(len(remainder)):
        total = int(remainder[-1 - place]) - int(taken[-1 - place]) - borrow
        borrow = int(total < 0)
        assert difference is not None
        assert difference[2 * place : 2 * place + 2] == f"{total % 10}{'c' if borrow else ','}"
    assert borrow == 0


def check_product_rows(rows: list[str], number: int) -> None:
    """At the head of a product: its rows are the digits of the second factor and their sums its value."""
    head = re.fullmatch(r"(?:-\()?(\d+)\*(\d+)\)?", rows[number])
    if head is None:
        return
    a, b = head.groups()
    total = 0
    for place, digit in enumerate(reversed(b)):
        shown, _, cells = rows[number + 1 + place].partition(":")
        product, _, sums = cells.partition(";")
        assert shown == digit
        taken = product[-2] + product[1::2][::-1]
        assert int(taken) == int(a) * int(digit)
        total = total // 10 + int(taken)
        if place:
            assert int(sums[0::2][::-1]) == total


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_columns_add_up(a: int, b: int) -> None:
    assert digits.add(a, b).value == a + b
    large, small = max(a, b), min(a, b)
    assert digits.subtract(large, small).value == large - small
    assert digits.multiply(a, b).value == a * b
    assert digits.root(a, 7).value == math.isqrt(a)
    if b:
        assert digits.divide(a, b, 3).value == 1000 * a // b


def test_a_difference_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="a >= b"):
        digits.subtract(1, 2)
    with pytest.raises(ZeroDivisionError):
        digits.divide(1, 0, 2)


@pytest.mark.parametrize(
    ("kind", "operands", "text"),
    [
        (
            "direct computation",
            (Decimal("967.09"), "-", Decimal("-688.16")),
            "96709+68816:9+6=5c0+1=2,7+8=5c6+8=5c9+6=6c\n答案：1655.25",
        ),
        ("direct computation", (Decimal("1.50"), "-", Decimal("2.00")), "-(200-150):0-0=0,0-5=5c2-1=0,\n答案：-0.50"),
        (
            "eq solve",
            (-81, -45),
            "x=-(45/81)\n045/0\n450/5:0540;5c4,0,\n450/5:0540;5c4,0,\n答案：-0.55",
        ),
        ("power computation", (Decimal("819.19"), 0), "819.19^0=1\n答案：1"),
        ("power computation", (Decimal("-7.10"), 1), "-7.10^1=-7.10\n答案：-7.10"),
        ("area computation", (57, 84), "57*84\n4:2822\n8:5645;8,7,4,\n答案：4788 平方厘米"),
        ("fraction simplify", (4, 10), "gcd(4,10)=2 4/2=2 10/2=5\n答案：2/5"),
    ],
)
def test_worked_texts(kind: str, operands: tuple, text: str) -> None:
    assert STEPS[kind](make(kind, operands)) == text


def test_operands_finer_than_the_contest_has_are_refused() -> None:
    with pytest.raises(StepError, match="more than 2"):
        STEPS["sqrt computation"](make("sqrt computation", (Decimal("2.001"),)))
