"""The compact and the copied style: every cell holds by itself, and the answers are those of the full columns."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from arithmetic_rows import OPERANDS, problem_of
from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.problems import CHINESE
from converters.arithmetic.steps import Style, compact, copied, get_style
from converters.arithmetic.steps.digits import ANSWER
from converters.arithmetic.steps.worked import STEPS

MODULES = {"compact": compact, "copied": copied}


def cells_of(text: str) -> list[tuple[str, int, int]]:
    """Of each cell the digits that it is computed from, none in ``compact``, and the two that are the result."""
    if "," not in text:
        assert len(text) % 2 == 0
        return [("", int(text[i]), int(text[i + 1])) for i in range(0, len(text), 2)]
    assert re.fullmatch(r"(\d{6},)+", text)
    return [(cell[:4], int(cell[4]), int(cell[5])) for cell in text[:-1].split(",")]


def check_product(rows: list[str], a: str, b: str) -> None:
    """Each row is a digit of the second factor; each cell the total's digit, the product and the carry."""
    total = [0] * (len(a) + 1)
    assert len(rows) == len(b)
    for row, digit in zip(rows, reversed(b), strict=True):
        shown, _, cells = row.partition(":")
        assert shown == digit
        carry, ones = 0, []
        for x, before, (shown, tens, one) in zip(reversed(a), total, cells_of(cells), strict=False):
            assert shown in ("", f"{x}{int(x) * int(digit):02}{before}")
            assert 10 * tens + one == before + int(x) * int(digit) + carry
            carry = tens
            ones.append(one)
        assert len(ones) == len(a)
        total = [*ones[1:], carry, 0]


def check_taken(row: str, divisor: str) -> None:
    """Remainder, digit, and the remainder less their product, column by column."""
    match = re.fullmatch(r"(\d+)/(\d)(?::([\d,]+))?", row)
    assert match is not None
    remainder, digit, cells = match.groups()
    assert (cells is None) == (digit == "0")
    borrow, left = 0, ""
    columns = zip(reversed(remainder), f"{divisor[::-1]}0", cells_of(cells or ""), strict=False)
    for x, y, (shown, borrowed, rest) in columns:
        assert shown in ("", f"{y}{int(y) * int(digit):02}{x}")
        assert rest == (int(x) - int(y) * int(digit) - borrow) % 10
        assert 10 * borrowed == rest - (int(x) - int(y) * int(digit) - borrow)
        borrow, left = borrowed, f"{rest}{left}"
    assert borrow == 0
    if cells:
        assert int(left) == int(remainder) - int(digit) * int(divisor) >= 0


@pytest.mark.parametrize("precision", ["sig6", "2dp"])
@pytest.mark.parametrize("kind", CHINESE)
@pytest.mark.parametrize("style", MODULES)
def test_the_answers_are_those_of_full_columns(style: str, kind: str, precision: str) -> None:
    short, full = (get_style(Style(name, precision))[kind] for name in (style, "worked"))

    @given(OPERANDS[kind])
    def check(operands: tuple) -> None:
        problem = problem_of(kind, operands)
        text, longer = short(problem), full(problem)
        assert style == "copied" or len(text) <= len(longer)
        assert text.rpartition(ANSWER)[2] == longer.rpartition(ANSWER)[2]
        rows = text.rpartition(ANSWER)[0].split("\n")
        for number, row in enumerate(rows):
            if head := re.fullmatch(r"(?:-\()?(\d+)\*(\d+)\)?", row):
                check_product(rows[number + 1 : number + 1 + len(head[2])], *head.groups())
            if head := re.fullmatch(r"(?:x=)?(?:-\()?\d+/(\d+)\)?", row):
                if "/" in rows[-1]:
                    for taken in rows[number + 1 :]:
                        check_taken(taken, head[1])
                break
            if head := re.fullmatch(r"(\d+)/(\d+)\*(\d)(:[\d,]+)?", row):
                check_taken(f"{head[1]}/{head[3]}{head[4] or ''}", head[2]) if head[3] != "0" else None

    check()


@pytest.mark.parametrize("style", MODULES)
@given(a=st.integers(0, 10**12), b=st.integers(0, 10**12))
def test_products(style: str, a: int, b: int) -> None:
    work = MODULES[style].multiply(a, b)
    assert work.value == a * b
    check_product(work.cells.strip().split("\n"), str(a), str(b))


AREA, EQUATION = ("area computation", (57, 84)), ("eq solve", (-81, -45))


@pytest.mark.parametrize(
    ("style", "problem", "text"),
    [
        ("compact", AREA, "57*84\n4:2822\n8:5847\n答案：4788 平方厘米"),
        ("compact", EQUATION, "-81x=45\nx=-(45/81)\n045/0\n450/5:154400\n450/5:154400\n答案：-0.55"),
        ("copied", AREA, "57*84\n4:728028,520022,\n8:756258,540247,\n答案：4788 平方厘米"),
        (
            "copied",
            EQUATION,
            "-81x=45\nx=-(45/81)\n045/0\n450/5:105015,840544,000400,\n450/5:105015,840544,000400,\n答案：-0.55",
        ),
    ],
)
def test_texts(style: str, problem: tuple[str, tuple], text: str) -> None:
    assert get_style(style)[problem[0]](problem_of(*problem)) == text


@pytest.mark.parametrize("style", MODULES)
def test_the_other_kinds_are_as_in_full_columns(style: str) -> None:
    for kind, operands in (
        ("direct computation", (Decimal("1.50"), "-", Decimal("2.00"))),
        ("fraction simplify", (4, 10)),
        ("function computation", (Decimal("4.03"), 57, 54)),
    ):
        problem = problem_of(kind, operands)
        assert get_style(style)[kind](problem) == STEPS[kind](problem)


@pytest.mark.parametrize("style", MODULES)
def test_a_remainder_below_zero_is_refused(style: str) -> None:
    with pytest.raises(ValueError, match="negative"):
        MODULES[style].take_away([1, 0], [2], 1)
