"""Function values ``a·x^b`` by two tables: ``log x · b + log a``, then back from the logarithm to the number.

=============================  ==========================================================================
``4.03:060530505``             an entry of the first table: the logarithm, one digit before its point
``57:175587486``               the same for the factor
``*54``                        the exponent in two digits; one row for each, added to the factor's logarithm
``=34.442347``                 the sum, cut off after six decimals: exponent of ten and mantissa
``442>2766942,12770``          an entry of the second table: ``10^0.442`` and what a thousandth more adds
``7:…``                        ``12770 * 0347``, the difference times what the entry leaves of the mantissa
``;…``                         that product, its last three digits left out, added to the number of the entry
=============================  ==========================================================================

Below 1 an entry has the logarithm of ``10x``, and a difference such as ``32-54`` takes the exponent from the sum. The
second table has every other thousandth. Between its entries the number is taken to rise in a straight line, which adds
at most 2.7e-6 of it; cutting off takes a little more away. Over all values of the contest's ranges no result is off by
more than 4.9e-6 of itself.

A model has to know the tables by heart, so training needs rows that recite them: ``recitation``.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cache

from converters.arithmetic.steps.digits import accumulate, digits_of, number_of, signed_sum
from converters.arithmetic.steps.scientific import Scientific, joint_rows

BASES = tuple(Decimal(units).scaleb(-2) for units in range(10, 1001))
"""Values of ``x`` in the table of logarithms: 0.10 to 10.00, with two decimals."""
FACTORS = EXPONENTS = range(1, 101)
ANTILOGARITHMS = range(0, 1000, 2)
"""Thousandths that the table of antilogarithms has entries for."""
LOG_PLACES, MANTISSA_PLACES, NUMBER_PLACES = 8, 6, 6
"""Decimals of a logarithm, of the mantissa that is looked up, and of the number that is found."""
_WIDE = Context(prec=40, rounding=ROUND_HALF_EVEN)
_ENOUGH = -2
"""A value of a lower exponent is below 0.01."""


def covers(x: Decimal, factor: int, exponent: int) -> bool:
    """Whether the tables have all that ``factor * x**exponent`` needs."""
    return x == x.quantize(BASES[0]) and BASES[0] <= x <= BASES[-1] and factor in FACTORS and exponent in EXPONENTS


def logarithm(number: Decimal) -> int:
    """The logarithm to base 10 in units of ``10**-LOG_PLACES``, rounded; below 1 that of ten times the number."""
    scaled = number * 10 if number < 1 else number
    return int(_WIDE.log10(scaled).scaleb(LOG_PLACES).quantize(Decimal(1), ROUND_HALF_EVEN))


def logarithm_entry(number: Decimal | int) -> str:
    """An entry of the table of logarithms: ``4.03:060530505``."""
    return f"{number}:{logarithm(Decimal(number)):0{LOG_PLACES + 1}}"


@cache
def antilogarithm(thousandths: int) -> tuple[int, int]:
    """``10**0.442`` and how much a thousandth adds to it up to the next entry.

    Args:
        thousandths: one of ANTILOGARITHMS.

    Returns:
        Both in units of ``10**-NUMBER_PLACES``.
    """
    here, there = (
        _WIDE.power(Decimal(10), Decimal(each).scaleb(-3)).scaleb(NUMBER_PLACES)
        for each in (thousandths, thousandths + ANTILOGARITHMS.step)
    )
    rise = (there - here) / ANTILOGARITHMS.step
    return int(here.quantize(Decimal(1), ROUND_HALF_EVEN)), int(rise.quantize(Decimal(1), ROUND_HALF_EVEN))


def antilogarithm_entry(thousandths: int) -> str:
    """An entry of the table of antilogarithms: ``442>2766942,12770``."""
    number, rise = antilogarithm(thousandths)
    return f"{thousandths:03}>{number},{rise:05}"


def function_value(x: Decimal, factor: int, exponent: int) -> tuple[str, Scientific | None]:
    """Write ``factor * x**exponent`` by logarithms.

    Args:
        x: one of BASES.
        factor: one of FACTORS.
        exponent: one of EXPONENTS.

    Returns:
        The steps, and the value to seven leading digits; None where it was seen to be below 0.01 and the work stopped.
    """
    rows, found = joint_rows(
        digits_of(logarithm(x), LOG_PLACES + 1),
        digits_of(exponent, 2),
        start=digits_of(logarithm(Decimal(factor)), LOG_PLACES + 1),
    )
    whole, fraction = divmod(number_of(found), 10**LOG_PLACES)
    mantissa = fraction // 10 ** (LOG_PLACES - MANTISSA_PLACES)
    steps = [
        logarithm_entry(x),
        logarithm_entry(factor),
        f"*{exponent:02}",
        rows,
        f"={whole}.{mantissa:0{MANTISSA_PLACES}}",
    ]
    if x < 1:
        line, whole = signed_sum(whole, -exponent)
        steps.append(line)
    if whole < _ENOUGH:
        return "\n".join(steps), None
    entry = mantissa // 1000 // ANTILOGARITHMS.step * ANTILOGARITHMS.step
    number, rise = antilogarithm(entry)
    rows, found = joint_rows(digits_of(rise, 5), digits_of(mantissa - 1000 * entry, 4))
    cells, total = accumulate(digits_of(number), [*found[3:], 0])
    steps += [antilogarithm_entry(entry), f"{rows};{cells}"]
    return "\n".join(steps), Scientific(int(str(number_of(total)).rstrip("0")), whole)
