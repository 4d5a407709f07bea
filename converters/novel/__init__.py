"""A novel as rows to continue: ``python -m converters.novel``, or ``convert`` from Python."""

from converters.novel.rows import convert

__all__ = ["convert"]
