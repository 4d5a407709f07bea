"""Errors that end a command: each has an exit code, and a message of one or two lines that says what to do."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """A failure the user can mend; the message is one or two lines: what, where, what to do."""

    exit_code = 1


class UsageError(UserError):
    """Wrong use: a missing or empty input, or an invalid argument."""

    exit_code = 2


class GateNotPassed(UserError):
    """A measured figure is under the threshold the user set."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or an empty string."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of a framework's error that says something; rules of dashes do not."""
    return next((line.strip() for line in str(error).splitlines() if line.strip(" -")), type(error).__name__)
