"""``decompose``: the contest's record holder's way, written anew from its description.

A product takes one factor apart by place value, multiplies part by part and adds up; a quotient is a long division of
scaled integers, one decimal digit's multiple taken away at a time, with the remainder stated; a mean is a running sum
and such a quotient. The last line is ``final, a * b = v``, or ``~=`` where the value is rounded. Sums, differences,
powers to the zeroth and first, and fractions are the bare answer. The description says nothing of the other kinds:
equations, discounts, sales, areas, masses and squares are made of the same products and quotients; roots, powers from
the third and function values are the bare number.

Each line is one step for a model that can add and multiply by one digit in its head; ``worked`` has smaller ones.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

from converters.arithmetic.problems import Problem, StepError, value
from converters.arithmetic.steps.digits import decimal_text
from converters.arithmetic.steps.precision import (
    EXACT,
    SIG6,
    SIGNIFICANT,
    TWO_DECIMALS,
    UNITS,
    decimals,
    held,
    solution_number,
    solution_places,
)

PRECISIONS = (EXACT, SIG6, TWO_DECIMALS)
DEFAULT = SIG6
_QUOTIENT_PLACES = 5
"""Decimals of a quotient, as the record holder had; more where these are less than six significant digits."""
_LEADING = Context(prec=SIGNIFICANT + 1, rounding=ROUND_HALF_EVEN)


def _finish(problem: Problem, lines: list[str], expression: str, worked: str, precision: str, unit: str = "") -> str:
    """Add the last line: the expression and its value, once that is known to be what the precision promises."""
    answer = held(problem, worked, precision)
    sign = "=" if Decimal(answer) == value(problem) else "~="
    return "\n".join([*lines, f"final, {expression} {sign} {answer}{unit}"])


def _parts(number: int) -> list[int]:
    """The parts of a number by place value, zeros left out: ``320`` → ``[300, 20]``."""
    text = str(number)
    return [int(char) * 10 ** (len(text) - 1 - at) for at, char in enumerate(text) if char != "0"]


def _product(a: int, a_places: int, b: int, b_places: int) -> tuple[list[str], int]:
    """Lines and value of ``a * b`` for integers that are not negative, in units of both numbers of decimals."""
    left, right = decimal_text(a, a_places), decimal_text(b, b_places)
    parts, places = _parts(b), a_places + b_places
    # one digit times a power of ten is a single step
    if len(parts) < 2:
        return [f"{left} * {right} = {decimal_text(a * b, places)}"], a * b
    written = [decimal_text(part, b_places) for part in parts]
    if b_places:
        # 300 and 0.3 rather than 300.00 and 0.30
        written = [text.rstrip("0").rstrip(".") for text in written]
    lines = [f"{left} * {right} = {left} * ({' + '.join(written)})"]
    products = [a * part for part in parts]
    lines += [
        f"{left} * {text} = {decimal_text(product, places)}" for text, product in zip(written, products, strict=True)
    ]
    total = products[0]
    for product in products[1:]:
        lines.append(
            f"{decimal_text(total, places)} + {decimal_text(product, places)} = {decimal_text(total + product, places)}"
        )
        total += product
    return lines, total


def _division(a: int, b: int) -> tuple[list[str], int, int]:
    """Lines, quotient and remainder of ``a / b`` for integers that are not negative."""
    lines, rest = [], a
    quotient = a // b
    for part in _parts(quotient):
        taken = b * part
        lines.append(f"{rest} - {b} * {part} = {rest} - {taken} = {rest - taken}")
        rest -= taken
    return [*lines, f"{a} / {b} = {quotient} R {rest}"], quotient, rest


def _quotient(problem: Problem, lines: list[str], expression: str, a: int, b: int, precision: str) -> str:
    """Divide to decimals: the numerator is scaled for one digit more than is written, which is then rounded off."""
    magnitude, divisor = abs(a), abs(b)
    places = _places_of_quotient(problem, magnitude, divisor, precision)
    scaled = magnitude * 10 ** (places + 1)
    divided, quotient, rest = _division(scaled, divisor)
    head = f"{magnitude} * 10^{places + 1} = {scaled}"
    # half to even, as the solutions round; what is left over breaks the tie
    rounded, digit = divmod(quotient, 10)
    if digit > 5 or (digit == 5 and (rest or rounded % 2)):
        rounded += 1
    # a value that rounds to zero gets no minus
    negative = (a < 0) != (b < 0) and rounded > 0
    worked = decimal_text(-rounded if negative else rounded, places)
    return _finish(problem, [*lines, head, *divided], expression, worked, precision)


def _places_of_quotient(problem: Problem, a: int, b: int, precision: str) -> int:
    if precision == EXACT:
        return solution_places(problem)
    if precision == TWO_DECIMALS:
        return 2
    places = _QUOTIENT_PLACES
    # a zero would never reach six digits
    while a and a * 10**places // b < 10 ** (SIGNIFICANT - 1):
        places += 1
    return places


def direct(problem: Problem, precision: str = DEFAULT) -> str:
    """``a + b`` and ``a - b`` as the bare answer, ``a * b`` and ``a / b`` worked out."""
    a, operator, b = problem.operands
    if operator in "+-":
        return held(problem, str(value(problem)), precision)
    expression = f"{a} {operator} {b}"
    places = decimals(a, b)
    # one unit for both: it cancels in a quotient and counts twice in a product
    whole_a, whole_b = int(a.scaleb(places)), int(b.scaleb(places))
    if operator == "/":
        return _quotient(problem, [], expression, whole_a, whole_b, precision)
    lines, product = _product(abs(whole_a), places, abs(whole_b), places)
    negative = (whole_a < 0) != (whole_b < 0) and product > 0
    worked = decimal_text(-product if negative else product, 2 * places)
    return _finish(problem, lines, expression, worked, precision)


def equation(problem: Problem, precision: str = DEFAULT) -> str:
    """The constant moves over, then a quotient."""
    m, n = problem.operands
    return _quotient(problem, [f"{m}x = {-n}"], f"x = {-n} / {m}", -n, m, precision)


def mean(problem: Problem, precision: str = DEFAULT) -> str:
    """Running sum, then a quotient."""
    numbers = problem.operands
    total, lines = numbers[0], []
    for number in numbers[1:]:
        lines.append(f"{total} + {number} = {total + number}")
        total += number
    return _quotient(problem, lines, f"{total} / {len(numbers)}", total, len(numbers), precision)


def fraction(problem: Problem, precision: str = DEFAULT) -> str:
    """The bare fraction in lowest terms."""
    p, q = problem.operands
    common = math.gcd(p, q)
    if value(problem) != Decimal(p) / Decimal(q):
        raise StepError(f"{p}/{q} is not {problem.solution}")
    return f"{p // common}/{q // common}"


def whole_product(problem: Problem, precision: str = DEFAULT) -> str:
    """Length by width, or density by volume."""
    a, b = problem.operands
    lines, product = _product(a, 0, b, 0)
    return _finish(problem, lines if len(lines) > 1 else [], f"{a} * {b}", str(product), precision, UNITS[problem.kind])


def discount(problem: Problem, precision: str = DEFAULT) -> str:
    """A hundred times the difference of the prices, divided by the old price."""
    old, new = problem.operands
    lines = [f"{old} - {new} = {old - new}", f"{old - new} * 100 = {100 * (old - new)}"]
    return _quotient(problem, lines, f"{100 * (old - new)} / {old}", 100 * (old - new), old, precision)


def sales(problem: Problem, precision: str = DEFAULT) -> str:
    """The rise, then the sum."""
    old, percent = problem.operands
    lines, product = _product(old, 0, percent, 0)
    rise = decimal_text(product, 2)
    lines.append(f"{product} / 100 = {rise}")
    return _finish(problem, lines, f"{old} + {rise}", decimal_text(100 * old + product, 2), precision)


def power(problem: Problem, precision: str = DEFAULT) -> str:
    """A square as a product; the other powers as the bare number."""
    base, exponent = problem.operands
    if exponent != 2:
        return _bare(problem, precision)
    places = decimals(base)
    magnitude = abs(int(base.scaleb(places)))
    lines, product = _product(magnitude, places, magnitude, places)
    return _finish(problem, lines, f"{base}^2", decimal_text(product, 2 * places), precision)


def _bare(problem: Problem, precision: str = DEFAULT) -> str:
    """The value alone: six significant digits and one to round, two decimals at the most, or all of the solution's."""
    exact = value(problem)
    if precision == EXACT:
        return held(problem, solution_number(problem), precision)
    places = decimals(exact)
    # values from 10^10 on are given by their leading digits
    if precision == TWO_DECIMALS and places > 2 and exact.adjusted() < 10:
        return held(problem, f"{exact:.2f}", precision)
    rounded = _LEADING.plus(exact)
    return held(problem, str(rounded) if len(str(rounded)) < len(str(exact)) else str(exact), precision)


STEPS = {
    "direct computation": direct,
    "eq solve": equation,
    "mean computation": mean,
    "fraction simplify": fraction,
    "mass computation": whole_product,
    "discount percentage": discount,
    "area computation": whole_product,
    "sqrt computation": _bare,
    "power computation": power,
    "sales revenue": sales,
    "function computation": _bare,
}
