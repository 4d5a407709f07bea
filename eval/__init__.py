"""What a model learned and what it forgot, in numbers that can be recomputed from files.

``from eval import evaluate, grade_predictions, compare``; :func:`eval.sweep.sweep`, :func:`eval.table.tabulate` and
:func:`eval.retention.retention` are built on them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.math.compare import compare
    from eval.run import Results, evaluate, grade_predictions
    from eval.task import Task

__all__ = ["Results", "Task", "compare", "evaluate", "grade_predictions"]

_HOMES = {
    "Results": "eval.run",
    "Task": "eval.task",
    "compare": "eval.math.compare",
    "evaluate": "eval.run",
    "grade_predictions": "eval.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``--help`` of every command stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
