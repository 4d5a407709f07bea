"""To how many digits an answer is worked out, and what each choice promises of it.

==========  ======================================================================  =========================
precision   quotients and roots; powers from the third and function values          right under the rule
==========  ======================================================================  =========================
``exact``   as many digits as the solution is written with; all, or its 28          ``exact``, and the others
``sig6``    six significant digits; 7 and 8 leading digits                          ``close`` and ``sig4``
``2dp``     two decimals; 7 and 8 leading digits, ``0.00`` for less than 0.01       ``close``
==========  ======================================================================  =========================

Sums, differences, products and squares are exact in every precision, since their columns give all digits anyway. Digits
are cut off, not rounded: a row ends where its last column does. ``2dp`` is the default because it is the shortest that
the rule ``close`` takes for every row: its absolute part is one hundredth.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal

from converters.arithmetic.problems import (
    ABSOLUTE_ERROR,
    FLOAT_ERROR,
    NUMBER,
    RELATIVE_ERROR,
    Problem,
    StepError,
    value,
)

EXACT, SIG6, TWO_DECIMALS = "exact", "sig6", "2dp"
PRECISIONS = (EXACT, SIG6, TWO_DECIMALS)
"""From the longest rows to the shortest: a row that is too long is shortened in this order."""

SIGNIFICANT = 6
# worked values can have more than 28 digits, and their difference to the value must not be rounded
_WIDE = Context(prec=80)
UNITS = {"area computation": " 平方厘米", "mass computation": " 克"}
"""What stands behind the answers of the kinds that are a product of two whole numbers."""


def decimals(*numbers: Decimal) -> int:
    """Decimals of the number that has the most."""
    return max(max(0, -int(number.as_tuple().exponent)) for number in numbers)


def solution_number(problem: Problem) -> str:
    """The number of the solution, as it is written there."""
    # the last number: in ``a + b = v`` the operands come first
    number: str = NUMBER.findall(problem.solution)[-1]
    return number


def solution_places(problem: Problem) -> int:
    """Decimals of the solution's number."""
    return decimals(Decimal(solution_number(problem)))


def quotient_places(problem: Problem, a: int, b: int, precision: str) -> int:
    """Return to how many decimals ``a / b`` is worked out.

    A division that ends earlier is not worked further, except with ``2dp``, which always has two decimals.

    Args:
        problem: gives the decimals of the solution for ``exact``.
        a: dividend, not negative.
        b: divisor, positive.
        precision: one of PRECISIONS.
    """
    if precision == TWO_DECIMALS:
        return 2
    if precision == EXACT:
        most = solution_places(problem)
    else:
        most = 0
        while a and a * 10**most // b < 10 ** (SIGNIFICANT - 1):
            most += 1
    return next((places for places in range(most) if a * 10**places % b == 0), most)


def root_places(problem: Problem, hundredths: int, precision: str) -> int:
    """Return to how many decimals a square root is worked out, as ``quotient_places`` does; at least one.

    Args:
        problem: gives the decimals of the solution for ``exact``.
        hundredths: the radicand in hundredths.
        precision: one of PRECISIONS.
    """
    if precision == TWO_DECIMALS:
        return 2
    if precision == EXACT:
        most = max(1, solution_places(problem))
    else:
        most = 1
        while hundredths and math.isqrt(hundredths * 100 ** (most - 1)) < 10 ** (SIGNIFICANT - 1):
            most += 1
    # each decimal of the root takes two digits of the number, and hundredths bring the first two
    radicands = ((places, hundredths * 100 ** (places - 1)) for places in range(1, most))
    return next((places for places, radicand in radicands if math.isqrt(radicand) ** 2 == radicand), most)


def held(problem: Problem, worked: str, precision: str) -> str:
    """Check a worked value against what its precision promises, and return the answer to write.

    Args:
        problem: the problem, whose value is recomputed.
        worked: the worked value as text.
        precision: one of PRECISIONS.

    Returns:
        The solution's own number with ``exact``, else ``worked``.

    Raises:
        StepError: the value is not what the precision promises.
    """
    number, exact = Decimal(worked), value(problem)
    if precision == EXACT:
        given = Decimal(solution_number(problem))
        # the solution's last digit is rounded where the worked one is cut off; Python's floats are off by a little more
        allowed = max(Decimal(1).scaleb(int(given.as_tuple().exponent)), FLOAT_ERROR * abs(given))
        if _WIDE.subtract(number, given).copy_abs() > allowed:
            raise StepError(f"worked answer {worked} is not {given}")
        return solution_number(problem)
    allowed = RELATIVE_ERROR * abs(exact) + (ABSOLUTE_ERROR if precision == TWO_DECIMALS else 0)
    # copy_abs, because abs() rounds to the 28 digits of the default context
    if _WIDE.subtract(number, exact).copy_abs() > allowed:
        raise StepError(f"worked answer {worked} is not {exact}")
    return worked
