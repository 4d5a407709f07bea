"""GLUE's RTE, MNLI, QQP and CoLA: ``python -m converters.glue``, or ``convert`` from Python."""

from converters.glue.rows import TASKS, convert

__all__ = ["TASKS", "convert"]
