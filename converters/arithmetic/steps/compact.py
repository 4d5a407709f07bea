"""``compact``: as ``worked``, with half the cells: product and running total share one.

A cell of a product is what the running total has in this column, plus the product of two digits, plus what is carried:
tens (carried) and ones (the new total). ``worked`` writes such cells for powers only. A cell of a quotient or a root
takes the product of two digits and the borrowed digit from the remainder's digit. It shows what is borrowed from the
next column, then the digit that is left. So a product takes half the tokens, but each cell depends on four digits, not
on three and then two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from converters.arithmetic.steps import worked
from converters.arithmetic.steps.digits import Work, digits_of, divide, number_of, root
from converters.arithmetic.steps.scientific import Cell, joint_rows, result_alone

PRECISIONS, DEFAULT, COLUMNS = worked.PRECISIONS, worked.DEFAULT, worked.COLUMNS


def multiply(a: int, b: int, written: Cell = result_alone) -> Work:
    """Write ``a * b``, one row a digit of ``b`` from the right: ``digit:cells``."""
    rows, found = joint_rows(digits_of(a), digits_of(b), written=written)
    return Work(f"{a}*{b}", f"\n{rows}", number_of(found))


def take_away(
    remainder: list[int], divisor: list[int], digit: int, written: Cell = result_alone
) -> tuple[str, list[int]]:
    """Write ``remainder - divisor * digit`` with one cell a column.

    Args:
        remainder: digits from the right, one more than the divisor has.
        divisor: digits from the right.
        digit: the digit of the quotient.
        written: how a cell is written.

    Returns:
        The cells, and the digits that are left, from the right.

    Raises:
        ValueError: the product is larger than the remainder.
    """
    cells, rest, borrow = [], [], 0
    for x, y in zip(remainder, [*divisor, 0], strict=True):
        borrow, left = divmod(y * digit + borrow - x, 10)
        # the deficit rounded up to whole tens is borrowed; what that gives too much is the digit left
        borrow, left = borrow + (left > 0), -left % 10
        rest.append(left)
        cells.append(written(y, digit, x, 10 * borrow + left))
    if borrow:
        raise ValueError("a remainder became negative")
    return "".join(cells), rest


def steps_of(written: Cell) -> dict[str, Callable[..., str]]:
    """Return the functions of a style that differs in how a cell is written."""
    taken = partial(take_away, written=written)
    columns = worked.Columns(
        partial(multiply, written=written), partial(divide, taken=taken), partial(root, taken=taken)
    )
    return {kind: partial(write, columns=columns) for kind, write in worked.STEPS.items()}


STEPS = steps_of(result_alone)
