"""``copied``: as ``compact``, and a cell shows all that it is computed from: one look-up a step.

A pretrained model learns to copy a digit from another line within a few hundred rows, and the table of products soon
after. It is slow to find two digits in other lines and to multiply and add them in one go. So a cell of a product is
the digit of the first factor, its product with the row's digit, the running total's digit in this column, then tens
(carried) and ones (the new total): ``545352,`` is 5·9 = 45, and 45 + 3 + 4 carried = 52. A cell of a quotient or a root
is the divisor's digit, its product with the quotient's, the remainder's digit, what is borrowed, and what is left. The
comma keeps neighbouring cells apart. Sums and differences have both digits in their cells in every style.
"""

from __future__ import annotations

from functools import partial

from converters.arithmetic.steps import worked
from converters.arithmetic.steps.digits import Work, digits_of, divide, number_of, root

PRECISIONS, DEFAULT, COLUMNS = worked.PRECISIONS, worked.DEFAULT, worked.COLUMNS


def multiply(a: int, b: int) -> Work:
    """Write ``a * b``, one row a digit of ``b`` from the right: ``digit:cells``."""
    a_digits = digits_of(a)
    rows, final, total = [], [], [0] * len(a_digits)
    for digit in digits_of(b):
        cells, found, carry = [], [], 0
        for x, before in zip(a_digits, total, strict=True):
            tens, ones = divmod(x * digit + before + carry, 10)
            cells.append(f"{x}{x * digit:02}{before}{tens}{ones},")
            found.append(ones)
            carry = tens
        rows.append(f"{digit}:{''.join(cells)}")
        # the lowest digit is final; what is carried out of the last column is the next row's highest
        final.append(found[0])
        total = [*found[1:], carry]
    return Work(f"{a}*{b}", "\n" + "\n".join(rows), number_of(final + total))


def take_away(remainder: list[int], divisor: list[int], digit: int) -> tuple[str, list[int]]:
    """Write ``remainder - divisor * digit`` with one cell a column.

    Args:
        remainder: digits from the right, one more than the divisor has.
        divisor: digits from the right.
        digit: the digit of the quotient.

    Returns:
        The cells, and the digits that are left, from the right.

    Raises:
        ValueError: the product is larger than the remainder.
    """
    cells, rest, borrow = [], [], 0
    for x, y in zip(remainder, [*divisor, 0], strict=True):
        deficit = y * digit + borrow - x
        # rounded up to whole tens it is borrowed; what that gives too much is the digit left
        borrow, left = -(-deficit // 10), -deficit % 10
        rest.append(left)
        cells.append(f"{y}{y * digit:02}{x}{borrow}{left},")
    if borrow:
        raise ValueError("a remainder became negative")
    return "".join(cells), rest


_COPIED = worked.Columns(multiply, partial(divide, taken=take_away), partial(root, taken=take_away))

STEPS = {kind: partial(write, columns=_COPIED) for kind, write in worked.STEPS.items()}
