"""Styles of worked answers: a style is a module of this package with ``STEPS``, one function a kind.

``STEPS`` maps each Chinese kind to a function ``write(problem) -> str`` that gives the whole answer, or raises
``StepError`` with the reason why the row has none. A style that works to different precisions has their names in
``PRECISIONS``, from the longest rows to the shortest, its own choice in ``DEFAULT``, and functions
``write(problem, precision)``. A new style joins by its module alone.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from converters.arithmetic.problems import Problem
from converters.arithmetic.steps.digits import ANSWER
from converters.common.errors import UsageError, did_you_mean

Write = Callable[[Problem], str]

PLAIN, CELLS, SPACED = "plain", "cells", "spaced"
DIGITS = (PLAIN, CELLS, SPACED)
"""How the digits of columns stand: as written; a space between cells of two digits; a space between any two digits."""
DEFAULT = "worked"
"""The style of new data: of those here, the one that models learn the most from (docs/steps.md)."""
# a line of whole equations, such as a running sum
_EQUATIONS = re.compile(r"(\S+=\S+ )+\S+=\S+")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?=\d)")
# the two-digit cells of a product, up to the cells of the running total or the end of the line
_CELLS = re.compile(r"(?<=:)(?:\d\d)+(?=;|$)", re.MULTILINE)
_BETWEEN_CELLS = re.compile(r"(?<=\d\d)(?=(?:\d\d)+$)")


@dataclass(frozen=True)
class Style:
    """How answers are written: the style's name, its precision and how digits stand. Workers are sent this."""

    name: str
    precision: str | None = None
    """None where the style has but one."""
    digits: str = PLAIN

    def shortened(self) -> list[Style]:
        """Return this style and then its shorter precisions, in the order tried for rows that are too long."""
        names = precision_names(self.name)
        if self.precision is None:
            return [self]
        return [Style(self.name, name, self.digits) for name in names[names.index(self.precision) :]]


def style_names() -> list[str]:
    """Names of the modules here that are styles."""
    modules = [info.name for info in pkgutil.iter_modules(__path__)]
    # digits, precision and scientific are helpers and have no STEPS
    return [name for name in modules if hasattr(_module(name), "STEPS")]


def precision_names(name: str) -> tuple[str, ...]:
    """Precisions of a style, from the longest rows to the shortest; none where it has but one."""
    names: tuple[str, ...] = getattr(_module(name), "PRECISIONS", ())
    return names


def choose_style(name: str, precision: str | None = None, digits: str = PLAIN) -> Style:
    """Check a choice of style, precision and digits, and return it as a Style.

    Args:
        name: a name from ``style_names()``.
        precision: one of the style's precisions; None for the style's default.
        digits: one of DIGITS; anything but PLAIN needs a style that works in digit columns.

    Raises:
        UsageError: there is no such style, or it has no such choice.
    """
    names = style_names()
    if name not in names:
        raise UsageError(f"no style of steps {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    known = precision_names(name)
    if precision is not None and precision not in known:
        have = [style for style in names if precision_names(style)]
        raise UsageError(f"--steps {name} has no --precision {precision}; the styles that have are {', '.join(have)}")
    if digits != PLAIN and not getattr(_module(name), "COLUMNS", False):
        raise UsageError(f"--steps {name} has no digit columns that --digits {digits} could space; --steps worked has")
    return Style(name, precision or getattr(_module(name), "DEFAULT", None), digits)


def get_style(style: Style | str) -> dict[str, Write]:
    """Return the functions that write a style's answers, by kind of problem.

    Args:
        style: a style, or a name for that style with its default precision and plain digits.

    Raises:
        UsageError: there is no such style.
    """
    style = choose_style(style) if isinstance(style, str) else style
    steps: dict[str, Callable[..., str]] = _module(style.name).STEPS
    if style.precision is not None:
        steps = {kind: partial(write, precision=style.precision) for kind, write in steps.items()}
    if style.digits != PLAIN:
        return {kind: partial(_write_spaced, write, style.digits) for kind, write in steps.items()}
    return steps


def spaced(answer: str, digits: str = SPACED) -> str:
    """Put spaces into the columns of an answer, for tokenizers that take several digits as one token.

    Lines of whole equations, such as running sums, stay as they are: they are not worked digit by digit.

    Args:
        answer: steps and value as the style writes them.
        digits: ``cells`` keeps the two digits of a product's column together, so that no token reaches from one column
            into the next; ``spaced`` makes every digit a token of its own.

    Returns:
        The answer with spaced steps; the value behind ``答案：`` is unchanged.
    """
    # the value is kept out of it: graders read it, whatever the style of the steps
    work, marker, value = answer.rpartition(ANSWER)
    if digits == CELLS:
        return _CELLS.sub(lambda cells: _BETWEEN_CELLS.sub(" ", cells[0]), work) + marker + value
    lines = [line if _EQUATIONS.fullmatch(line) else _BETWEEN_DIGITS.sub(" ", line) for line in work.split("\n")]
    return "\n".join(lines) + marker + value


def _write_spaced(write: Write, digits: str, problem: Problem) -> str:
    return spaced(write(problem), digits)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
