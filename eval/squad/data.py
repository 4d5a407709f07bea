"""Reads reading sets in SQuAD v1.1's JSON, and answers to them in three forms of file; needs no framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import MalformedRow, parse_json, read_json, read_text
from converters.text.template import get_template
from eval.predictions import read_predictions
from eval.squad.rules import first_line

SHIPPED = Path(__file__).parents[1] / "data" / "reading.json"


@dataclass(frozen=True, slots=True)
class Question:
    """One question on one passage.

    Attributes:
        id: its name in the data set and in prediction files.
        context: the passage.
        text: the question.
        golds: its right answers, in the order of the file.
        first: whether it is the first question of its passage; the mindformers protocol asks only these.
        official: whether the official protocol counts it; see :func:`choose`.
    """

    id: str
    context: str
    text: str
    golds: tuple[str, ...]
    first: bool
    official: bool = True

    @property
    def prompt(self) -> str:
        """The contest's reading prompt, byte for byte: what mindformers' SQuAD script writes."""
        return get_template("squad").first.format(passage=self.context, question=self.text)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with the gold answers that it is compared with.

    Attributes:
        id: the question's id; the row number where the file has none.
        predict: what the model said.
        golds: the right answers.
        first: whether the question is its passage's first.
        finish_reason: ``stop``, ``length`` (cut at the limit), or None where the file does not say.
        official: whether the official protocol counts it; see :func:`choose`.
        one_line: the prompt that was asked says that an answer ends with its first line.
    """

    id: str
    predict: str
    golds: tuple[str, ...]
    first: bool
    finish_reason: str | None = None
    official: bool = True
    one_line: bool = False

    @property
    def text(self) -> str:
        """The answer: all that was said, or its first line where the prompt says that it ends there."""
        return first_line(self.predict) if self.one_line else self.predict


Asked = TypeVar("Asked", Question, Answered)


def read_questions(path: str | Path) -> list[Question]:
    """Read a data set of SQuAD v1.1's shape.

    Raises:
        UsageError: the file is missing or empty, or holds no question.
        UserError: it has another shape, a question has no answer (SQuAD 2.0), or an id comes twice.
    """
    questions: list[Question] = []
    seen: set[str] = set()
    for question in _questions(str(path), read_json(path)):
        # predictions are joined by id: a second question would silently get the first one's answer
        if question.id in seen:
            raise UserError(f"{path}: the id {question.id} is there twice")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise UsageError(f"{path}: no question in it")
    return questions


def _questions(path: str, value: Any) -> Iterator[Question]:
    where = f"{path}: "
    for a, article in enumerate(_get(value, "data", list, where)):
        for p, paragraph in enumerate(_get(article, "paragraphs", list, f"{where}data[{a}]: ")):
            place = f"{where}data[{a}].paragraphs[{p}]: "
            context = _get(paragraph, "context", str, place)
            for q, entry in enumerate(_get(paragraph, "qas", list, place)):
                here = f"{where}data[{a}].paragraphs[{p}].qas[{q}]: "
                golds = tuple(_get(answer, "text", str, here) for answer in _get(entry, "answers", list, here))
                name = _get(entry, "id", str, here)
                if not golds:
                    raise UserError(f"{here}{name} has no answer; SQuAD v1.1 is expected, where every question has one")
                yield Question(name, context, _get(entry, "question", str, here), golds, q == 0)


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        wanted = "a list" if kind is list else "a text"
        raise UserError(f"{where}{wanted} under {key!r} is expected, as in SQuAD v1.1; found {keys[:80] or 'nothing'}")
    return found


def choose(
    questions: Iterable[Asked], *, only_first: bool, limit: int | None, each_protocol: bool = False
) -> list[Asked]:
    """Return the questions (or answers) that a protocol counts.

    Args:
        questions: all of them, in order.
        only_first: whether the protocol takes the first question of each passage only.
        limit: the first so many of those counted; None takes all.
        each_protocol: both protocols count, each the first ``limit`` of its own: a first question behind the official
            protocol's last one is kept with ``official`` False. Needs ``only_first`` False.

    Returns:
        The questions in their order.
    """
    if not each_protocol:
        return [one for one in questions if (one.first if only_first else one.official)][:limit]
    found: list[Asked] = []
    official = first = 0
    for one in questions:
        in_official = one.official and (limit is None or official < limit)
        if in_official or (one.first and (limit is None or first < limit)):
            found.append(one if in_official == one.official else replace(one, official=in_official))
            official += in_official
            first += one.first
    return found


def read_answers(
    path: str | Path,
    data: str | Path | None,
    *,
    only_first: bool,
    limit: int | None = None,
    each_protocol: bool = False,
    official: bool | None = None,
    one_line: bool = False,
) -> list[Answered]:
    """Read predictions: SQuAD's ``{id: text}``, this project's rows, or rows of ``pred`` and ``label``.

    Args:
        path: JSON or JSON lines.
        data: what ``{id: text}`` answers (default: the shipped set); rows carry their gold answers themselves.
        only_first: the first question of each passage only.
        limit: the first so many only; None takes all.
        each_protocol: the first so many under each protocol; see :func:`choose`.
        official: whether the official protocol grades them, which needs all gold answers of a row and takes whole
            answers; without it, one gold answer is enough and an answer ends with its first line. None: unless
            ``only_first``.
        one_line: an answer ends with its first line whatever the protocol.

    Returns:
        The answers with their gold answers, in the order of the data or of the rows.

    Raises:
        UsageError: a file is missing or empty.
        UserError: a row has another shape; an id comes twice, is not in the data, or has no prediction.
    """
    official = not only_first if official is None else official
    texts = _id_to_text(path)
    if texts is not None:
        questions = read_questions(data or SHIPPED)
        _check_known(path, texts, questions, data or SHIPPED)
        asked = choose(questions, only_first=only_first, limit=limit, each_protocol=each_protocol)
        answers = _join(str(path), texts, asked)
    else:
        if data is not None:
            say(f"note: {path} has its gold answers with it; {data} is not read")
        answers = choose(
            _rows(path, official, only_first), only_first=only_first, limit=limit, each_protocol=each_protocol
        )
    if not answers:
        raise UserError(f"{path}: no prediction in it")
    return [replace(one, one_line=True) for one in answers] if one_line or not official else answers


def _id_to_text(path: str | Path) -> dict[str, Any] | None:
    """Return the file's one JSON object of texts by id; None if it holds rows."""
    text = read_text(path)
    if not text.strip():
        raise UsageError(f"{path}: empty; predictions are expected")
    try:
        value = parse_json(text)
    except MalformedRow:
        return None  # JSON lines, or damaged; reading the rows tells
    # one object with a label is a file of one row, not a map from ids
    return value if isinstance(value, dict) and "label" not in value else None


def _check_known(path: str | Path, texts: Mapping[str, Any], questions: Iterable[Question], data: str | Path) -> None:
    """Refuse ids that no question has."""
    known = {question.id for question in questions}
    # before a missing prediction is looked for: with the wrong data file, "missing" would point the wrong way
    extra = [name for name in texts if name not in known]
    if extra:
        raise UserError(
            f"{path}: {len(extra)} of {len(texts)} ids are not in {data} ({extra[0]} first); is --data theirs?"
        )


def _join(path: str, texts: Mapping[str, Any], asked: Sequence[Question]) -> list[Answered]:
    """Put predictions by id beside their questions, in the order of the questions."""
    # a question without a prediction is an error, as SQuAD's means are over all questions
    missing = [question.id for question in asked if question.id not in texts]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(asked)} questions have no prediction ({missing[0]} first); "
            'where a model gave no answer, "" is written'
        )
    wrong = next((name for name, text in texts.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise UserError(f"{path}: the prediction of {wrong} is not a text but {type(texts[wrong]).__name__}")
    return [Answered(one.id, texts[one.id], one.golds, one.first, official=one.official) for one in asked]


def _rows(path: str | Path, for_official: bool, only_first: bool) -> Iterator[Answered]:
    seen: set[str] = set()
    for number, row in enumerate(read_predictions(path, labelled=False), start=1):
        # the contest's own log has one label a row
        golds = row.get("labels", [row["label"]])
        if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) for gold in golds):
            raise UserError(
                f"{path}: row {number}: texts under 'pred' and 'label' are expected; found {', '.join(row)}"
            )
        first, official = row.get("first", True), row.get("official", True)
        # a row says by its scores for which protocols it was asked; first questions were asked for both
        asked = not official or only_first or "squad_official" in row.get("scores", {"squad_official": 0})
        whole = "labels" in row and asked
        if for_official and not whole:
            raise UserError(
                f"{path}: row {number}: asked for the mindformers protocol, which takes one question a passage and one "
                "gold answer; the official one takes all"
            )
        name = str(row.get("id", number))
        if name in seen:
            raise UserError(f"{path}: row {number}: the id {name} is there twice")
        seen.add(name)
        # such a log asks one question a passage, so a row that does not say is a first one
        yield Answered(name, row["predict"], tuple(golds), bool(first), row.get("finish_reason"), bool(official))
