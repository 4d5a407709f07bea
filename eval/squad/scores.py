"""Scores of answers under each protocol, and their means with intervals."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from converters.common.files import sha256_text
from eval.results import Z95, wilson
from eval.squad.data import Answered
from eval.squad.rules import Scores, first_line, mindformers_scores, official_scores

MEASURES = ("f1", "em")


@dataclass
class Tally:
    """Scores of one protocol's questions, and how many answers were empty or cut at the limit.

    Attributes:
        f1: F1 of every answer, 0 to 1.
        em: exact match of every answer, 0 or 1.
        empty: answers without a text.
        cut: answers that the limit ended; None where the predictions do not say.
    """

    f1: list[float] = field(default_factory=list)
    em: list[float] = field(default_factory=list)
    empty: int = 0
    cut: int | None = 0

    @property
    def n(self) -> int:
        """Questions graded."""
        return len(self.f1)

    def mean(self, measure: str) -> float:
        """Mean of ``f1`` or ``em``, in percent."""
        values = getattr(self, measure)
        return 100 * (sum(values) / len(values))

    def stderr(self, measure: str) -> float | None:
        """Standard error of that mean, in percent; None for a single question."""
        values = getattr(self, measure)
        return 100 * statistics.stdev(values) / math.sqrt(self.n) if self.n > 1 else None

    def interval(self, measure: str) -> tuple[float, float]:
        """95 % interval of the mean: Wilson's for exact match, a normal one within 0…100 for F1."""
        if measure == "em":
            low, high = wilson(int(sum(self.em)), self.n)
            return 100 * low, 100 * high
        # one question, or the same F1 for all, tells no spread: 100 gives the whole range, not a false point
        spread = Z95 * (self.stderr("f1") or 100.0)
        return max(0.0, self.mean("f1") - spread), min(100.0, self.mean("f1") + spread)


def score(answer: Answered, protocol: str) -> Scores:
    """Score one answer under a protocol, a key of ``PROTOCOLS``."""
    if protocol == "mindformers":
        return mindformers_scores(first_line(answer.text), answer.golds[0])
    return official_scores(answer.text, answer.golds)


def scores_by_task(answer: Answered, protocols: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return an answer's scores in percent as ``predictions.jsonl`` has them.

    Args:
        answer: the answer and its gold answers.
        protocols: keys of ``PROTOCOLS``.

    Returns:
        ``{"squad_official": {"f1": …, "em": …}}`` with the protocols that count the question.
    """
    return {
        f"squad_{protocol}": {name: 100 * value for name, value in score(answer, protocol)._asdict().items()}
        for protocol in protocols
        if counts(answer, protocol)
    }


def counts(answer: Answered, protocol: str) -> bool:
    """Whether a protocol counts an answer: mindformers those to the first question of a passage."""
    return answer.first if protocol == "mindformers" else answer.official


def tally(answers: Sequence[Answered], protocol: str) -> Tally:
    """Score the answers that a protocol counts."""
    counted = [answer for answer in answers if counts(answer, protocol)]
    found = Tally()
    for answer in counted:
        f1, em = score(answer, protocol)
        found.f1.append(f1)
        found.em.append(em)
    found.empty = sum(not answer.text.strip() for answer in counted)
    # a share of cut answers over half of the rows would look like one over all
    known = all(answer.finish_reason for answer in counted)
    found.cut = sum(answer.finish_reason == "length" for answer in counted) if known else None
    return found


def labels_hash(answers: Sequence[Answered]) -> str:
    """Return a hash of the first gold answers, in order: it identifies the questions in whatever file they came."""
    # CONTEST_LABELS was made from this very text: another form of JSON would change the hash
    return sha256_text(json.dumps([answer.golds[0] for answer in answers], ensure_ascii=False))[:16]
