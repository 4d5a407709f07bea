"""Styles of worked answers: a style is a module of this package with ``STEPS``, one function a kind.

``STEPS`` maps each Chinese kind to a function ``write(problem) -> str`` that gives the whole answer, or raises
``StepError`` with the reason why the row has none. A new style joins by its module alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from converters.arithmetic.kinds import Problem
from converters.cli import UsageError, did_you_mean

Write = Callable[[Problem], str]


def style_names() -> list[str]:
    """Names of the modules here that are styles."""
    modules = [info.name for info in pkgutil.iter_modules(__path__)]
    return [name for name in modules if hasattr(importlib.import_module(f"{__name__}.{name}"), "STEPS")]


def get_style(name: str) -> dict[str, Write]:
    """The functions of a style, by kind.

    Raises:
        UsageError: there is no such style.
    """
    names = style_names()
    if name not in names:
        raise UsageError(f"no style of steps {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    steps: dict[str, Write] = importlib.import_module(f"{__name__}.{name}").STEPS
    return steps
