r"""Decides when an answer refuses and when it is right, and counts a set of answers: plain text, no framework.

An answer refuses if it says, in Chinese or English, that there is no answer, that it cannot be found or given, or
that the text does not hold it: in one of the data's ten sentences, or in words that models use instead. Answers are
compared by their letters and digits only, full-width as plain, case ignored: *exact* means equal, *contained* means
that the label is part of the answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from converters.webqa import ANSWERED, NO_ANSWER, REFUSED, plain

EMPTY = "empty"
_SUBJECT = "(?:解答|答案|信息|线索|内容|问题|资料|依据|结论)"
# the gaps stop at a full stop and are short: both halves must belong to one clause to be a refusal
_REFUSAL = re.compile(
    # it cannot be answered, found, concluded …
    r"(?:无法|不能|难以|没法|未能|没能|没办法|不可能)[^。！？\n]{0,14}(?:回答|解答|找到|得出|确定|判断|得知)"
    # nothing is found
    rf"|(?:找不到|没有找到|未找到|找不出|没找到)[^。！？\n]{{0,16}}{_SUBJECT}"
    # the text does not mention, hold or give it
    rf"|(?:没有|未|并无|不(?=提供|包含|涉及))[^。！？\n]{{0,8}}(?:提到|提及|提供|包含|给出|说明|涉及|有关|相关|关于)[^。！？\n]{{0,12}}{_SUBJECT}"
    # the answer is not there
    r"|答案[^。！？\n]{0,8}(?:不可得|不在|未知|不存在)"
    # the data's own marker, at the start only: a quoted marker further on is no refusal
    rf"|^\W*{NO_ANSWER.replace('_', '[_ ]')}\b"
    r"|\b(?:cannot|can't|can not|could not|couldn't|unable to)\b[^.!?\n]{0,20}\b(?:answer|find|determine)\b"
    r"|\b(?:not (?:mentioned|provided|contained|given|stated))\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a text says that it has no answer."""
    # NFKC: full-width letters of an English refusal count as plain ones
    return bool(_REFUSAL.search(unicodedata.normalize("NFKC", text)))


def side_of(text: str) -> str:
    """Return whether a text is an answer, a refusal, or empty."""
    if not text.strip():
        return EMPTY
    return REFUSED if is_refusal(text) else ANSWERED


def grade(predict: str, label: str) -> dict[str, Any]:
    """Grade an answer.

    If the label refuses, every refusal is right whatever its words; otherwise a refusal is wrong.

    Args:
        predict: what the model answered.
        label: the right answer, or a refusal.

    Returns:
        ``wanted`` and ``given``: the side (:func:`side_of`) of label and answer; ``correct``: ``exact`` and
        ``contained``.
    """
    wanted, given = side_of(label), side_of(predict)
    # a refusal has no wording to get right, so both measures agree
    if wanted == REFUSED:
        right = given == REFUSED
        return {"wanted": wanted, "given": given, "correct": {"exact": right, "contained": right}}
    # an answer of signs alone, such as %, has no letter or digit: then the text itself is compared
    ours, theirs = plain(predict) or predict.strip(), plain(label) or label.strip()
    exact = given == ANSWERED and ours == theirs
    return {
        "wanted": wanted,
        "given": given,
        "correct": {"exact": exact, "contained": exact or (given == ANSWERED and theirs in ours)},
    }


@dataclass
class Counts:
    """Counts of rows by side of label and answer, and of right answers."""

    confusion: dict[str, dict[str, int]] = field(
        default_factory=lambda: {side: dict.fromkeys((ANSWERED, REFUSED, EMPTY), 0) for side in (ANSWERED, REFUSED)}
    )
    exact: int = 0
    contained: int = 0
    right: int = 0
    """Exact answers, and refusals where the label refuses."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Counts:
        """Count graded rows."""
        counts = cls()
        for row in rows:
            counts.confusion[row["wanted"]][row["given"]] += 1
            counts.right += row["correct"]["exact"]
            if row["wanted"] == ANSWERED:
                counts.exact += row["correct"]["exact"]
                counts.contained += row["correct"]["contained"]
        return counts

    def labelled(self, side: str) -> int:
        """Rows whose label is on this side."""
        return sum(self.confusion[side].values())

    @property
    def n(self) -> int:
        """All rows."""
        return self.labelled(ANSWERED) + self.labelled(REFUSED)

    @property
    def both_answered(self) -> int:
        """Rows that have an answer and were answered."""
        return self.confusion[ANSWERED][ANSWERED]

    def measures(self) -> dict[str, tuple[int, int]]:
        """Return each measure as ``(count, rows it is a share of)``; ``MEANING`` says what they are."""
        answerable, unanswerable = self.labelled(ANSWERED), self.labelled(REFUSED)
        return {
            "side": (self.both_answered + self.confusion[REFUSED][REFUSED], self.n),
            "right": (self.right, self.n),
            # out of the rows answered on both sides: refusing is measured on its own and must not count twice
            "exact": (self.exact, self.both_answered),
            "contained": (self.contained, self.both_answered),
            "refused_needlessly": (self.confusion[ANSWERED][REFUSED], answerable),
            "answered_without_evidence": (self.confusion[REFUSED][ANSWERED], unanswerable),
        }


MEANING = {
    "side": "answered or refused as the label does",
    "right": "the exact answer, or a refusal where the label refuses",
    "exact": "the label itself, of the rows that have an answer and were answered",
    "contained": "has the label inside, of the same rows",
    "refused_needlessly": "of the rows that have an answer",
    "answered_without_evidence": "of the rows that have none",
}
"""Meaning of each of :meth:`Counts.measures`, printed beside its figure."""
