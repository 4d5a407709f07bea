"""WebQA as conversations that answer from a given text, or refuse where the answer is not in it.

Each evidence of a question is one row; ``no_answer`` becomes one of ten refusals. A model that sees mostly refusals
refuses too often: ``--refusal-share`` sets their share, and where the data has too few, ``--make-unanswerable`` pairs
questions with evidence that lacks their answer.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from converters.common.errors import UsageError, UserError
from converters.common.reader import MalformedRow, decode_text, parse_json
from converters.pipeline.output import OutputOptions
from converters.pipeline.rows import Intake, Row, RowError
from converters.pipeline.source import Source

if TYPE_CHECKING:
    from converters.pipeline.conversion import QuotaRule, Report

NO_ANSWER = "no_answer"
REFUSALS = (
    "抱歉，根据您所给的内容，我无法找到有关问题的答案",
    "给定的信息中似乎没有提到问题的答案",
    "根据提供的内容，我无法找到问题的相关信息",
    "根据您提供的上下文，我找不到与问题相关的答案",
    "给定的信息中似乎没有与问题有关的信息",
    "根据上述内容，我难以找到问题的解答",
    "据我所知，问题的答案不在提供的信息中",
    "根据上述信息，问题的答案似乎不可得",
    "给定的上下文似乎没有包含问题的答案",
    "给定的信息中似乎没有与问题有关的线索",
)
ANSWERED, REFUSED = KINDS = ("answered", "refused")
LOPSIDED = 0.6
"""From this share on a model learns which side is commoner rather than when to refuse."""
CANDIDATES = 16
"""Evidences that are looked at for one made unanswerable row; the one most like the question is taken."""
EXAMPLE = '{"Q_1": {"question": "…", "evidences": {"Q_1#00": {"answer": ["no_answer"], "evidence": "…"}}}}'


@dataclass(frozen=True)
class Evidence:
    """One text of one question; no ``answers`` means that it has none."""

    number: int
    id: str
    question_id: str
    question: str
    text: str
    answers: tuple[str, ...]


def convert(
    data: str | Path,
    output: OutputOptions,
    *,
    refusal_share: float | None = None,
    evidences: Literal["separate", "voted"] = "separate",
    make_unanswerable: bool = False,
) -> Report:
    """Convert WebQA's JSON.

    Args:
        data: the file (me_train.json, me_*.ann.json, me_*.ir.json), gzip too; ``-`` is stdin.
        output: how rows are chosen and written.
        refusal_share: the share of refusals, 0 to 1; None leaves it as it is in the data.
        evidences: ``separate``: one row an evidence; ``voted``: one row a question, with the answer that most of its
            evidences give and the first of these.
        make_unanswerable: for each answered row, make a refused one of the same question with another's evidence.

    Raises:
        UsageError: the share or an option is invalid, or there is no such file.
        UserError: it is not WebQA's JSON, too many rows are rejected, or there are fewer than asked for.
    """
    # imported here because it needs numpy, which --help does without
    from converters.pipeline.conversion import convert as convert_rows

    if refusal_share is not None and not 0 <= refusal_share <= 1:
        raise UsageError(f"--refusal-share is {refusal_share}; 0 to 1 is expected")

    def read(source: Source, intake: Intake) -> Iterator[Row]:
        found = read_evidences(source, intake)
        chosen = list(vote(found, intake) if evidences == "voted" else found)
        made = list(unanswerable(chosen, output.seed, intake)) if make_unanswerable else []
        return ask_rows(chosen, made, output.seed, refusal_share is not None, intake)

    return convert_rows(
        data,
        output,
        KINDS,
        read,
        expected=f"WebQA's JSON, such as {EXAMPLE}",
        array=False,
        settings={
            "refusal_share": refusal_share,
            "evidences": evidences,
            "make_unanswerable": make_unanswerable,
        },
        quota_rule=None if refusal_share is None else share_rule(refusal_share),
    )


def read_evidences(source: Source, intake: Intake) -> Iterator[Evidence]:
    """Yield the evidences of WebQA's JSON object, numbered from 1.

    Args:
        source: the opened file.
        intake: counts evidences as rows and takes the broken ones; a broken question counts as one row.

    Raises:
        UserError: the file is not such an object.
    """
    try:
        # half of a surrogate pair is the fault of one text, and rejects its row alone
        data = parse_json(decode_text(source.read()), allow_surrogates=True)
    except MalformedRow as error:
        raise UserError(f"{source.name}: {error}; expected such as {EXAMPLE}") from None
    if not isinstance(data, dict) or not any(isinstance(one, dict) and "evidences" in one for one in data.values()):
        found = f"the keys {', '.join(map(repr, list(data)[:3]))}" if isinstance(data, dict) else type(data).__name__
        raise UserError(f"{source.name}: found {found}; expected question ids, such as {EXAMPLE}")
    for question_id, value in data.items():
        try:
            question, evidences = _question(value)
        except RowError as error:
            intake.rows_in += 1
            intake.reject(intake.rows_in, RowError(error.reason, f"{question_id}: {error.detail}"), value)
            continue
        for evidence_id, one in evidences.items():
            intake.rows_in += 1
            try:
                _whole(evidence_id, "the id")
                text, answers = _evidence(one)
            except RowError as error:
                intake.reject(intake.rows_in, RowError(error.reason, f"{evidence_id}: {error.detail}"), one)
                continue
            yield Evidence(intake.rows_in, evidence_id, question_id, question, text, answers)


def _question(value: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise RowError("not an object", f"found {type(value).__name__}")
    for key in ("question", "evidences"):
        if key not in value:
            raise RowError("missing key", f"no {key}; found {', '.join(map(repr, value)) or 'no key'}")
    if not isinstance(value["evidences"], dict):
        raise RowError("not an object", f"evidences is {type(value['evidences']).__name__}")
    return _text(value, "question"), value["evidences"]


def _evidence(value: Any) -> tuple[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise RowError("not an object", f"found {type(value).__name__}")
    answer = value.get("answer")
    if not isinstance(answer, list) or not answer or not all(isinstance(one, str) and one.strip() for one in answer):
        shown = json.dumps(answer, ensure_ascii=False)
        raise RowError("no answer", f"answer is {shown}; expected a list of texts, or [{NO_ANSWER!r}]")
    answers = tuple(dict.fromkeys(_whole(one.strip(), "answer") for one in answer))
    if NO_ANSWER in answers and len(answers) > 1:
        raise RowError("answer and no answer", f"answer is {json.dumps(answer, ensure_ascii=False)}")
    return _text(value, "evidence"), () if NO_ANSWER in answers else answers


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise RowError("not a string", f"{key} is {type(text).__name__}")
    if not text.strip():
        raise RowError("empty text", f"{key} is empty")
    return _whole(text, key)


def _whole(text: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("broken text", f"{key} has half of a surrogate pair") from None
    return text


def vote(evidences: Iterable[Evidence], intake: Intake) -> Iterator[Evidence]:
    """Yield for each question the first evidence whose answer most of its evidences give.

    Evidences without an answer have no vote, unless none has one; of equals the earlier answer wins.
    """
    by_question: dict[str, list[Evidence]] = {}
    for one in evidences:
        by_question.setdefault(one.question_id, []).append(one)
    for group in by_question.values():
        votes = Counter(answer for one in group for answer in one.answers)
        # max takes the first of equals, and a Counter keeps the order of insertion
        won = max(votes, key=votes.__getitem__) if votes else None
        chosen = next(one for one in group if won is None or won in one.answers)
        intake.dropped["another evidence of the same question was taken"] += len(group) - 1
        yield replace(chosen, answers=(won,) if won else ())


def instruction(question: str, evidence: str) -> str:
    """Write the question as it is asked: the evidence first, in the wording that models for WebQA are trained with."""
    return f"请根据给定下文：{evidence}\n告诉我{question}\n"


def refusal(row_id: str, seed: int) -> str:
    """Choose one of REFUSALS: always the same for the same row id and seed, wherever the row stands."""
    digest = hashlib.sha256(f"{seed}:{row_id}".encode()).digest()
    return REFUSALS[int.from_bytes(digest[:8], "big") % len(REFUSALS)]


def plain(text: str) -> str:
    """Normalise a text for comparing: Unicode NFKC, case folded, letters and digits only."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())


def contains(text: str, answer: str) -> bool:
    """Return whether an answer stands in a text, ignoring spaces, punctuation and case."""
    # an answer of signs alone has no plain form and is looked for as it is written
    return (plain(answer) or answer) in (plain(text) if plain(answer) else text)


def unanswerable(evidences: list[Evidence], seed: int, intake: Intake) -> Iterator[Evidence]:
    """Yield for each answered evidence its question with another question's text that lacks every known answer.

    Of CANDIDATES texts drawn by seed, the one that shares most pairs of characters with the question is taken: a text
    of another subject would be too easy to refuse.

    Args:
        evidences: all evidences of the data.
        seed: the same seed draws the same texts.
        intake: counts questions for which no text was found.
    """
    known: dict[str, set[str]] = {}
    for one in evidences:
        known.setdefault(one.question_id, set()).update(filter(None, map(plain, one.answers)))
    # two ids may ask the same
    texts = [(other.question, other, plain(other.text)) for other in evidences]
    pairs = [_pairs(text) for _, _, text in texts]
    for one in evidences:
        if not one.answers:
            continue
        # of its own for each row, so that a row's pair does not depend on which others are in the file
        draw = random.Random(f"{seed}:{one.id}")
        wanted, best, most = _pairs(plain(one.question)), None, -1
        for place in draw.sample(range(len(texts)), min(CANDIDATES, len(texts))):
            question, other, text = texts[place]
            if question == one.question or any(answer in text for answer in known[one.question_id]):
                continue
            if (shared := len(wanted & pairs[place])) > most:
                best, most = other, shared
        if best is None:
            intake.dropped["made unanswerable: no text without the answer was drawn"] += 1
            continue
        yield Evidence(one.number, f"{one.id}+{best.id}", one.question_id, one.question, best.text, ())


def _pairs(text: str) -> set[str]:
    return {text[i : i + 2] for i in range(len(text) - 1)}


def ask_rows(
    evidences: list[Evidence], made: list[Evidence], seed: int, balanced: bool, intake: Intake
) -> Iterator[Row]:
    """Yield each evidence as a question with its answer or a refusal; those made unanswerable come last.

    Args:
        evidences: the data's own.
        made: those made unanswerable.
        seed: of the choice among the refusals.
        balanced: whether the share of refusals is set, so that a lopsided one need not be warned of.
        intake: takes figures and notes.
    """
    rows = [*evidences, *made]
    refused = sum(not one.answers for one in rows)
    several = sum(len(one.answers) > 1 for one in rows)
    # only reported, not rejected: the answer may still be right, in other words than the evidence
    unsupported = sum(not any(contains(one.text, answer) for answer in one.answers) for one in rows if one.answers)
    intake.figures["evidence"] = {
        "made_unanswerable": len(made),
        "several_answers": several,
        "answer_not_in_evidence": unsupported,
    }
    if several:
        intake.notes.append(f"{several:,} evidences have several answers; the first is taken")
    if unsupported:
        intake.notes.append(f"{unsupported:,} answers do not stand in their evidence as they are written")
    if rows and not balanced and max(refused, len(rows) - refused) > LOPSIDED * len(rows):
        kind = REFUSED if refused > len(rows) - refused else ANSWERED
        hint = "--refusal-share balances them" + ("" if refused else ", --make-unanswerable makes refusals")
        intake.notes.append(
            f"warning: {max(refused, len(rows) - refused) / len(rows):.1%} of the rows are {kind}; a model trained on "
            f"them leans that way ({hint})"
        )
    for one in rows:
        question, group = instruction(one.question, one.text), one.question_id
        if one.answers:
            yield Row(ANSWERED, one.id, question, one.answers[0], group=group)
        else:
            yield Row(REFUSED, one.id, question, refusal(one.id, seed), group=group)


def share_rule(share: float) -> QuotaRule:
    """Make the rule for how many answered and refused rows are taken.

    Where no number of rows is asked for, the rule takes as many as the share allows.

    Args:
        share: of the refused rows, 0 to 1.

    Returns:
        The rule; it raises UserError where there are too few rows of a kind.
    """
    # exactly 3/10 for 0.3, where the float is a little less
    exact = Fraction(str(share))

    def rule(available: Mapping[str, int], rows: int | None, multiple: int) -> dict[str, int]:
        sides = {ANSWERED: 1 - exact, REFUSED: exact}
        most = min(int(available[kind] / part) for kind, part in sides.items() if part)
        total = most if rows is None else rows
        total -= total % multiple
        refused = round(total * exact)
        quota = {ANSWERED: total - refused, REFUSED: refused}
        while rows is None and any(quota[kind] > available[kind] for kind in KINDS):
            # rounding to whole rows may ask for one more than there is
            total -= multiple
            refused = round(total * exact)
            quota = {ANSWERED: total - refused, REFUSED: refused}
        for kind in KINDS:
            if quota[kind] > available[kind]:
                raise UserError(
                    f"{quota[kind]} {kind} rows wanted for --refusal-share {share:g}, {available[kind]} there are; "
                    f"lower --rows{' or --make-unanswerable' if kind == REFUSED else ''}"
                )
        if not total:
            raise UserError(
                f"--refusal-share {share:g}: no row comes out of {available[ANSWERED]} answered and "
                f"{available[REFUSED]} refused; --make-unanswerable makes refusals"
            )
        return quota

    return rule
