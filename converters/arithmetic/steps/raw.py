"""``raw``: the solution as given."""

from __future__ import annotations

from converters.arithmetic.problems import CHINESE, Problem


def given(problem: Problem) -> str:
    """The row's own solution."""
    return problem.solution


STEPS = dict.fromkeys(CHINESE, given)
