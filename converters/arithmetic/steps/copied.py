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

from converters.arithmetic.steps import compact

PRECISIONS, DEFAULT, COLUMNS = compact.PRECISIONS, compact.DEFAULT, compact.COLUMNS


def whole_cell(x: int, digit: int, other: int, result: int) -> str:
    """Write all that a cell is computed from, then the two digits that come out."""
    return f"{x}{x * digit:02}{other}{result:02},"


multiply = partial(compact.multiply, written=whole_cell)
take_away = partial(compact.take_away, written=whole_cell)
STEPS = compact.steps_of(whole_cell)
