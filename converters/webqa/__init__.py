"""WebQA, questions on evidence: ``python -m converters.webqa``, or ``convert`` from Python."""

from converters.webqa.rows import ANSWERED, NO_ANSWER, REFUSALS, REFUSED, convert, plain

__all__ = ["ANSWERED", "NO_ANSWER", "REFUSALS", "REFUSED", "convert", "plain"]
