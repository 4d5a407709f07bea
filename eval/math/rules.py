r"""Find the answer in a text and compare it with the label: pure text and ``decimal``, no framework.

Two questions are kept apart. ``parse`` asks *what is the answer of this text*; a rule of ``RULES`` asks *is it
right*. Both are applied to the label as well, so a label may be a whole worked solution.

Where the answer stands, the first that applies:

1. after the last answer marker (``答案：``, ``####``, ``最简化的形式为：`` …) or inside the last ``\boxed{…}``,
   whichever comes later. A marker with nothing behind it is a text that was cut before its answer: unparsed.
2. otherwise the last number of the text.

A number is ``-12``, ``.5``, ``3.20``, ``1.5E+34``, ``2e-5``, ``1.5×10^34`` or a fraction ``p/q``. A comma is never
part of a number (the data has no thousands separators); what follows a number is its unit and is ignored; the ``2``
of ``cm^2`` or ``x2`` is not a number. A minus after a digit, a letter or a bracket subtracts: ``3-5`` ends in ``5``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation

# Differences of 28-digit labels must come out exactly: the default context would round them.
_EXACT = Context(prec=80, Emax=999_999, Emin=-999_999)

# full-width digits and signs, and two other minus signs, become the ASCII ones that the patterns below expect
_CANONICAL = str.maketrans("０１２３４５６７８９：．－＋／−–", "0123456789:.-+/--")
# LaTeX allows \frac12 without braces, for one digit each
_FRAC = re.compile(r"\\[dt]?frac\s*\{?\s*(\d+)\s*\}?\s*\{\s*(\d+)\s*\}|\\[dt]?frac\s*(\d)(\d)")
_NUMBER = re.compile(
    r"""
    (?: (?<![0-9A-Za-z_.)\]}]) [-+] )?            # a sign, unless it subtracts
    (?<![0-9A-Za-z_.^]) (?<!\^\{)                 # not inside a word, a number or a power
    (?: (?P<fraction> \d+/\d+ ) (?! \d | \.\d )
      | (?: \d+ (?: \.\d+ )? | \.\d+ )
        (?: [eE] [-+]? \d+
          | \s* (?: × | \\times | \* ) \s* 10 \s* \^ \s* \{? (?P<power> [-+]? \d+ ) \}? )?
    )
    """,
    re.VERBOSE | re.ASCII,
)
_MARKER = re.compile(
    r"(?:答案|计算结果|最简化的形式|方程的解|函数的值|平均值|面积)\s*(?:是\s*:?|为\s*:?|:)"
    r"|\#{4}|\banswer\s*(?:is\b\s*:?|:)",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LATEX_TEXT = re.compile(r"\\(?:text|mbox|textrm|mathrm)\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?")
_LATEX_LAYOUT = re.compile(r"\\left|\\right|\\[!,;: ]|\\\$|\$|\s|\^\s*\{?\\circ\}?")
# a unit behind the number of a box: %, degrees, Chinese words such as 平方厘米
_BOXED_UNIT = re.compile(r"(?:\\?%|°|[\u4e00-\u9fff])[\u4e00-\u9fff/]*$")


@dataclass(frozen=True, slots=True)
class Parsed:
    r"""An answer found in a text.

    Attributes:
        text: the answer as written, tidied: ``-0.5556``, ``2/5``, ``7\sqrt{5}``.
        value: its value; ``None`` for an expression, which can only be compared as text.
        fraction: whether it is written as ``p/q``.
    """

    text: str
    value: Decimal | None
    fraction: bool = False


def parse(text: str) -> Parsed | None:
    """Return the answer of a text, or None if it has none.

    Args:
        text: an answer or a whole worked solution; the module's docstring says where the answer is looked for.
    """
    text = text.translate(_CANONICAL)
    marker = _last(_MARKER, text)
    boxed = _last(_BOXED, text)
    # compared before fractions are rewritten: that changes the length of the text and so every position
    if boxed and (marker is None or boxed.start() > marker.start()):
        return _parse_boxed(_inside_braces(text, boxed.end()))
    text = _plain_fractions(text)
    # searched again, since rewriting the fractions has moved it
    if marker := _last(_MARKER, text):
        # the first line with something in it: what follows the answer may hold other numbers
        line = next((line for line in text[marker.end() :].splitlines() if line.strip()), "")
        return _to_parsed(_after_last_equals(line) or _NUMBER.search(line))
    return _to_parsed(_last(_NUMBER, text))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


def _after_last_equals(line: str) -> re.Match[str] | None:
    """Match the number right of the last ``=`` that has one: ``3x = 15, x = 5`` answers ``5``."""
    for equals in reversed([match.end() for match in re.finditer(r"=\s*", line)]):
        if match := _NUMBER.match(line, equals):
            return match
    return None


def _plain_fractions(text: str) -> str:
    return _FRAC.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", text)


def _inside_braces(text: str, start: int) -> str:
    """Return the text from ``start`` to the brace that closes it; to the end if the text was cut before."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return text[start:]


def _parse_boxed(content: str) -> Parsed | None:
    r"""Parse the inside of ``\boxed{…}``: a number if it is nothing but one (and a unit), else an expression."""
    content = _LATEX_LAYOUT.sub("", _LATEX_TEXT.sub("", content))
    content = _plain_fractions(content)
    # \boxed{x = 5} answers 5
    bare = _BOXED_UNIT.sub("", content.rsplit("=", 1)[-1])
    if match := _NUMBER.fullmatch(bare):
        return _to_parsed(match)
    return Parsed(content, None) if content else None


def _to_parsed(match: re.Match[str] | None) -> Parsed | None:
    if match is None:
        return None
    # two fractions are compared as text, where +2/5 and 2/5 would differ
    text = match[0].removeprefix("+")
    try:
        if match["fraction"]:
            numerator, denominator = text.split("/")
            return Parsed(text, _EXACT.divide(Decimal(numerator), Decimal(denominator)), fraction=True)
        if match["power"]:
            # the sign and digits end where the times sign begins
            mantissa = re.match(r"[-+]?[0-9.]+", text)
            assert mantissa is not None
            return Parsed(text, _finite(f"{mantissa[0]}E{match['power']}"))
        return Parsed(text, _finite(text))
    except (InvalidOperation, ZeroDivisionError):  # 1/0, or an exponent beyond any number
        return Parsed(text, None)


def _finite(text: str) -> Decimal:
    value = Decimal(text)
    if abs(value.adjusted()) > 900_000:  # keeps every later sum and product inside _EXACT
        raise InvalidOperation
    return value


def _exact(answer: Decimal, label: Decimal) -> bool:
    # digits that a float cannot hold make no difference; values beyond any float are not equal for both being inf
    return answer == label or (float(answer) == float(label) and abs(float(label)) != float("inf"))


def _close(answer: Decimal, label: Decimal) -> bool:
    # numpy.isclose with atol=1e-2 and its default rtol: the tolerance that published results of the contest used
    tolerance = _EXACT.fma(Decimal("1e-5"), label.copy_abs(), Decimal("1e-2"))
    return _EXACT.subtract(answer, label).copy_abs() <= tolerance


def _sig4(answer: Decimal, label: Decimal) -> bool:
    # 0 has no significant digit, so no unit to take half of
    if label == 0:
        return answer == 0
    # adjusted() is the exponent of the first digit a, so the fourth is worth 10^(a-3); half of it is 5·10^(a-4)
    half_unit = Decimal(5).scaleb(label.adjusted() - 4)
    return _EXACT.subtract(answer, label).copy_abs() <= half_unit


_NUMERIC: dict[str, Callable[[Decimal, Decimal], bool]] = {"exact": _exact, "close": _close, "sig4": _sig4}

RULES: dict[str, str] = {
    "exact": "the same float",
    "close": "|answer - label| <= 1e-2 + 1e-5 * |label|",
    "sig4": "the label to four significant digits: |answer - label| <= half a unit of the label's fourth digit",
}


def is_right(answer: Parsed | None, label: Parsed, rule: str) -> bool:
    r"""Return whether an answer is right under one of ``RULES``.

    Numbers are compared by value under the rule. ``sig4`` is half a unit rather than two rounded numbers being
    equal, so that a label rounded to four digits or more is right wherever its fifth digit lies.

    A fraction as label asks for lowest terms. An answer that is a fraction too must be the same ``p/q`` under every
    rule: repeating ``4/10`` is not an answer to it. A decimal (``0.4`` for ``2/5``) has the value but not the form:
    right under ``close`` and ``sig4``, wrong under ``exact``.

    Expressions (``7\sqrt{5}``) are compared as text under every rule. A missing answer is wrong.

    Args:
        answer: what :func:`parse` found in the model's text.
        label: what it found in the solution.
        rule: a key of ``RULES``.
    """
    if answer is None:
        return False
    if answer.value is None or label.value is None or (answer.fraction and label.fraction):
        return answer.text == label.text
    if label.fraction and rule == "exact":
        return False
    return _NUMERIC[rule](answer.value, label.value)


def grade(answer: Parsed | None, label: Parsed) -> dict[str, bool]:
    """Grade an answer under every rule: ``{"exact": …, "close": …, "sig4": …}``."""
    return {rule: is_right(answer, label, rule) for rule in RULES}
