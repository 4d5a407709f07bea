"""``seed``: the answers published for the contest's data, byte for byte.

An answer is ``计算过程：`` and the expression with its rounded result. Results are rounded to four decimals (discounts
to two), whole ones are written as integers, powers and function values stay as they are. The published texts come from
replacing the result wherever its digits stand in the solution, and so do these: ``1000.10 - 1000.00 = 0.10`` becomes
``1000.1 - 1000.00 = 0.1``. Where that makes the expression wrong (``√1.00 = 1.0`` would become ``√10 = 1``) the row is
refused. Discounts are in per cent, which their published expression ``(51 - 28) / 51 = 45.1`` leaves unsaid.
"""

from __future__ import annotations

import math
from decimal import Decimal

from converters.arithmetic.problems import CONTEXT, Problem, StepError, value

PREFIX = "计算过程："

# a decimal of up to 15 digits survives the way to a float and back
_FLOAT_DIGITS = 15
# half a unit of the last place, and a little more: the rounding starts from a float
_ALLOWED = {2: Decimal("0.005000001"), 4: Decimal("0.000050001")}


def direct(problem: Problem) -> str:
    """``967.09 - -688.16 = 1655.25``."""
    a, operator, b = problem.operands
    plain = f"{a!s} {operator} {b!s}"
    left, result = _replaced(plain, value(problem))
    if left != plain:
        # the replacement changed an operand too: it must still be the same number
        texts = left.split(" ")
        if Decimal(texts[0]) != a or Decimal(texts[2]) != b:
            raise StepError(f"step does not hold: {left} = {result}")
    return f"{PREFIX}{left} = {result}"


def square_root(problem: Problem) -> str:
    """``√6145.00 = 78.3901``."""
    (x,) = problem.operands
    plain = f"√{x!s}"
    left, result = _replaced(plain, value(problem))
    if left != plain:
        raise StepError(f"step does not hold: {left} = {result}")
    return f"{PREFIX}{left} = {result}"


def equation(problem: Problem) -> str:
    """``-81x = 45, x = 45 / -81, x = -0.5556``."""
    m, n = problem.operands
    return f"{PREFIX}{m}x = {-n}, x = {-n} / {m}, x = {_hold(_rounded(-n / m), value(problem))}"


def mean(problem: Problem) -> str:
    """``(79 + 69 + 19 + 3 + 23 + 93) / 6 = 47.6667``."""
    numbers = problem.operands
    result = _hold(_rounded(sum(numbers) / len(numbers)), value(problem))
    return f"{PREFIX}({' + '.join(map(str, numbers))}) / {len(numbers)} = {result}"


def fraction(problem: Problem) -> str:
    """``gcd(4, 10) = 2, 4 / 2 = 2, 10 / 2 = 5, 最简化的形式为：2/5``."""
    p, q = problem.operands
    common = math.gcd(p, q)
    short_p, short_q = p // common, q // common
    if CONTEXT.divide(Decimal(short_p), Decimal(short_q)) != value(problem):
        raise StepError(f"step does not hold: {p}/{q} is not {short_p}/{short_q}")
    return (
        f"{PREFIX}gcd({p}, {q}) = {common}, {p} / {common} = {short_p}, {q} / {common} = {short_q}, "
        f"最简化的形式为：{short_p}/{short_q}"
    )


def product(problem: Problem) -> str:
    """``10 * 3 = 30``: area and mass, without their units."""
    a, b = problem.operands
    return f"{PREFIX}{a} * {b} = {_hold(str(a * b), value(problem))}"


def discount(problem: Problem) -> str:
    """``(51 - 28) / 51 = 45.1``."""
    old, new = problem.operands
    result = _hold(_rounded((old - new) / old * 100, 2), value(problem), 2)
    return f"{PREFIX}({old} - {new}) / {old} = {result}"


def sales(problem: Problem) -> str:
    """``32 * (1 + 0.28) = 40.96``."""
    old, percent = problem.operands
    rate = str(round(percent / 100, 2))
    if CONTEXT.multiply(Decimal(rate), Decimal(100)) != percent:
        raise StepError(f"step does not hold: {percent} per cent is not {rate}")
    return f"{PREFIX}{old} * (1 + {rate}) = {_hold(_rounded(old * (1 + percent / 100)), value(problem))}"


def power(problem: Problem) -> str:
    """``-711.31^4 = 255997460543.58343921``."""
    x, n = problem.operands
    return f"{PREFIX}{x!s}^{n} = {value(problem)!s}"


def function(problem: Problem) -> str:
    """``57 * 4.03 ^ 54 = 2.769155521409239378157128235E+34``."""
    x, factor, exponent = problem.operands
    short = str(float(x))
    if Decimal(short) != x:
        raise StepError(f"step does not hold: {x} is not {short}")
    return f"{PREFIX}{factor} * {short} ^ {exponent} = {value(problem)!s}"


def _replaced(left: str, exact: Decimal) -> tuple[str, str]:
    """Round the result of ``left = exact`` wherever its unsigned digits stand; the two sides come back."""
    magnitude = exact.copy_abs()
    digits = str(magnitude)
    whole, _, decimals = digits.partition(".")
    if len(decimals) <= 4 and len(digits) <= _FLOAT_DIGITS and "E" not in digits:
        # nothing to round off: the float of so few digits prints as these, less the zeros at the end
        short = f"{whole}.{decimals}".rstrip("0").rstrip(".")
    else:
        short = _hold(_rounded(float(digits)), magnitude)
    return left.replace(digits, short), f"-{short}" if exact.is_signed() else short


def _rounded(number: float, places: int = 4) -> str:
    """A float to ``places`` decimals without trailing zeros, whole numbers without a decimal point."""
    if number.is_integer():
        return str(int(number))
    short = round(number, places)
    return str(int(short)) if short.is_integer() else str(short)


def _hold(written: str, exact: Decimal, places: int = 4) -> str:
    """Give ``written`` back if it is ``exact`` rounded to ``places`` decimals."""
    if abs(CONTEXT.subtract(Decimal(written), exact)) > _ALLOWED[places]:
        raise StepError(f"step does not hold: {written} is not {exact} to {places} decimals")
    return written


STEPS = {
    "direct computation": direct,
    "eq solve": equation,
    "mean computation": mean,
    "fraction simplify": fraction,
    "mass computation": product,
    "discount percentage": discount,
    "area computation": product,
    "sqrt computation": square_root,
    "power computation": power,
    "sales revenue": sales,
    "function computation": function,
}
