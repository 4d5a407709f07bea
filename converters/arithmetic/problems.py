"""The kinds of arithmetic problems: their texts, their operands, and the value that each must have.

A kind is one fixed sentence. Reading a problem gives its operands; from them come the value (``decimal``, 28
significant digits, half to even) and the solution text as the data set writes it: ``decimal`` for the numeric
kinds, Python floats for equations, means, discounts and sales. Names are those of the contest's mathematics task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException
from typing import Any, NamedTuple

ENGLISH = "english"
CONTEST_ROWS = 809_993
"""Rows of the contest's file, English ones included."""
CONTEXT = Context(prec=28, rounding=ROUND_HALF_EVEN)
"""What every value is computed in; the operations on it raise on overflow and division by zero."""

_INTEGER = r"(-?[0-9]+)"
_DECIMAL = r"(-?[0-9]+(?:\.[0-9]+)?)"
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CJK = re.compile(r"[\u4e00-\u9fff]")
_FLOAT_DIGITS = 17
_FLOAT_ERROR = Decimal("1e-15")
_CLOSE_ABSOLUTE, _CLOSE_RELATIVE = Decimal("0.01"), Decimal("0.00001")


class StepError(Exception):
    """A solution or a step that does not hold; the message is the reason a row is rejected for."""


class Problem(NamedTuple):  # a tuple, because one is made for every row
    """One problem, read.

    ``operands`` by kind: direct computation (Decimal, operator, Decimal); power (Decimal, int); sqrt (Decimal,);
    fraction (int, int); mean (int, …); eq (m, n) of ``mx + n = 0``; function (Decimal x, int factor, int exponent);
    area, mass, discount, sales (int, int); english ().
    """

    kind: str
    problem: str
    solution: str
    operands: tuple[Any, ...]


@dataclass(frozen=True)
class _Kind:
    """How one kind is read and written; the callables take the operands."""

    pattern: re.Pattern[str]
    read: Callable[..., tuple[Any, ...]]
    """From the pattern's groups to the operands."""
    problem: Callable[..., str]
    value: Callable[..., Decimal]
    solution: Callable[..., tuple[str, str, str]]
    """The solution in three parts: what stands before the number, the number, what stands after it."""


def parse(problem: str, solution: str) -> Problem | None:
    """Read a problem by its sentence; None if it is of no known kind.

    English problems (no Chinese character) are recognised by the boxed answer of their solution.
    """
    for name, fullmatch, read in _BY_START.get(problem[:2], ()):
        match = fullmatch(problem)
        if match:
            try:
                return Problem(name, problem, solution, read(*match.groups()))
            except ValueError:  # an integer of more than 4,300 digits
                return None
    if ("\\boxed" in solution or "\\fbox" in solution) and not _CJK.search(problem):
        return Problem(ENGLISH, problem, solution, ())
    return None


def value(problem: Problem) -> Decimal:
    """The problem's value, recomputed from its operands to 28 significant digits.

    Raises:
        StepError: it has none: a division by zero, a root of a negative number, an overflow, an English problem.
    """
    if problem.kind == ENGLISH:
        raise StepError("an English problem's value cannot be recomputed")
    try:
        return _KINDS[problem.kind].value(*problem.operands)
    except (DecimalException, ZeroDivisionError) as error:
        raise StepError(f"the problem has no value ({type(error).__name__})") from error


def check(problem: Problem) -> None:
    """Make sure that the solution follows from the problem.

    It does if it is the data set's text, or the same text with a number that is the recomputed value rounded to the
    digits it is written with (an error of at most 0.01 + 1e-5 of the value), or the value as a float. English
    solutions are taken as given.

    Raises:
        StepError: it does not follow; the message has what was expected.
    """
    if problem.kind == ENGLISH:
        return
    try:
        before, number, after = _KINDS[problem.kind].solution(*problem.operands)
    except (ArithmeticError, ValueError) as error:
        raise StepError(f"the problem has no value ({type(error).__name__})") from error
    given = problem.solution
    if given == before + number + after:
        return
    middle = given[len(before) : len(given) - len(after)]
    if given != before + middle + after:
        raise StepError(f"the solution is not of the form {before}…{after}: expected {before}{number}{after}")
    if "/" in number or not _NUMBER.fullmatch(middle) or not _agrees(middle, value(problem)):
        raise StepError(f"the solution does not follow: expected {number}, found {middle}")


def _agrees(text: str, exact: Decimal) -> bool:
    """Whether ``text`` is ``exact`` rounded to the digits that ``text`` has, or its float."""
    try:
        given = Decimal(text)
        error = abs(CONTEXT.subtract(given, exact))
        _, digits, exponent = given.as_tuple()
        half_unit = Decimal(5).scaleb(int(exponent) - 1, CONTEXT)
    except DecimalException:  # an exponent beyond what decimal holds
        return False
    magnitude = abs(exact)
    allowed = min(half_unit, _CLOSE_ABSOLUTE + CONTEXT.multiply(_CLOSE_RELATIVE, magnitude))
    if len(digits) <= _FLOAT_DIGITS:
        allowed = max(allowed, CONTEXT.multiply(_FLOAT_ERROR, magnitude))
    return error <= allowed


def problem_text(kind: str, operands: tuple[Any, ...]) -> str:
    """The sentence that asks for ``operands`` in this kind."""
    return _KINDS[kind].problem(*operands)


def solution_text(kind: str, operands: tuple[Any, ...]) -> str:
    """The solution as the data set writes it, number format included."""
    return "".join(_KINDS[kind].solution(*operands))


_OPERATIONS: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": CONTEXT.add,
    "-": CONTEXT.subtract,
    "*": CONTEXT.multiply,
    "/": CONTEXT.divide,
}


def _direct(a: Decimal, operator: str, b: Decimal) -> Decimal:
    return _OPERATIONS[operator](a, b)


def _power(x: Decimal, n: int) -> Decimal:
    # decimal leaves 0 to the power 0 undefined; the empty product is 1
    return CONTEXT.power(x, n) if n else Decimal(1)


def _function(x: Decimal, factor: int, exponent: int) -> Decimal:
    return CONTEXT.multiply(Decimal(factor), _power(x, exponent))


def _ratio(numerator: int, divisor: int) -> Decimal:
    return CONTEXT.divide(Decimal(numerator), Decimal(divisor))


def _equation_float(m: int, n: int) -> str:
    return str(-n / m) if n else "0.0"


def _lowest_terms(p: int, q: int) -> str:
    if q == 0:
        raise ZeroDivisionError(f"{p}/0")
    common = math.gcd(p, q)
    return f"{p // common}/{q // common}"


def _integers(*texts: str) -> tuple[int, ...]:
    return tuple(map(int, texts))


# {!s} because formatting a Decimal takes three times as long as its str
_KINDS = {
    "direct computation": _Kind(
        re.compile(rf"计算 {_DECIMAL} ([-+*/]) {_DECIMAL} 等于多少？"),
        lambda a, operator, b: (Decimal(a), operator, Decimal(b)),
        lambda a, operator, b: f"计算 {a!s} {operator} {b!s} 等于多少？",
        _direct,
        lambda a, operator, b: (f"{a!s} {operator} {b!s} = ", str(_direct(a, operator, b)), ""),
    ),
    "eq solve": _Kind(
        re.compile(rf"解方程 {_INTEGER}x \+ {_INTEGER} = 0"),
        _integers,
        lambda m, n: f"解方程 {m}x + {n} = 0",
        lambda m, n: _ratio(-n, m),
        lambda m, n: ("方程的解为：", _equation_float(m, n), ""),
    ),
    "mean computation": _Kind(
        re.compile(r"求以下数据的平均值：\[(-?[0-9]+(?:, -?[0-9]+)*)\]"),
        lambda items: _integers(*items.split(", ")),
        lambda *items: f"求以下数据的平均值：{list(items)}",
        lambda *items: _ratio(sum(items), len(items)),
        lambda *items: ("平均值为 ", str(sum(items) / len(items)), ""),
    ),
    "fraction simplify": _Kind(
        re.compile(r"将分数 ([0-9]+)/([0-9]+) 进行简化。"),
        _integers,
        lambda p, q: f"将分数 {p}/{q} 进行简化。",
        _ratio,
        lambda p, q: ("最简化的形式为：", _lowest_terms(p, q), ""),
    ),
    "mass computation": _Kind(
        re.compile(r"某物体的密度为 ([0-9]+) 克/立方厘米，体积为 ([0-9]+) 立方厘米，请计算该物体的质量。"),
        _integers,
        lambda a, b: f"某物体的密度为 {a} 克/立方厘米，体积为 {b} 立方厘米，请计算该物体的质量。",
        lambda a, b: Decimal(a * b),
        lambda a, b: ("", str(a * b), " 克"),
    ),
    "discount percentage": _Kind(
        re.compile(r"商品原价为 ([0-9]+) 元，打折后的价格为 ([0-9]+) 元，请计算打折的折扣比例。"),
        _integers,
        lambda a, b: f"商品原价为 {a} 元，打折后的价格为 {b} 元，请计算打折的折扣比例。",
        lambda a, b: _ratio(100 * (a - b), a),
        lambda a, b: ("", str((a - b) / a * 100), ""),
    ),
    "area computation": _Kind(
        re.compile(r"一个长方形的长为 ([0-9]+) 厘米，宽为 ([0-9]+) 厘米，请计算其面积。"),
        _integers,
        lambda a, b: f"一个长方形的长为 {a} 厘米，宽为 {b} 厘米，请计算其面积。",
        lambda a, b: Decimal(a * b),
        lambda a, b: ("面积为 ", str(a * b), " 平方厘米"),
    ),
    "sqrt computation": _Kind(
        re.compile(rf"计算 {_DECIMAL} 的平方根？"),
        lambda x: (Decimal(x),),
        lambda x: f"计算 {x!s} 的平方根？",
        CONTEXT.sqrt,
        lambda x: (f"√{x!s} = ", str(CONTEXT.sqrt(x)), ""),
    ),
    "power computation": _Kind(
        re.compile(rf"计算 {_DECIMAL} 的 ([0-9]+) 次方？"),
        lambda x, n: (Decimal(x), int(n)),
        lambda x, n: f"计算 {x!s} 的 {n} 次方？",
        _power,
        lambda x, n: (f"{x!s}^{n} = ", str(_power(x, n)), ""),
    ),
    "sales revenue": _Kind(
        re.compile(r"去年销售额为 ([0-9]+) 万元，今年销售额增加了 ([0-9]+)%，请计算今年的销售额。"),
        _integers,
        lambda a, b: f"去年销售额为 {a} 万元，今年销售额增加了 {b}%，请计算今年的销售额。",
        lambda a, b: _ratio(100 * a + a * b, 100),
        lambda a, b: ("", str(a + (a * b / 100)), ""),
    ),
    "function computation": _Kind(
        re.compile(rf"当 x = {_DECIMAL} 时，求函数 y = {_INTEGER}x\^([0-9]+) 的值"),
        lambda x, factor, exponent: (Decimal(x), int(factor), int(exponent)),
        lambda x, factor, exponent: f"当 x = {x!s} 时，求函数 y = {factor}x^{exponent} 的值",
        _function,
        lambda x, factor, exponent: ("函数的值为：", str(_function(x, factor, exponent)), ""),
    ),
}

CHINESE = tuple(_KINDS)
"""The eleven Chinese kinds."""
KINDS = (*CHINESE, ENGLISH)

_STARTS = {
    "计算": ("direct computation", "sqrt computation", "power computation"),
    "解方": ("eq solve",),
    "求以": ("mean computation",),
    "将分": ("fraction simplify",),
    "某物": ("mass computation",),
    "商品": ("discount percentage",),
    "一个": ("area computation",),
    "去年": ("sales revenue",),
    "当 ": ("function computation",),
}
"""Kinds by the first two characters of the problem, the likeliest first."""
_BY_START = {
    start: [(name, _KINDS[name].pattern.fullmatch, _KINDS[name].read) for name in names]
    for start, names in _STARTS.items()
}
