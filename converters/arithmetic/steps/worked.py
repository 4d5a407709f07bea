"""``worked``: every answer worked out in digit columns, to the precision that grading by value asks for.

A row first settles what is computed on non-negative integers (signs, decimal points and the order of a difference
are gone after its first head), then works in the cells of ``digits``, and ends with ``答案：`` and the value in the
form the original solution has. Sums, differences, products and squares are exact. Quotients and roots are cut off
after two decimals (an error below 0.01); powers from the third and function values keep enough leading digits for a
relative error below 1e-5. A row whose value does not match its solution under these bounds is refused.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

from converters.arithmetic.kinds import Problem, StepError, value
from converters.arithmetic.steps.digits import (
    ANSWER,
    add,
    decimal_text,
    divide,
    multiply,
    root,
    running_sum,
    simplification,
    subtract,
)

PLACES = 2
"""Decimals of quotients and roots."""
MANTISSA = 7
"""Leading digits of a running product that are at least kept."""
ABSOLUTE, RELATIVE = Decimal("0.01"), Decimal("0.00001")
"""|answer - solution| may be ABSOLUTE + RELATIVE * |solution|: the grading rule ``close``."""


def _units(number: Decimal, places: int) -> int:
    """``number`` in units of ``10**-places``; it must be whole there."""
    scaled = number.scaleb(places)
    if scaled != scaled.to_integral_value():
        raise StepError(f"{number} has more than {places} decimals")
    return int(scaled)


def _places(*numbers: Decimal) -> int:
    """Decimals of the operand that has the most."""
    return max(max(0, -int(number.as_tuple().exponent)) for number in numbers)


def _finish(problem: Problem, steps: str, answer: str, unit: str = "") -> str:
    """Join steps and answer once the answer is known to match the solution."""
    given = value(problem)
    with localcontext() as context:
        context.prec = 60
        if abs(Decimal(answer) - given) > ABSOLUTE + RELATIVE * abs(given):
            raise StepError(f"worked answer {answer} is not {given}")
    return f"{steps}{ANSWER}{answer}{unit}"


def _signed_sum(a: int, b: int) -> tuple[str, int]:
    """Steps and value of ``a + b`` for integers of any sign: a sum or a difference of magnitudes, sign first."""
    if (a < 0) == (b < 0):
        work, negative = add(abs(a), abs(b)), a < 0
    else:
        large, small = (a, b) if abs(a) >= abs(b) else (b, a)
        work, negative = subtract(abs(large), abs(small)), large < 0
    negative = negative and work.value > 0
    return work.text(negative=negative), -work.value if negative else work.value


def direct(problem: Problem) -> str:
    """``a + b``, ``a - b``, ``a * b`` or ``a / b``."""
    a, operator, b = problem.operands
    places = _places(a, b)
    whole_a, whole_b = _units(a, places), _units(b, places)
    if operator in "+-":
        steps, total = _signed_sum(whole_a, whole_b if operator == "+" else -whole_b)
        return _finish(problem, steps, decimal_text(total, places))
    negative = (whole_a < 0) != (whole_b < 0)
    if operator == "*":
        work, places = multiply(abs(whole_a), abs(whole_b)), 2 * places
    else:
        work, places = divide(abs(whole_a), abs(whole_b), PLACES), PLACES
    negative = negative and work.value > 0
    return _finish(problem, work.text(negative=negative), decimal_text(-work.value if negative else work.value, places))


def equation(problem: Problem) -> str:
    """``m x + n = 0``: the constant moves over, then one division."""
    m, n = problem.operands
    return _quotient(problem, -n, m, before="x=")


def _quotient(problem: Problem, numerator: int, divisor: int, before: str = "") -> str:
    work = divide(abs(numerator), abs(divisor), PLACES)
    negative = (numerator < 0) != (divisor < 0) and work.value > 0
    answer = decimal_text(-work.value if negative else work.value, PLACES)
    return _finish(problem, before + work.text(negative=negative), answer)


def mean(problem: Problem) -> str:
    """Running sum, then one division."""
    numbers = problem.operands
    return _quotient(problem, sum(numbers), len(numbers), before=running_sum(list(numbers)) + "\n")


def fraction(problem: Problem) -> str:
    """Greatest common divisor, then both parts divided by it."""
    p, q = problem.operands
    common = math.gcd(p, q)
    if value(problem) != Decimal(p) / Decimal(q):
        raise StepError(f"{p}/{q} is not {problem.solution}")
    return f"{simplification(p, q)}{ANSWER}{p // common}/{q // common}"


def area(problem: Problem) -> str:
    """Length by width."""
    work = multiply(*problem.operands)
    return _finish(problem, work.text(), str(work.value), " 平方厘米")


def mass(problem: Problem) -> str:
    """Density by volume."""
    work = multiply(*problem.operands)
    return _finish(problem, work.text(), str(work.value), " 克")


def discount(problem: Problem) -> str:
    """Difference of the prices, then a hundred times it by the old price."""
    old, new = problem.operands
    steps, difference = _signed_sum(old, -new)
    return _quotient(problem, 100 * difference, old, before=steps + "\n")


def sales(problem: Problem) -> str:
    """The rise in hundredths, added to last year's sales in hundredths."""
    old, percent = problem.operands
    rise = multiply(old, percent)
    total = add(100 * old, rise.value)
    return _finish(problem, f"{rise.text()}\n{total.text()}", decimal_text(total.value, 2))


def square_root(problem: Problem) -> str:
    """Root digit by digit, two decimals."""
    (number,) = problem.operands
    scaled = _units(number, PLACES) * 10**PLACES
    work = root(scaled, max(4, (len(str(scaled)) + 1) // 2))
    return _finish(problem, work.text(), decimal_text(work.value, PLACES))


def power(problem: Problem) -> str:
    """Repeated multiplication; exact to the square, then to as many leading digits as the bounds ask for."""
    base, exponent = problem.operands
    if exponent == 0:
        return _finish(problem, f"{base}^0=1", "1")
    if exponent == 1:
        return _finish(problem, f"{base}^1={base}", str(base))
    places = _places(base)
    magnitude = abs(_units(base, places))
    negative = base < 0 and exponent % 2 == 1 and magnitude > 0
    if exponent == 2:
        work = multiply(magnitude, magnitude)
        return _finish(problem, work.text(), decimal_text(work.value, 2 * places))
    steps, product, scale = [], magnitude, places
    for _ in range(exponent - 1):
        product, scale, step = _leading_product(product, scale, magnitude, places)
        steps.append(step)
    return _finish(problem, "\n".join(steps), ("-" if negative else "") + _scientific(product, scale))


def _leading_product(a: int, a_scale: int, b: int, b_scale: int, keep: int = MANTISSA) -> tuple[int, int, str]:
    """Multiply ``a·10**-a_scale`` by ``b·10**-b_scale``, keep the leading digits: integer, scale, and the step."""
    work = multiply(a, b)
    product, scale = work.value, a_scale + b_scale
    excess = len(str(product)) - keep
    if excess > 0:
        product, scale = product // 10**excess, scale - excess
    return product, scale, work.text()


def _scientific(mantissa: int, scale: int) -> str:
    """``mantissa·10**-scale`` in the notation of the solutions: ``2.559974E+11``."""
    text = str(mantissa)
    exponent = len(text) - 1 - scale
    return f"{text[0]}.{text[1:] or '0'}E{exponent:+d}"


def function(problem: Problem) -> str:
    """``a·x^b``: binary powers of ``x`` in mantissa and exponent, the factor ``a`` last."""
    x, factor, exponent = problem.operands
    if x <= 0 or factor < 0:
        raise StepError(f"x = {x} with factor {factor}: only positive function values are worked")
    places = _places(x)
    # every squaring doubles the relative error of a cut, so longer powers keep more digits
    keep = MANTISSA + len(str(exponent))
    base, scale = _units(x, places), places
    product, product_scale, steps = factor, 0, []
    while exponent:
        exponent, odd = divmod(exponent, 2)
        if odd:
            product, product_scale, step = _leading_product(product, product_scale, base, scale, keep)
            steps.append(step)
        if exponent:
            base, scale, step = _leading_product(base, scale, base, scale, keep)
            steps.append(step)
    plain = 0 <= product_scale <= keep
    answer = decimal_text(product, product_scale) if plain else _scientific(product, product_scale)
    return _finish(problem, "\n".join(steps), answer)


STEPS = {
    "direct computation": direct,
    "eq solve": equation,
    "mean computation": mean,
    "fraction simplify": fraction,
    "mass computation": mass,
    "discount percentage": discount,
    "area computation": area,
    "sqrt computation": square_root,
    "power computation": power,
    "sales revenue": sales,
    "function computation": function,
}
