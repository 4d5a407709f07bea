"""Worked steps: every cell holds by itself, and the last line is the solution."""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal

import pytest
from arithmetic_rows import OPERANDS, problem_of
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.arithmetic.problems import CHINESE, Problem, StepError, value
from converters.arithmetic.steps import CELLS, SPACED, Style, choose_style, digits, get_style, scientific, spaced
from converters.arithmetic.steps.worked import STEPS
from converters.common.errors import UsageError
from eval.math.rules import grade, parse

SUMS = re.compile(r"(?:\d+:-?\d+\+-?\d+=-?\d+ ?)+")
"""A running sum with its counts: whole numbers, not columns."""
PROMISES = {"exact": ("exact", "close", "sig4"), "sig6": ("close", "sig4"), "2dp": ("close",)}


@pytest.mark.parametrize("precision", PROMISES)
@pytest.mark.parametrize("kind", CHINESE)
def test_every_cell_holds_and_the_answer_is_what_its_precision_promises(kind: str, precision: str) -> None:
    write = get_style(Style("worked", precision))[kind]

    @given(OPERANDS[kind])
    def check(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        text = write(problem)
        label = parse(problem.solution)
        assert label is not None
        right = grade(parse(text), label)
        assert all(right[rule] for rule in PROMISES[precision])
        check_cells(text)
        check_expression(text.rpartition(digits.ANSWER)[0].split("\n"), kind, operands)
        if precision == "2dp":
            assert text == STEPS[kind](problem)

    check()


def check_cells(text: str) -> None:
    """Recompute every column, product and remainder of a worked text from its neighbours alone."""
    rows = text.rpartition(digits.ANSWER)[0].split("\n")
    if len(rows) > 1 and re.fullmatch(r"-?[\d.]+\^\d+", rows[0]):
        del rows[0]  # the problem again, which check_expression looks at
    if scientific_head := re.fullmatch(r"(?:-\()?([\d.]+E-?\d+)\^(\d+)(?:\*(\d+))?\)?", rows[0]):
        check_powers(rows[1:], *scientific_head.groups(), text.rpartition(digits.ANSWER)[2])
        return
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
            division = re.fullmatch(r"(\d+)/(\d)(?::(\d+);((?:\d\d[c,])+))?", row)
            assert division is not None
            check_take_away(division.group(1), divisor, *division.groups()[1:])
        elif rooted := re.fullmatch(r"(\d+)/(\d+)\*(\d)(?::(\d+);((?:\d\d[c,])+))?", row):
            check_take_away(*rooted.groups())
        else:
            check_product_rows(rows, number)


def check_powers(rows: list[str], base: str, exponent: str, factor: str | None, answer: str) -> None:
    """Go through the powers by their heads alone: each is the product of two that were there."""
    reached = {1: base}
    last, head = base, ""
    if rows and re.fullmatch(r"[\d,]+", rows[0]):
        plan = [int(power) for power in rows.pop(0).split(",")]
        assert plan[0] == int(exponent)
        assert plan[-1] == 1
        assert all(half == whole // 2 for whole, half in itertools.pairwise(plan))
    while rows:
        head = rows.pop(0)
        if head.startswith("*"):
            assert factor is not None
            a, b = reached[int(exponent)], head[1:]
            assert b == factor
        else:
            one, other = map(int, head.split("+"))
            a, b = reached[one], reached[other]
        end = next(index for index, row in enumerate(rows) if row.startswith("="))
        last = rows[end][1:]
        check_leading_product(rows[:end], a, b, last)
        if not head.startswith("*"):
            reached[one + other] = last
        del rows[: end + 1]
    if answer == "0.00":
        assert Decimal(last) * Decimal(1 if head.startswith("*") else factor or 1) < Decimal("0.01")
    elif len(answer.lstrip("-").replace(".", "")) < 20:  # longer ones are the solution's own, rounded to 28 digits
        assert abs(Decimal(last) - abs(Decimal(answer))) < (Decimal("0.01") if "E" not in answer else Decimal("1e-99"))


def check_leading_product(rows: list[str], a: str, b: str, result: str) -> None:
    """Recompute the cells of a product of leading digits from the rows before; the result is what they arrive at."""
    a_digits, b_digits = ([int(char) for char in reversed(re.sub(r"E.*|\.", "", text))] for text in (a, b))
    if b.isdigit():
        b_digits = [int(char) for char in reversed(b.rstrip("0"))]
    assert len(rows) == len(b_digits)
    total: list[int] = []
    final: list[int] = []
    for digit, row in zip(b_digits, rows, strict=True):
        shown, _, cells = row.partition(":")
        assert int(shown) == digit
        width = len(cells) // 2
        assert 1 <= width <= len(a_digits)
        if len(total) > width:
            final.append(total.pop(0))
        total += [0] * (width - len(total))
        carry = 0
        for place, x in enumerate(a_digits[len(a_digits) - width :]):
            cell = total[place] + x * digit + carry
            assert cells[2 * place : 2 * place + 2] == f"{cell:02}"
            carry, total[place] = divmod(cell, 10)
        total.append(carry)
    mantissa, _, power = result.partition("E")
    leading = "".join(map(str, reversed(final + total))).lstrip("0")
    assert leading.startswith(mantissa.replace(".", ""))
    sum_of_powers = int(a.partition("E")[2]) + (len(b) - 1 if b.isdigit() else int(b.partition("E")[2]))
    assert int(power) == sum_of_powers + (total[-1] > 0)


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
        digit_there = remainder[-1 - place]
        total = int(digit_there) - int(taken[-1 - place]) - borrow
        borrow = int(total < 0)
        assert difference is not None
        assert difference[3 * place : 3 * place + 3] == f"{digit_there}{total % 10}{'c' if borrow else ','}"
    assert borrow == 0


def check_expression(rows: list[str], kind: str, operands: tuple) -> None:
    """What a row begins with says the problem again."""
    if kind == "eq solve":
        m, n = operands
        assert rows[0] == f"{m}x={-n}"
        assert rows[1].startswith("x=")
    elif kind == "mean computation":
        total = operands[0]
        for count, (term, step) in enumerate(zip(operands[1:], rows[0].split(), strict=True), start=2):
            assert step == f"{count}:{total}+{term}={total + term}"
            total += term
        if len(operands) > 1:
            assert rows[1] == f"{abs(total)}/{count}" or rows[1] == f"-({-total}/{count})"
    elif kind == "discount percentage":
        assert rows[0] == f"({operands[0]}-{operands[1]})/{operands[0]}"
    elif kind == "sales revenue":
        old, percent = operands
        assert rows[:2] == [f"{old}*(100+{percent})%", f"{old}*{100 + percent}"]
    elif kind == "power computation":
        base, exponent = operands
        assert rows[0].partition("=")[0] == f"{base}^{exponent}"


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
            "-81x=45\nx=-(45/81)\n045/0\n450/5:0540;05c54,40,\n450/5:0540;05c54,40,\n答案：-0.55",
        ),
        ("power computation", (Decimal("819.19"), 0), "819.19^0=1\n答案：1"),
        ("power computation", (Decimal("-7.10"), 1), "-7.10^1=-7.10\n答案：-7.10"),
        ("power computation", (Decimal("-1.2"), 2), "-1.2^2\n12*12\n2:0402\n1:0201;4,1,0,\n答案：1.44"),
        ("sales revenue", (32, 28), "32*(100+28)%\n32*128\n8:1625\n2:0406;9,8,0,\n1:0203;0c4,0,\n答案：40.96"),
        ("area computation", (57, 84), "57*84\n4:2822\n8:5645;8,7,4,\n答案：4788 平方厘米"),
        (
            "power computation",
            (Decimal("-71.10"), 3),
            "-71.10^3\n-(7.11E1^3)\n3,1\n1+1\n1:010107\n1:020807\n7:151550\n=5.05521E3\n2+1\n"
            "1:010205050005\n1:030710060505\n7:141542440935\n=3.594254E5\n答案：-359425.4",
        ),
        (
            "function computation",
            (Decimal("0.50"), 9, 8),
            "0.50:069897000\n9:095424251\n*08\n8:010502608076846506\n0:050200000604050600\n=6.546002\n"
            "-(8-6):8-6=2,\n546>3515604,08114\n2:0802021601\n0:0202060100\n0:0206010000\n0:0601000000;0c2,6,5,1,5,3,\n"
            "答案：0.03",
        ),
        ("fraction simplify", (4, 10), "gcd(4,10)=2 4/2=2 10/2=5\n答案：2/5"),
    ],
)
def test_worked_texts(kind: str, operands: tuple, text: str) -> None:
    assert STEPS[kind](problem_of(kind, operands)) == text


@pytest.mark.parametrize(
    ("operands", "text"),
    [
        (
            (Decimal("0.50"), 9, 8),
            "5E-1^8*9\n8,4,2,1\n1+1\n5:25\n=2.5E-1\n2+2\n5:2512\n2:1206\n=6.25E-2\n4+4\n5:251231\n2:120615\n"
            "6:362039\n=3.90625E-3\n*9\n9:452256058135\n=3.515625E-2\n答案：0.03515625",
        ),
        ((Decimal("2.50"), 1, 1), "2.5E0^1*1\n答案：2.5"),
    ],
)
def test_function_values_as_powers(operands: tuple, text: str) -> None:
    write = get_style(Style("worked", "sig6"))["function computation"]
    assert write(problem_of("function computation", operands)) == text


def test_operands_finer_than_the_contest_has_are_refused() -> None:
    with pytest.raises(StepError, match="more than 2"):
        STEPS["sqrt computation"](problem_of("sqrt computation", (Decimal("2.001"),)))


def test_function_values_hold_over_all_of_their_range() -> None:
    """Every base, with exponents that need the most products and the most digits."""
    write = get_style(Style("worked", "sig6"))["function computation"]
    for units in range(10, 1001, 3):
        for exponent in (2, 63, 95, 100):
            problem = problem_of("function computation", (Decimal(units).scaleb(-2), 97, exponent))
            assert write(problem)  # it refuses what is off by more than a hundred-thousandth


def test_powers_hold_where_cutting_costs_most() -> None:
    """Mantissas just above 1 lose the largest share."""
    write = get_style(Style("worked", "sig6"))["power computation"]
    for units in [*range(10_001, 13_000, 41), *range(1_001, 1_300, 7), 99_999, 100_000, 1]:
        for exponent in (3, 4, 5):
            assert write(problem_of("power computation", (-Decimal(units).scaleb(-2), exponent)))


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(3, 12))
def test_leading_products(a: int, b: int, keep: int) -> None:
    left, right = scientific.scientific(a, 0), scientific.scientific(b, 0)
    rows, result = scientific.product(left, right, keep)
    check_leading_product(rows.split("\n")[:-1], left.text(), right.text(), result.text())
    worked = Decimal(result.text())
    # a unit of the last digit kept, and for each column left out at most nine tenths of one
    dropped = max(0, len(str(left.digits)) + len(str(right.digits)) - keep - scientific.GUARD)
    assert 0 <= a * b - worked <= (1 + Decimal("0.9") * dropped) * Decimal(10) ** (result.exponent - keep + 1)
    if keep >= len(str(a)) + len(str(b)):
        assert worked == a * b


@pytest.mark.parametrize(
    ("precision", "operands", "answer"),
    [
        ("2dp", (Decimal("2.00"), "/", Decimal("3.00")), "0.66"),
        ("sig6", (Decimal("2.00"), "/", Decimal("3.00")), "0.666666"),
        ("sig6", (Decimal("0.02"), "/", Decimal("-3000.00")), "-0.00000666666"),
        ("sig6", (Decimal("34.00"), "/", Decimal("17.00")), "2"),
        ("exact", (Decimal("2.00"), "/", Decimal("3.00")), "0.6666666666666666666666666667"),
        ("exact", (Decimal("34.00"), "/", Decimal("16.00")), "2.125"),
        ("sig6", (Decimal("0.00"), "/", Decimal("-3.00")), "0"),
        ("2dp", (Decimal("0.00"), "/", Decimal("-3.00")), "0.00"),
    ],
)
def test_digits_of_a_quotient(precision: str, operands: tuple, answer: str) -> None:
    text = get_style(Style("worked", precision))["direct computation"](problem_of("direct computation", operands))
    assert text.rpartition("答案：")[2] == answer


@pytest.mark.parametrize("kind", CHINESE)
def test_spaced_digits_are_the_same_rows_with_no_two_digits_together(kind: str) -> None:
    plain, wide = STEPS[kind], get_style(choose_style("worked", digits=SPACED))[kind]

    @settings(max_examples=20)
    @given(OPERANDS[kind])
    def check(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        text, given_text = wide(problem), plain(problem)
        assert text.replace(" ", "") == given_text.replace(" ", "")
        assert text.rpartition("答案：")[2] == given_text.rpartition("答案：")[2]
        lines = text.rpartition("\n答案：")[0].split("\n")
        columns = [line for line in lines if not SUMS.fullmatch(line)]
        assert not any(re.search(r"\d\d", line) for line in columns if line.count("=") < 2 or ":" in line)

    check()


def test_cells_of_two_digits_stay_together() -> None:
    text = "-(45*81)\n1:0504\n8:4036;0,8,3,\n450/5:0540;5c4,0,\n12+34:2+4=6,1+3=4,\n61 45\n答案：1234:5678"
    wanted = "-(45*81)\n1:05 04\n8:40 36;0,8,3,\n450/5:05 40;5c4,0,\n12+34:2+4=6,1+3=4,\n61 45\n答案：1234:5678"
    assert spaced(text, CELLS) == wanted
    steps = get_style(choose_style("worked", digits=CELLS))["area computation"]
    assert steps(problem_of("area computation", (57, 84))) == "57*84\n4:28 22\n8:56 45;8,7,4,\n答案：4788 平方厘米"


def test_running_sums_are_not_spaced() -> None:
    text = "17+99=116 116+52=168\n168/3\n01/0\n答案：56.00"
    assert spaced(text) == "17+99=116 116+52=168\n1 6 8/3\n0 1/0\n答案：56.00"


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (("seed", "sig6"), "has no --precision sig6; the styles that have are compact, copied, decompose, worked"),
        (("seed", None, SPACED), "no digit columns"),
        (("decompose", None, SPACED), "no digit columns"),
        (("wroked",), "did you mean 'worked'"),
    ],
)
def test_choices_that_a_style_does_not_have(style: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_style(*style)


def test_precisions_are_shortened_in_order() -> None:
    assert [style.precision for style in choose_style("worked", "exact").shortened()] == ["exact", "sig6", "2dp"]
    assert choose_style("worked").shortened() == [Style("worked", "2dp")]
    assert choose_style("seed").shortened() == [Style("seed")]


def test_an_answer_that_is_not_the_solution_is_refused() -> None:
    problem = Problem("eq solve", "解方程 1x + 2 = 0", "方程的解为：2.0", (1, 2))
    assert value(problem) == -2
    with pytest.raises(StepError, match=r"worked answer -2 is not 2\.0"):
        get_style(Style("worked", "exact"))["eq solve"](problem)
