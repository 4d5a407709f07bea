"""Powers in mantissa and exponent: products of which only the leading digits are worked out.

A product has one row a digit of the second factor, from the right, ``digit:cells``. A cell is one column: the running
total's digit plus the product of two digits plus what was carried, at most 9 + 81 + 9, as tens (carried) and ones
(the new total). While columns are left out, each row takes in one more digit of the first factor and the total stays
where it is; from then on its lowest digit is final after every row, as in ``digits.multiply``.

The line ``=5.059619E5`` has the product with what is kept of it. Its exponent is the sum of the factors' exponents, one
more if the last carry is not 0. Of two numbers of 8 digits this takes half the characters of the full columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from converters.arithmetic.steps.digits import digits_of

Cell = Callable[[int, int, int, int], str]
"""Writes a cell: two digits that are multiplied, the digit that their product is put together with, the two that come
out, as one number."""

GUARD = 2
"""Columns that are worked out beyond the digits kept."""


class Scientific(NamedTuple):
    """``digits`` with a point behind the first one, times ``10**exponent``; no zeros at the end."""

    digits: int
    exponent: int

    def text(self, sign: str = "") -> str:
        """``5.059619E5``; with ``sign="+"`` as the solutions have it, ``5.059619E+5``."""
        first, rest = str(self.digits)[0], str(self.digits)[1:]
        return f"{first}{'.' * bool(rest)}{rest}E{self.exponent:{sign}d}"

    @property
    def places(self) -> int:
        """Decimals of the number written out; negative where zeros would have to be added."""
        return len(str(self.digits)) - 1 - self.exponent


def scientific(value: int, places: int) -> Scientific:
    """Make a positive integer of ``10**-places`` units a Scientific: ``(71131, 2)`` → ``7.1131E2``."""
    return Scientific(int(str(value).rstrip("0")), len(str(value)) - 1 - places)


def product(a: Scientific, b: Scientific, keep: int) -> tuple[str, Scientific]:
    """Write ``a * b`` to its leading digits.

    Args:
        a: first factor.
        b: second factor, one row for each of its digits.
        keep: digits kept of the product; the rest is cut off.

    Returns:
        The rows with a last line ``=result``, and the result.
    """
    a_digits, b_digits = digits_of(a.digits), digits_of(b.digits)
    size = len(a_digits)
    # at least one column of the first row stays
    dropped = max(0, min(size - 1, size + len(b_digits) - keep - GUARD))
    rows, found = joint_rows(a_digits, b_digits, dropped)
    leading = "".join(map(str, reversed(found))).lstrip("0")[:keep]
    result = Scientific(int(leading.rstrip("0")), a.exponent + b.exponent + (found[-1] > 0))
    return f"{rows}\n={result.text()}", result


def result_alone(x: int, digit: int, other: int, result: int) -> str:
    """Write the two digits that come out, and nothing of what they are computed from: a :data:`Cell`."""
    return f"{result:02}"


def joint_rows(
    a_digits: list[int],
    b_digits: list[int],
    dropped: int = 0,
    start: list[int] | None = None,
    written: Cell = result_alone,
) -> tuple[str, list[int]]:
    """Write a product with one cell a column that holds product and running total together.

    Args:
        a_digits: digits of the first factor, from the right.
        b_digits: digits of the second factor, from the right.
        dropped: how many of the product's lowest columns are left out.
        start: digits, from the right, of a number that the product is added to; as many as the first factor has.
        written: how a cell is written.

    Returns:
        The rows, and the result's digits from the right, without the dropped ones.
    """
    rows: list[str] = []
    final: list[int] = []
    total = list(start or ())
    for position, digit in enumerate(b_digits):
        # each further row takes in one more digit of the first factor, until none of its columns is dropped
        part = a_digits[max(0, dropped - position) :]
        if position > dropped:
            # no later row adds to this column
            final.append(total.pop(0))
        cells, carry = [], 0
        total += [0] * (len(part) - len(total))
        for column, x in enumerate(part):
            before = total[column]
            cell = before + x * digit + carry
            carry, total[column] = divmod(cell, 10)
            cells.append(written(x, digit, before, cell))
        total.append(carry)
        rows.append(f"{digit}:{''.join(cells)}")
    return "\n".join(rows), final + total


def halvings(exponent: int) -> list[int]:
    """``54`` → ``[54, 27, 13, 6, 3, 1]``: the powers on the way, from the last to the first."""
    found = [exponent]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def power(base: Scientific, exponent: int, keep: int, *, enough: int | None = None) -> tuple[str, Scientific]:
    """Steps of ``base ** exponent`` by squares and single factors, and its ``keep`` leading digits.

    A first line has the halvings of the exponent; then the powers are made in the opposite order, each below a line
    that says of which two it is the product: ``3+3`` for the sixth from the third.

    Args:
        base: positive.
        exponent: at least 2.
        keep: digits of each result.
        enough: stop once a power is below ``10 ** (enough + 1)``; for bases below 1, where smaller does not matter.

    Returns:
        The steps, and the power, or with ``enough`` the one at which the work stopped.
    """
    plan = halvings(exponent)
    steps, reached, current = [",".join(map(str, plan))], 1, base
    for goal in reversed(plan[:-1]):
        # square, then multiply once by the base where the goal is odd
        for factor, added in ((current, reached), (base, 1)):
            if reached == goal or (enough is not None and current.exponent <= enough):
                break
            rows, current = product(current, factor, keep)
            steps.append(f"{reached}+{added}\n{rows}")
            reached += added
    return "\n".join(steps), current
