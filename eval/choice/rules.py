r"""Find which of a few choices a text names, and measure a set of such answers: pure text and counts, no framework.

The rule is *the first whole word that is a choice*. ``no`` is not in ``know``, ``not`` or ``no-one``; ``1`` is not in
``10``, ``1.5`` or ``-1``. Case is ignored, but a choice of one capital letter must be a capital, so that the article
of ``a dog`` is not choice A. Beside a Chinese character a Latin word or a digit still ends (``答案是A``); a choice
that is itself Chinese must stand alone (``不是`` is not ``是``). Full-width letters and digits count as their plain
forms. Of choices that begin at the same place the longest is taken. Where nothing is found the answer is unparsed,
which is wrong.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from converters.common.errors import UsageError

UNPARSED = "unparsed"

# kana, CJK with extension A, Hangul, compatibility forms: beside them a Latin word needs no space
_CHINESE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CHINESE_CHAR = re.compile(f"[{_CHINESE}]")
# how QQP, RTE and their like write the class that is looked for
_POSITIVE = ("1", "yes", "true")


@dataclass(frozen=True)
class Choices:
    """The possible answers of a task.

    Attributes:
        names: the choices as the data write them, two or more.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise UsageError(f"at least two choices are expected, found {', '.join(self.names) or 'none'}")
        seen: dict[str, str] = {}
        for name in self.names:
            # a sign alone has no edge where a word could end
            if not any(char.isalnum() for char in name):
                raise UsageError(f"the choice {name!r} has no letter and no digit")
            if _canonical(name) in seen:
                raise UsageError(f"the choices {seen[_canonical(name)]!r} and {name!r} cannot be told apart")
            seen[_canonical(name)] = name
        # files of labels write this word where no choice was found
        if UNPARSED in seen:
            raise UsageError(f"{UNPARSED!r} cannot be a choice: it is how answers that name none are counted")

    @classmethod
    def of(cls, text: str) -> Choices:
        """Return the choices of a comma-separated list, ``yes,no,maybe``."""
        return cls(tuple(name.strip() for name in text.split(",") if name.strip()))

    @property
    def positive(self) -> str | None:
        """The class whose F1 is reported if none is named: ``1``, ``yes`` or ``true``; None without such a class."""
        return next((name for name in self.names if _canonical(name) in _POSITIVE), None)

    def find(self, text: str) -> str | None:
        """Return the first whole word of the text that is a choice, as the data write it; None if there is none."""
        match = self._pattern.search(unicodedata.normalize("NFKC", text))
        return self._by_canonical[_canonical(match[0])] if match else None

    @cached_property
    def _by_canonical(self) -> dict[str, str]:
        return {_canonical(name): name for name in self.names}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # an alternation takes its first match: "not sure" must be tried before "not"
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile("|".join(_whole_word(name) for name in longest_first), re.IGNORECASE)


def _canonical(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _whole_word(name: str) -> str:
    """Return the pattern of a choice as a whole word."""
    words = unicodedata.normalize("NFKC", name).split()
    body = r"\s+".join(map(re.escape, words))
    # a single capital keeps its case: the article "a" is not choice A
    if len(name) == 1 and name.isupper():
        body = f"(?-i:{body})"
    before, after = _neighbour(words[0][0]), _neighbour(words[-1][-1])
    # a digit after a sign or a decimal point belongs to a longer number; a word after a hyphen to a longer word
    number = r"(?<![-+−])(?<!\d[.,])" if words[0][0].isdigit() else f"(?<!{before}-)"
    # likewise at the end: the 1 of 1.5 or 1,000 is no choice
    decimals = r"(?![.,]\d)" if words[-1][-1].isdigit() else ""
    return f"(?<!{before}){number}{body}(?!-?{after}){decimals}"


def _neighbour(edge: str) -> str:
    """Return a regex class of the characters that would continue a word whose first or last character is ``edge``."""
    return f"[{_CHINESE}]" if _CHINESE_CHAR.match(edge) else rf"[^\W{_CHINESE}]"


@dataclass(frozen=True)
class Scores:
    """Counts of labels and answers, and the measures computed from them (k choices).

    Attributes:
        choices: names of the classes.
        confusion: counts [k, k + 1]: one row per label, one column per answer, the last for unparsed answers.
    """

    choices: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, choices: Choices, pairs: Iterable[tuple[str, str | None]]) -> Scores:
        """Count answers by label.

        Args:
            choices: the possible answers.
            pairs: ``(label, answer)``, both names of choices; an answer of None is unparsed.
        """
        counts = Counter(pairs)
        columns = (*choices.names, None)
        return cls(choices.names, tuple(tuple(counts[label, one] for one in columns) for label in choices.names))

    @property
    def n(self) -> int:
        """Rows with a label."""
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        """Rows whose answer is their label."""
        return sum(self.confusion[i][i] for i in range(len(self.choices)))

    @property
    def unparsed(self) -> int:
        """Rows whose answer names no choice."""
        return sum(row[-1] for row in self.confusion)

    @property
    def accuracy(self) -> float:
        """Share of right rows, 0 to 1; the unparsed count as wrong."""
        return self.right / self.n if self.n else 0.0

    @property
    def commonest(self) -> tuple[str, float]:
        """The commonest label, and the accuracy of always answering it: the baseline that a model must beat."""
        labels = [sum(row) for row in self.confusion]
        most = max(range(len(labels)), key=labels.__getitem__)
        return self.choices[most], labels[most] / self.n if self.n else 0.0

    def labelled(self, i: int) -> int:
        """Rows whose label is class ``i``."""
        return sum(self.confusion[i])

    def answered(self, i: int) -> int:
        """Rows whose answer is class ``i``."""
        return sum(row[i] for row in self.confusion)

    def precision(self, i: int) -> float | None:
        """Share of the answers ``i`` that are right; None if it is never answered."""
        return self.confusion[i][i] / self.answered(i) if self.answered(i) else None

    def recall(self, i: int) -> float | None:
        """Share of the labels ``i`` that are found; None if there is no such label."""
        return self.confusion[i][i] / self.labelled(i) if self.labelled(i) else None

    def f1(self, i: int) -> float | None:
        """Harmonic mean of precision and recall, 2·TP / (labels + answers); None if class ``i`` occurs nowhere."""
        # this form also holds where precision or recall alone is not defined
        total = self.labelled(i) + self.answered(i)
        return 2 * self.confusion[i][i] / total if total else None

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur as a label or as an answer, each counting the same."""
        found = [one for i in range(len(self.choices)) if (one := self.f1(i)) is not None]
        return sum(found) / len(found) if found else 0.0

    @property
    def mcc(self) -> float:
        """Matthews correlation of answers and labels, −1 to 1, for any number of classes (Gorodkin 2004).

        The unparsed are an answer of their own, which no label is. 0 where all labels or all answers are the same.
        """
        n, right = self.n, self.right
        labels = [sum(row) for row in self.confusion]
        answers = [sum(column) for column in zip(*self.confusion, strict=True)]
        # not strict: answers has the unparsed column besides, which no label can match
        both = sum(label * answer for label, answer in zip(labels, answers, strict=False))
        # 0 if one class holds all labels or all answers: then the correlation is not defined and counts as none
        spread = (n * n - sum(one * one for one in labels)) * (n * n - sum(one * one for one in answers))
        return (right * n - both) / math.sqrt(spread) if spread else 0.0


def label_of(text: str | None, choices: Choices) -> str | None:
    """Return the choice that a label names, as the choices spell it; None if the label is empty or missing.

    Raises:
        UsageError: there is a text, but it names no choice.
    """
    if text is None or not text.strip():
        return None
    found = choices.find(text)
    if found is None:
        raise UsageError(f"the label {text.strip()[:60]!r} is none of {', '.join(choices.names)}")
    return found


def choices_of(labels: Sequence[str]) -> Choices:
    """Return the distinct labels of a data set as choices, the most frequent first.

    Raises:
        UsageError: the labels are not 2 to 20 short texts.
    """
    counts = Counter(label.strip() for label in labels if label.strip())
    # more or longer texts are free answers: every one would become a class of its own
    if not 2 <= len(counts) <= 20 or max(map(len, counts)) > 40:
        what = f"{len(counts)} different answers" if counts else "no answers"
        raise UsageError(f"{what} in {len(labels)} rows are no set of choices; name them with --choices")
    return Choices(tuple(name for name, _ in counts.most_common()))
