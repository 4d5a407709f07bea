"""Rows as ``eval.math`` writes them, for the tests of what is made of them."""

from eval.math.task import MathTask
from eval.task import Row


def prediction_row(idx, kind, prompt, predict, label, finish_reason, n_tokens):
    """Make the graded row of one answer."""
    row = Row(idx, (), label, {"kind": kind}).answered(prompt, predict)
    return {**row, **MathTask().grade_row(row), "finish_reason": finish_reason, "n_tokens": n_tokens}
