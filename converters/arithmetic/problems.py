"""The kinds of arithmetic problems: their texts, their operands, and the value that each must have.

A kind is one fixed sentence. Reading a problem gives its operands; from them come the value (``decimal``, 28
significant digits, half to even) and the solution text as the data set writes it: ``decimal`` for the numeric
kinds, Python floats for equations, means, discounts and sales. Names are those of the contest's mathematics task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException
from typing import Any, NamedTuple

ENGLISH = "english"
CONTEST_ROWS = 809_993
"""Rows of the contest's file, English ones included."""
CONTEXT = Context(prec=28, rounding=ROUND_HALF_EVEN)
"""What every value is computed in; the operations on it raise on overflow and division by zero."""

NATURAL, INTEGER, DECIMAL = r"[0-9]+", r"-?[0-9]+", r"-?[0-9]+(?:\.[0-9]+)?"
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CJK = re.compile(r"[\u4e00-\u9fff]")
# the shortest text of a float has at most 17 significant digits
_FLOAT_DIGITS = 17
# relative error of a few float operations, each off by at most 1.1e-16
FLOAT_ERROR = Decimal("1e-15")
# what the grading rule ``close`` allows
ABSOLUTE_ERROR, RELATIVE_ERROR = Decimal("0.01"), Decimal("0.00001")


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
class Kind:
    """How one kind is read and written; the callables take the operands."""

    sentence: str
    """The problem, with ``%s`` where its numbers stand."""
    numbers: Mapping[str, str]
    """The numbers by name, in their order: the pattern of each."""
    read: Callable[..., tuple[Any, ...]]
    """From the numbers' texts to the operands."""
    value: Callable[..., Decimal]
    solution: Callable[..., tuple[str, str, str]]
    """The solution in three parts: what stands before the number, the number, what stands after it."""

    @property
    def pattern(self) -> str:
        """The sentence as a regular expression that has a named group for each number."""
        groups = tuple(f"(?P<{name}>{number})" for name, number in self.numbers.items())
        # the only characters of the sentences that mean something in a regular expression
        return re.sub(r"[][+^]", r"\\\g<0>", self.sentence) % groups


def parse(problem: str, solution: str) -> Problem | None:
    """Read a problem by its sentence.

    An English problem (one without a Chinese character) is recognised by the boxed answer of its solution.

    Args:
        problem: the question.
        solution: its solution, which is not checked here.

    Returns:
        The problem with its kind and operands; None if it is of no known kind.
    """
    # two characters leave at most three patterns to try
    for name, fullmatch, read in _READERS.get(problem[:2], ()):
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
        return BY_NAME[problem.kind].value(*problem.operands)
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
        before, number, after = BY_NAME[problem.kind].solution(*problem.operands)
    except (ArithmeticError, ValueError) as error:
        raise StepError(f"the problem has no value ({type(error).__name__})") from error
    given = problem.solution
    if given == before + number + after:
        return
    middle = given[len(before) : len(given) - len(after)]
    if given != before + middle + after:
        raise StepError(f"the solution is not of the form {before}…{after}: expected {before}{number}{after}")
    # a fraction must be exact; only decimals may be rounded
    if "/" in number or not NUMBER.fullmatch(middle) or not _agrees(middle, value(problem)):
        raise StepError(f"the solution does not follow: expected {number}, found {middle}")


def _agrees(text: str, exact: Decimal) -> bool:
    """Whether ``text`` is ``exact`` rounded to the digits that ``text`` has, or its float."""
    try:
        given = Decimal(text)
        error = abs(CONTEXT.subtract(given, exact))
        _, digits, exponent = given.as_tuple()
        # half a unit of the last digit that is written
        half_unit = Decimal(5).scaleb(int(exponent) - 1, CONTEXT)
    except DecimalException:  # an exponent beyond what decimal holds
        return False
    magnitude = abs(exact)
    allowed = min(half_unit, ABSOLUTE_ERROR + CONTEXT.multiply(RELATIVE_ERROR, magnitude))
    # a text with more digits than a float prints is no float and gets no allowance for one
    if len(digits) <= _FLOAT_DIGITS:
        allowed = max(allowed, CONTEXT.multiply(FLOAT_ERROR, magnitude))
    return error <= allowed


def problem_text(kind: str, operands: tuple[Any, ...]) -> str:
    """Write the sentence of a problem.

    Args:
        kind: a key of BY_NAME.
        operands: what ``Problem.operands`` holds for this kind.
    """
    # a mean's operands are one list in its sentence
    numbers = (", ".join(map(str, operands)),) if kind == "mean computation" else operands
    return BY_NAME[kind].sentence % numbers


def solution_text(kind: str, operands: tuple[Any, ...]) -> str:
    """Write the solution of a problem as the data set does, number format included.

    Args:
        kind: a key of BY_NAME.
        operands: what ``Problem.operands`` holds for this kind.

    Raises:
        ArithmeticError: the problem has no value.
    """
    return "".join(BY_NAME[kind].solution(*operands))


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
    # 0 / m would print as -0.0 for a negative m
    return str(-n / m) if n else "0.0"


def _lowest_terms(p: int, q: int) -> str:
    if q == 0:
        raise ZeroDivisionError(f"{p}/0")
    common = math.gcd(p, q)
    return f"{p // common}/{q // common}"


def _integers(*texts: str) -> tuple[int, ...]:
    return tuple(map(int, texts))


_TWO_NATURALS = {"a": NATURAL, "b": NATURAL}

# !s because formatting a Decimal takes three times as long as its str
BY_NAME = {
    "direct computation": Kind(
        "计算 %s %s %s 等于多少？",
        {"a": DECIMAL, "o": "[-+*/]", "b": DECIMAL},
        lambda a, operator, b: (Decimal(a), operator, Decimal(b)),
        _direct,
        lambda a, operator, b: (f"{a!s} {operator} {b!s} = ", str(_direct(a, operator, b)), ""),
    ),
    "eq solve": Kind(
        "解方程 %sx + %s = 0",
        {"a": INTEGER, "b": INTEGER},
        _integers,
        lambda m, n: _ratio(-n, m),
        lambda m, n: ("方程的解为：", _equation_float(m, n), ""),
    ),
    "mean computation": Kind(
        "求以下数据的平均值：[%s]",
        {"items": rf"{INTEGER}(?:, {INTEGER})*"},
        lambda items: _integers(*items.split(", ")),
        lambda *items: _ratio(sum(items), len(items)),
        lambda *items: ("平均值为 ", str(sum(items) / len(items)), ""),
    ),
    "fraction simplify": Kind(
        "将分数 %s/%s 进行简化。",
        _TWO_NATURALS,
        _integers,
        _ratio,
        lambda p, q: ("最简化的形式为：", _lowest_terms(p, q), ""),
    ),
    "mass computation": Kind(
        "某物体的密度为 %s 克/立方厘米，体积为 %s 立方厘米，请计算该物体的质量。",
        _TWO_NATURALS,
        _integers,
        lambda a, b: Decimal(a * b),
        lambda a, b: ("", str(a * b), " 克"),
    ),
    "discount percentage": Kind(
        "商品原价为 %s 元，打折后的价格为 %s 元，请计算打折的折扣比例。",
        _TWO_NATURALS,
        _integers,
        lambda a, b: _ratio(100 * (a - b), a),
        # in the data set's order of operations: another order gives other floats
        lambda a, b: ("", str((a - b) / a * 100), ""),
    ),
    "area computation": Kind(
        "一个长方形的长为 %s 厘米，宽为 %s 厘米，请计算其面积。",
        _TWO_NATURALS,
        _integers,
        lambda a, b: Decimal(a * b),
        lambda a, b: ("面积为 ", str(a * b), " 平方厘米"),
    ),
    "sqrt computation": Kind(
        "计算 %s 的平方根？",
        {"a": DECIMAL},
        lambda x: (Decimal(x),),
        CONTEXT.sqrt,
        lambda x: (f"√{x!s} = ", str(CONTEXT.sqrt(x)), ""),
    ),
    "power computation": Kind(
        "计算 %s 的 %s 次方？",
        {"a": DECIMAL, "b": NATURAL},
        lambda x, n: (Decimal(x), int(n)),
        _power,
        lambda x, n: (f"{x!s}^{n} = ", str(_power(x, n)), ""),
    ),
    "sales revenue": Kind(
        "去年销售额为 %s 万元，今年销售额增加了 %s%%，请计算今年的销售额。",
        _TWO_NATURALS,
        _integers,
        lambda a, b: _ratio(100 * a + a * b, 100),
        lambda a, b: ("", str(a + (a * b / 100)), ""),
    ),
    "function computation": Kind(
        "当 x = %s 时，求函数 y = %sx^%s 的值",
        {"x": DECIMAL, "a": INTEGER, "b": NATURAL},
        lambda x, factor, exponent: (Decimal(x), int(factor), int(exponent)),
        _function,
        lambda x, factor, exponent: ("函数的值为：", str(_function(x, factor, exponent)), ""),
    ),
}

CHINESE = tuple(BY_NAME)
"""The eleven Chinese kinds."""
KINDS = (*CHINESE, ENGLISH)

BY_START: dict[str, list[str]] = {}
"""Kinds by the first two characters of the problem, the likeliest first."""
for _name, _kind in BY_NAME.items():
    BY_START.setdefault(_kind.sentence[:2], []).append(_name)
_READERS = {
    start: [(name, re.compile(BY_NAME[name].pattern).fullmatch, BY_NAME[name].read) for name in names]
    for start, names in BY_START.items()
}
