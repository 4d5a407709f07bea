"""Arithmetic on digits, one small step a cell: what a model can do without guessing.

Every operation is written as a *header* that settles sign and order, then *rows* of cells. A cell holds what one
column needs and nothing else, so that each is a table look-up of two or three digits:

* sum or difference, ``9+6=5c``: the two digits, the digit of the result, then ``c`` when one is carried (borrowed)
  into the next column, else a comma. Columns run from the right.
* product of a number and one digit, ``49``: tens (carried) and ones, from the right.
* adding such a product to the running total, ``5c`` / ``5,``: digit and carry.
* taking it from a remainder, ``02c``: the remainder's digit, what is left of it, borrow. Sums run the way totals are
  written, from the right; a remainder stands in its row the other way round, so its digits are copied first.

All functions take non-negative integers; callers scale decimals to integers and settle signs. The value each arrives
at is read off the cells, not computed a second time, so a wrong cell shows as a wrong value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

ANSWER = "\n答案："


def decimal_text(value: int, places: int) -> str:
    """Write an integer of ``10**-places`` units as a decimal: ``(-4550, 2)`` → ``-45.50``."""
    text = str(abs(value)).zfill(places + 1)
    if places:
        text = f"{text[:-places]}.{text[-places:]}"
    return f"-{text}" if value < 0 else text


class Work(NamedTuple):
    """One worked operation: what is computed, the cells, and the value they arrive at."""

    head: str
    cells: str
    value: int

    def text(self, *, negative: bool = False) -> str:
        """Head and cells; a negative result has its head in ``-(…)``, the cells are those of its magnitude."""
        return f"-({self.head}){self.cells}" if negative else self.head + self.cells


def digits_of(value: int, width: int = 0) -> list[int]:
    """Digits of ``value`` from the right, padded with zeros to ``width``."""
    return [int(char) for char in reversed(str(value).zfill(width))]


def number_of(digits: list[int]) -> int:
    """The integer whose digits, from the right, are given."""
    return int("".join(map(str, reversed(digits))))


def add(a: int, b: int) -> Work:
    """Write ``a + b`` by columns: ``96709+68816:9+6=5c0+1=2,…``."""
    width = max(len(str(a)), len(str(b)))
    cells, result, carry = [], [], 0
    for x, y in zip(digits_of(a, width), digits_of(b, width), strict=True):
        total = x + y + carry
        carry = total // 10
        result.append(total % 10)
        cells.append(f"{x}+{y}={total % 10}{'c' if carry else ','}")
    return Work(f"{a:0{width}}+{b:0{width}}", ":" + "".join(cells), number_of([*result, carry]))


def subtract(a: int, b: int) -> Work:
    """Write ``a - b`` by columns, for ``a >= b``: ``745151-170992:1-2=9c5-9=5c…``."""
    if a < b:
        raise ValueError(f"subtract needs a >= b, got {a} and {b}")
    width = len(str(a))
    cells, result, borrow = [], [], 0
    for x, y in zip(digits_of(a), digits_of(b, width), strict=True):
        total = x - y - borrow
        borrow = int(total < 0)
        result.append(total % 10)
        cells.append(f"{x}-{y}={total % 10}{'c' if borrow else ','}")
    return Work(f"{a}-{b:0{width}}", ":" + "".join(cells), number_of(result))


def _times_digit(a_digits: list[int], digit: int) -> tuple[str, list[int]]:
    """Cells of ``a * digit`` (tens and ones of each column) and its ``len(a) + 1`` digits from the right."""
    cells, result, carry = [], [], 0
    for x in a_digits:
        total = x * digit + carry
        carry = total // 10
        result.append(total % 10)
        cells.append(f"{total:02}")
    return "".join(cells), [*result, carry]


def accumulate(total: list[int], row: list[int]) -> tuple[str, list[int]]:
    """Cells of ``total + row`` (digit and carry of each column); both have the same number of digits."""
    cells, result, carry = [], [], 0
    for x, y in zip(total, row, strict=True):
        column = x + y + carry
        carry = column // 10
        result.append(column % 10)
        cells.append(f"{column % 10}{'c' if carry else ','}")
    return "".join(cells), result


def _reduce(total: list[int], row: list[int]) -> tuple[str, list[int]]:
    """Cells of ``total - row`` (its digit, what is left, borrow); both have the same number of digits."""
    cells, result, borrow = [], [], 0
    for x, y in zip(total, row, strict=True):
        column = x - y - borrow
        borrow = int(column < 0)
        result.append(column % 10)
        cells.append(f"{x}{column % 10}{'c' if borrow else ','}")
    if borrow:
        raise ValueError("a remainder became negative")
    return "".join(cells), result


def take_away(remainder: list[int], divisor: list[int], digit: int) -> tuple[str, list[int]]:
    """Write ``remainder - divisor * digit``: the cells of the product, then those of the difference.

    Args:
        remainder: digits from the right, one more than the divisor has.
        divisor: digits from the right.
        digit: the digit of the quotient or root.

    Returns:
        ``product cells;difference cells``, and the digits that are left, from the right.

    Raises:
        ValueError: the product is larger than the remainder.
    """
    cells, product = _times_digit(divisor, digit)
    differences, rest = _reduce(remainder, product)
    return f"{cells};{differences}", rest


TakeAway = Callable[[list[int], list[int], int], tuple[str, list[int]]]
"""How one subtraction of a division or root is written; arguments and result as in ``take_away``."""


def multiply(a: int, b: int) -> Work:
    """Write ``a * b``, one row a digit of ``b`` from the right, each added to the running total at once.

    A row is ``digit:product cells;running total cells``; the total's lowest digit is final after its row, so the
    next row adds to the rest of it.
    """
    a_digits = digits_of(a)
    rows, final, total = [], [], [0] * (len(a_digits) + 1)
    for position, digit in enumerate(digits_of(b)):
        cells, product = _times_digit(a_digits, digit)
        if position == 0:
            total = product
            rows.append(f"{digit}:{cells}")
        else:
            # one digit was taken off as final: padded, total and product have the same width again
            sums, total = accumulate([*total, 0], product)
            rows.append(f"{digit}:{cells};{sums}")
        final.append(total[0])
        total = total[1:]
    return Work(f"{a}*{b}", "\n" + "\n".join(rows), number_of(final + total))


def divide(a: int, b: int, places: int, taken: TakeAway = take_away) -> Work:
    """Write ``a / b`` by long division to ``places`` decimals, cut off; the value is ``a * 10**places // b``.

    A row is ``remainder/digit`` and, where the digit is not 0, ``:product cells;difference cells``, or what ``taken``
    writes in their place.

    Args:
        a: dividend, not negative.
        b: divisor, positive.
        places: decimals of the quotient.
        taken: writes the subtraction of each row.

    Returns:
        The work; its value is the quotient in units of ``10**-places``.

    Raises:
        ZeroDivisionError: ``b`` is 0.
    """
    if b == 0:
        raise ZeroDivisionError(f"{a} / 0")
    b_digits, width = digits_of(b), len(str(b))
    # the first remainder is as wide as the divisor: earlier digits of the quotient would all be 0
    lead = max(0, len(str(a)) - width)
    head, brought_down = divmod(a, 10**lead)
    # digits_of(0, 0) is [0], so the slice is needed where nothing is brought down
    queue = [*reversed(digits_of(brought_down, lead)[:lead]), *[0] * places]
    rows, quotient, remainder = [], 0, head
    for position in range(len(queue) + 1):
        if position:
            remainder = 10 * remainder + queue[position - 1]
        digit = remainder // b
        # a remainder has at most one digit more than the divisor; padding keeps the columns aligned
        row = f"{remainder:0{width + 1}}/{digit}"
        if digit:
            cells, rest = taken(digits_of(remainder, width + 1), b_digits, digit)
            row += f":{cells}"
            remainder = number_of(rest)
        quotient = 10 * quotient + digit
        rows.append(row)
    return Work(f"{a}/{b}", "\n" + "\n".join(rows), quotient)


def root(a: int, pairs: int, taken: TakeAway = take_away) -> Work:
    """Write the square root of ``a`` digit by digit, ``a`` taken as ``pairs`` pairs of digits; value: its floor.

    A row is ``remainder/divisor*digit`` where the divisor is twice the root so far followed by the digit, then, where
    the digit is not 0, ``:product cells;difference cells``, or what ``taken`` writes in their place.

    Args:
        a: radicand, not negative.
        pairs: pairs of digits that the radicand is written with, which is also the number of digits of the root.
        taken: writes the subtraction of each row.

    Returns:
        The work; its value is the largest integer whose square is at most ``a``.

    Raises:
        ValueError: the radicand has more digits than the pairs hold.
    """
    text = str(a).zfill(2 * pairs)
    if len(text) > 2 * pairs:
        raise ValueError(f"{a} has more than {pairs} pairs of digits")
    groups = [int(text[i : i + 2]) for i in range(0, 2 * pairs, 2)]
    rows, result, remainder = [], 0, 0
    for position, group in enumerate(groups):
        remainder = 100 * remainder + group
        digit = max(d for d in range(10) if (20 * result + d) * d <= remainder)
        # (10r + d)^2 - (10r)^2 = (20r + d) * d
        divisor = 20 * result + digit
        # the widest that remainder and divisor can be in this row, so that columns stay where they were
        width = 2 if position == 0 else position + 3
        row = f"{remainder:0{width}}/{divisor:0{max(1, width - 1)}}*{digit}"
        if digit:
            cells, rest = taken(digits_of(remainder, width), digits_of(divisor, width - 1), digit)
            row += f":{cells}"
            remainder = number_of(rest)
        result = 10 * result + digit
        rows.append(row)
    return Work(" ".join(f"{group:02}" for group in groups), "\n" + "\n".join(rows), result)


def signed_sum(a: int, b: int) -> tuple[str, int]:
    """Steps and value of ``a + b`` for integers of any sign: a sum or a difference of magnitudes, sign first."""
    if (a < 0) == (b < 0):
        work, negative = add(abs(a), abs(b)), a < 0
    else:
        large, small = (a, b) if abs(a) >= abs(b) else (b, a)
        work, negative = subtract(abs(large), abs(small)), large < 0
    # zero gets no minus
    negative = negative and work.value > 0
    return work.text(negative=negative), -work.value if negative else work.value


def running_sum(terms: list[int], *, counted: bool = False) -> str:
    """Write a sum term by term: ``17+99=116 116+52=168``.

    Args:
        terms: at least one.
        counted: write the number of terms so far before each sum: ``2:17+99=116 3:116+52=168``.
    """
    total, steps = terms[0], []
    for count, term in enumerate(terms[1:], start=2):
        steps.append(f"{count}:" * counted + f"{total}+{term}={total + term}")
        total += term
    return " ".join(steps)


def simplification(p: int, q: int) -> str:
    """Write a fraction's reduction: ``gcd(4,10)=2 4/2=2 10/2=5``."""
    common = math.gcd(p, q)
    return f"gcd({p},{q})={common} {p}/{common}={p // common} {q}/{common}={q // common}"
