"""``worked``: every answer worked out in digit columns, to the precision asked for.

Equations, powers and the problems about money begin with their expression (``(51-28)/51``, ``-7.10^2``): numbers are
copied from the sentence once and in its own order, and what is worked on is copied from there. Then a row settles what
is computed on non-negative integers (signs, decimal points and the order of a difference are gone after that head),
works in the cells of ``digits`` (powers from the third and function values in those of ``scientific``), and ends with
``答案：`` and the value in the form the original solution has. A row whose value is not what its precision promises is
refused.

Each function of ``STEPS`` takes a problem of its kind, one of PRECISIONS, and how products, quotients and roots are
written. It returns the whole answer, and raises StepError for a row that it refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from converters.arithmetic.problems import Problem, StepError, value
from converters.arithmetic.steps import precision as precisions
from converters.arithmetic.steps.digits import (
    ANSWER,
    Work,
    decimal_text,
    divide,
    multiply,
    root,
    running_sum,
    signed_sum,
    simplification,
)
from converters.arithmetic.steps.logarithms import covers, function_value
from converters.arithmetic.steps.precision import (
    EXACT,
    TWO_DECIMALS,
    UNITS,
    decimals,
    held,
    quotient_places,
    root_places,
)
from converters.arithmetic.steps.scientific import Scientific, power, product, scientific

PRECISIONS = precisions.PRECISIONS
DEFAULT = TWO_DECIMALS


class Columns(NamedTuple):
    """How products, quotients and roots are written."""

    multiply: Callable[[int, int], Work] = multiply
    divide: Callable[[int, int, int], Work] = divide
    root: Callable[[int, int], Work] = root


FULL = Columns()
"""Products of single digits in one row of cells, their sum with the running total in another."""
COLUMNS = True
"""Its lines are digit columns, which can be spaced."""
POWER_DIGITS, FUNCTION_DIGITS = 7, 8
"""Leading digits kept of the products on the way to a power (up to the fifth) and to a function value (hundredth).

Cutting makes a product smaller, and squaring doubles what was lost; these are the fewest digits with which no value of
the contest's ranges loses a hundred-thousandth of itself.
"""
_EXACT_DIGITS = 32
"""Enough for the 28 of the solutions, after as many products."""
_PLAIN_FROM = -6
"""Smaller exponents of ten are written as exponents, as ``decimal`` does."""


def _units(number: Decimal, places: int) -> int:
    """``number`` in units of ``10**-places``; it must be whole there."""
    scaled = number.scaleb(places)
    if scaled != scaled.to_integral_value():
        raise StepError(f"{number} has more than {places} decimals")
    return int(scaled)


def _finish(problem: Problem, steps: str, worked: str, precision: str, unit: str = "") -> str:
    """Join steps and answer once the answer is known to be what the precision promises."""
    return f"{steps}{ANSWER}{held(problem, worked, precision)}{unit}"


def direct(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """``a + b``, ``a - b``, ``a * b`` or ``a / b``."""
    a, operator, b = problem.operands
    places = decimals(a, b)
    # one unit for both: it cancels in a quotient and counts twice in a product
    whole_a, whole_b = _units(a, places), _units(b, places)
    if operator in "+-":
        steps, total = signed_sum(whole_a, whole_b if operator == "+" else -whole_b)
        return _finish(problem, steps, decimal_text(total, places), precision)
    if operator == "/":
        return _quotient(problem, whole_a, whole_b, precision, columns)
    work = columns.multiply(abs(whole_a), abs(whole_b))
    negative = (whole_a < 0) != (whole_b < 0) and work.value > 0
    answer = decimal_text(-work.value if negative else work.value, 2 * places)
    return _finish(problem, work.text(negative=negative), answer, precision)


def equation(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """``m x + n = 0``: the constant moves over, then one division."""
    m, n = problem.operands
    return _quotient(problem, -n, m, precision, columns, before=f"{m}x={-n}\nx=")


def _quotient(
    problem: Problem, numerator: int, divisor: int, precision: str, columns: Columns, before: str = ""
) -> str:
    """One division; the sign is settled in its head."""
    a, b = abs(numerator), abs(divisor)
    places = quotient_places(problem, a, b, precision)
    work = columns.divide(a, b, places)
    negative = (numerator < 0) != (divisor < 0) and work.value > 0
    answer = decimal_text(-work.value if negative else work.value, places)
    return _finish(problem, before + work.text(negative=negative), answer, precision)


def mean(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Running sum with the count of its terms, then one division."""
    numbers = problem.operands
    before = running_sum(list(numbers), counted=True) + "\n"
    return _quotient(problem, sum(numbers), len(numbers), precision, columns, before=before)


def fraction(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Greatest common divisor, then both parts divided by it."""
    p, q = problem.operands
    common = math.gcd(p, q)
    if value(problem) != Decimal(p) / Decimal(q):
        raise StepError(f"{p}/{q} is not {problem.solution}")
    return f"{simplification(p, q)}{ANSWER}{p // common}/{q // common}"


def whole_product(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Length by width, or density by volume."""
    work = columns.multiply(*problem.operands)
    return _finish(problem, work.text(), str(work.value), precision, UNITS[problem.kind])


def discount(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Difference of the prices, then a hundred times it by the old price."""
    old, new = problem.operands
    steps, difference = signed_sum(old, -new)
    before = f"({old}-{new})/{old}\n{steps}\n"
    return _quotient(problem, 100 * difference, old, precision, columns, before=before)


def sales(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Last year's sales times ``100 + percent`` is this year's in hundredths: a single product."""
    old, percent = problem.operands
    work = columns.multiply(old, 100 + percent)
    steps = f"{old}*(100+{percent})%\n{work.text()}"
    return _finish(problem, steps, decimal_text(work.value, 2), precision)


def square_root(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """Root digit by digit."""
    (number,) = problem.operands
    hundredths = _units(number, 2)
    places = root_places(problem, hundredths, precision)
    radicand = hundredths * 100 ** (places - 1)
    # whole numbers always get two pairs, so that the columns of every row begin alike
    work = columns.root(radicand, max(2 + places, (len(str(radicand)) + 1) // 2))
    return _finish(problem, work.text(), decimal_text(work.value, places), precision)


def nth_power(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """``x^n``: nothing to do up to the first, exact columns for the square, leading digits from the third."""
    base, exponent = problem.operands
    places = decimals(base)
    magnitude = abs(_units(base, places))
    asked = f"{base}^{exponent}"
    if exponent == 0 or magnitude == 0:
        # 0**0 is 1, the zeroth power of any base; 0**n is 0, the power of a zero base
        answer = str(0**exponent)
        return _finish(problem, f"{asked}={answer}", answer, precision)
    if exponent == 1:
        return _finish(problem, f"{asked}={base}", str(base), precision)
    if exponent == 2:
        work = columns.multiply(magnitude, magnitude)
        return _finish(problem, f"{asked}\n{work.text()}", decimal_text(work.value, 2 * places), precision)
    negative = base < 0 and exponent % 2 == 1
    number = scientific(magnitude, places)
    keep = _EXACT_DIGITS if precision == EXACT else POWER_DIGITS
    steps, result = power(number, exponent, keep)
    head = f"-({number.text()}^{exponent})" if negative else f"{number.text()}^{exponent}"
    answer = _written(result, keep, precision)
    # a power cut off to 0.00 gets no minus
    answer = f"-{answer}" if negative and Decimal(answer) else answer
    return _finish(problem, f"{asked}\n{head}\n{steps}", answer, precision)


def function(problem: Problem, precision: str = DEFAULT, columns: Columns = FULL) -> str:
    """``a·x^b``: by logarithms with ``2dp``, where the tables reach, else as a power times the factor.

    With ``2dp`` and ``x`` below 1, the work ends as soon as less than 0.01 of the value is seen to be left.
    """
    x, factor, exponent = problem.operands
    if x <= 0 or factor < 1 or exponent < 1:
        raise StepError(f"{factor}·{x}^{exponent}: only positive function values are worked")
    if precision == TWO_DECIMALS and covers(x, factor, exponent):
        steps, found = function_value(x, factor, exponent)
        answer = "0.00" if found is None else _written(found, FUNCTION_DIGITS - 1, precision)
        return _finish(problem, steps, answer, precision)
    places = decimals(x)
    number = scientific(_units(x, places), places)
    keep = _EXACT_DIGITS if precision == EXACT else FUNCTION_DIGITS
    steps, result = f"{number.text()}^{exponent}*{factor}", number
    # such a power times the factor is below 0.01, and higher powers of an x below 1 are smaller still
    enough = -3 - len(str(factor)) if precision == TWO_DECIMALS and x < 1 else None
    if exponent > 1:
        chain, result = power(number, exponent, keep, enough=enough)
        steps += f"\n{chain}"
    if enough is not None and result.exponent <= enough:
        return _finish(problem, steps, "0.00", precision)
    if factor > 1:
        rows, result = product(result, scientific(factor, 0), keep)
        steps += f"\n*{factor}\n{rows}"
    return _finish(problem, steps, _written(result, keep, precision), precision)


def _written(number: Scientific, keep: int, precision: str) -> str:
    """A result as its answer: written out while its digits reach to the point, else with an exponent."""
    if not _PLAIN_FROM <= number.exponent < keep:
        return number.text(sign="+")
    places = max(0, number.places)
    whole = number.digits * 10 ** max(0, -number.places)
    if precision == TWO_DECIMALS and places > 2:
        # cut off, as all worked digits are
        whole, places = whole // 10 ** (places - 2), 2
    return decimal_text(whole, places)


STEPS = {
    "direct computation": direct,
    "eq solve": equation,
    "mean computation": mean,
    "fraction simplify": fraction,
    "mass computation": whole_product,
    "discount percentage": discount,
    "area computation": whole_product,
    "sqrt computation": square_root,
    "power computation": nth_power,
    "sales revenue": sales,
    "function computation": function,
}
