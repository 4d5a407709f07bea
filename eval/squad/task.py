"""Reading comprehension under a named protocol: measures what a tuned model kept of its base's ability.

``--template squad`` asks in the contest's own form: the reading prompt alone, without BOS, whichever template the run
was trained with. How much of an answer is graded follows from the protocol and from the prompt: the mindformers
protocol grades first lines; the official one grades whole answers, except to a prompt that says that an answer ends
with its first line (:mod:`eval.squad.prompts`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.contest import LLAMA3_8B
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file, sha256_text, write_json
from converters.text.conversation import Turn
from eval.results import Z95, Figures, percent, wilson
from eval.squad.data import SHIPPED, Answered, Question, choose, read_answers, read_questions
from eval.squad.prompts import CONTEST, PROMPTS, Prompt
from eval.squad.rules import PROTOCOLS, Scores, first_line, load_jieba, mindformers_scores, official_scores
from eval.task import Row, Task

if TYPE_CHECKING:
    from converters.text.base import Template

BOTH = "both"
CONTEST_FORM = "squad"
# the contest's limit; its gate holds for no other
MAX_NEW_TOKENS = 20
MEASURES = ("f1", "em")
# The contest's gate: 0.9 of what Llama-3-8B has untuned, 59.87023775108988 and 44.17029511369134
CONTEST_GATE = (53.88321397598089, 39.75326560232221)
CONTEST_LABELS = "9ec24da1cde8d188"  # labels_hash of dev-v1.1.json's first questions


class SquadTask(Task):
    """Questions on passages, in SQuAD v1.1's JSON.

    Args:
        protocol: ``mindformers`` (the contest's), ``official`` (SQuAD v1.1's own) or ``both``.
        gate: F1 and exact match that the first protocol must reach, in percent; None takes the contest's if it applies.
        prompt: how a question is put, a key of :data:`eval.squad.prompts.PROMPTS`.
        first_only: the official protocol, too, counts the first question of each passage only: a fifth of the cost.
    """

    name = "squad"
    asks_the_data = True
    default_data = SHIPPED
    max_new_tokens = MAX_NEW_TOKENS
    own_template = CONTEST_FORM
    packages = ("jieba",)
    not_in_config = ("identity", "complete", "rows", "sha256")

    def __init__(
        self,
        protocol: str = "mindformers",
        gate: Sequence[float] | None = None,
        prompt: str = CONTEST,
        first_only: bool = False,
    ) -> None:
        if protocol not in (*PROTOCOLS, BOTH):
            raise UsageError(f"--protocol {protocol}: {', '.join(PROTOCOLS)} or {BOTH} is expected")
        if prompt not in PROMPTS:
            raise UsageError(f"--prompt {prompt}: {' or '.join(PROMPTS)} is expected")
        self.protocol = protocol
        # mindformers comes first in PROTOCOLS: it is the one that a gate of --protocol both is for
        self.protocols = list(PROTOCOLS) if protocol == BOTH else [protocol]
        # what the mindformers protocol does by itself
        self.first_only = first_only and protocol != "mindformers"
        self.only_first = first_only or protocol == "mindformers"
        self.gate = gate
        self.prompt = PROMPTS[prompt]
        self.asked_in = self.prompt.template
        self._questions: dict[str, Question] = {}

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read the questions that the protocol asks."""
        if path == SHIPPED:
            say(f"data: {SHIPPED.name}, the shipped reading set; --data FILE takes SQuAD's own")
        questions = choose(read_questions(path), only_first=self.only_first, limit=limit, each_protocol=self._apart)
        if "mindformers" in self.protocols:
            load_jieba()  # if it is missing, that is said before a model is loaded
        self._questions = {question.id: question for question in questions}
        return [
            Row(idx, (Turn("user", one.prompt),), one.golds[0], _fields(one), one.golds)
            for idx, one in enumerate(questions)
        ]

    def _description(self, protocol: str) -> str:
        """Say what a protocol is, and on which questions if not on its own."""
        restricted = "; here on the first question of each passage" if self.first_only else ""
        return PROTOCOLS[protocol] + (restricted if protocol == "official" else "")

    @property
    def _apart(self) -> bool:
        """Whether the protocols count different questions."""
        return self.protocol == BOTH and not self.first_only

    def turns(self, row: Row, template: Template) -> Sequence[Turn]:
        """Return the contest's reading prompt, as text in any template but its own, or another prompt's turns."""
        question = self._questions[row.fields["id"]]
        if self.prompt.name == CONTEST:
            return [reading_turn(question, template)]
        if template.name == CONTEST_FORM:
            raise UsageError(f"--prompt {self.prompt.name}: --template {CONTEST_FORM} holds the contest's prompt alone")
        return [Turn("user", self.prompt.text(question.context, question.text))]

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the scores of an answer under each protocol, in percent."""
        return {"scores": scores_by_task(_answered(row, self.prompt), self.protocols)}

    def read_predictions(
        self, path: Path, *, data: Path | None, limit: int | None, meta: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Read answers in any of three forms: see :func:`eval.squad.data.read_answers`."""
        asked = prompt_of(meta.get("identity", {}))
        answers = read_answers(
            path,
            data,
            only_first=self.only_first,
            limit=limit,
            each_protocol=self._apart,
            official="official" in self.protocols,
            one_line=asked is not None and asked.one_line,
        )
        return [
            # made anew from what all three forms have; idx is the place among the questions that are counted
            {
                "idx": idx,
                **_fields(one),
                "predict": one.predict,
                "label": one.golds[0],
                "labels": list(one.golds),
                "finish_reason": one.finish_reason,
                "scores": scores_by_task(one, self.protocols),
            }
            for idx, one in enumerate(answers)
        ]

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures:
        """Return F1 and exact match in percent under each protocol, and the verdict of the gate."""
        asked = prompt_of(meta.get("identity", {}))
        answers = [_answered(row, asked) for row in rows]
        tallies = {protocol: tally(answers, protocol) for protocol in self.protocols}
        gate, why_not = None, "the contest's is for the mindformers protocol"
        if self.gate is not None:
            gate = Gate(self.protocols[0], self.gate[0], self.gate[1], "--gate")
        elif "mindformers" in tallies:
            gate, why_not = contest_gate(labels_hash(choose(answers, only_first=True, limit=None)), meta)
        passed = None if gate is None else gate.passed(tallies[gate.protocol])
        verdict = gate_line(gate, why_not, tallies)
        header, table = table_rows(tallies)
        return Figures(
            header=header,
            table=table,
            lines=[*summary_lines(tallies, meta, {name: self._description(name) for name in tallies}), verdict],
            results={f"squad_{protocol}": _entry(protocol, one) for protocol, one in tallies.items()},
            configs={
                f"squad_{protocol}": {
                    "protocol": protocol,
                    "protocol_is": self._description(protocol),
                    "unit": "percent",
                    "graded": graded_part(protocol, asked),
                    **({"prompt": asked.name, "prompt_is": asked.description} if asked is not None else {}),
                }
                for protocol in tallies
            },
            higher_is_better={f"squad_{protocol}": dict.fromkeys(MEASURES, True) for protocol in tallies},
            samples={f"squad_{protocol}": (one.n, one.n) for protocol, one in tallies.items()},
            extra={"gate": None if gate is None else {**vars(gate), "passed": passed}},
            title=f"Reading, {self.protocol} protocol{'s' if self.protocol == BOTH else ''}",
            passed=passed,
            verdict=verdict,
        )

    def settings(self) -> dict[str, Any]:
        """Return the protocol and what else decides which questions are asked and how, where it is not the default."""
        # defaults are left out, so that answers made before there was a choice are continued and compared
        prompt = {} if self.prompt.name == CONTEST else {"prompt": f"{self.prompt.name} {self.prompt.hash[:16]}"}
        return {"protocol": self.protocol, **prompt, **({"questions": "first"} if self.first_only else {})}

    def graded_identity(
        self, rows: Sequence[Mapping[str, Any]], identity: Mapping[str, Any], data: Path | None
    ) -> dict[str, Any]:
        """Add protocol, number of answers and the hash of their labels, which identifies the questions."""
        # the meta file's hash wins over that of --data, and what is graded now over what was asked then
        known = {"data": sha256_file(data)[:16]} if data is not None and data.is_file() else {}
        graded = {
            "protocol": self.protocol,
            "rows": len(rows),
            "labels": labels_hash([_answered(row, None) for row in rows]),
        }
        return {**known, **identity, **graded}

    def folder_name(self, data: Path, template: str | None) -> str:
        """Return ``squad-DATA``, followed by protocol, prompt and template if they are not the defaults."""
        parts = [super().folder_name(data, template)]
        parts += [self.protocol] if self.protocol != "mindformers" else []
        parts += ["first"] if self.first_only else []
        parts += [self.prompt.name] if self.prompt.name != CONTEST else []
        parts += [template] if template else []
        return "-".join(parts)

    def export(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Write ``answers.json``, the form that SQuAD's own script reads."""
        answers = [_answered(row, self.prompt) for row in rows]
        write_json(folder / "answers.json", {one.id: one.text for one in answers})


def _fields(one: Question | Answered) -> dict[str, Any]:
    """Return what a row of predictions says of its question, besides text and answers."""
    # only a limit under both protocols makes questions that one of them does not count
    return {"id": one.id, "first": one.first, **({} if one.official else {"official": False})}


def _answered(row: Mapping[str, Any], asked: Prompt | None) -> Answered:
    return Answered(
        row["id"],
        row["predict"],
        tuple(row["labels"]),
        row["first"],
        row.get("finish_reason"),
        row.get("official", True),
        asked is not None and asked.one_line,
    )


def prompt_of(identity: Mapping[str, Any]) -> Prompt | None:
    """Return the prompt that a file of predictions was asked with; None for another tool's file, which does not say.

    Raises:
        UserError: the file was made with a prompt that is not known here.
    """
    # only files of this project say in which template they were asked
    if "template" not in identity:
        return None
    name = str(identity.get("prompt", CONTEST)).split()[0]
    if name not in PROMPTS:
        raise UserError(f"the predictions were asked with the prompt {name!r}; known here are {', '.join(PROMPTS)}")
    return PROMPTS[name]


def graded_part(protocol: str, asked: Prompt | None) -> str:
    """Return in words how much of an answer a protocol grades.

    Args:
        protocol: a key of ``PROTOCOLS``.
        asked: the prompt; None where it is not known.
    """
    if protocol == "mindformers":
        return "first line"
    return "first line, where the prompt ends an answer" if asked is not None and asked.one_line else "whole answer"


def reading_turn(question: Question, template: Template) -> Turn:
    """Return the user turn of a question: the contest's whole reading prompt, or its two parts for the squad template.

    Args:
        question: the question with its passage.
        template: the template that the turn will be written in.

    Raises:
        UserError: the question has an empty line, at which the squad template would split passage and question.
    """
    if template.name != CONTEST_FORM:
        return Turn("user", question.prompt)
    turn = Turn("user", f"{question.context}\n\n{question.text}")
    # the template splits the turn again: only if that gives the same prompt is the question asked as meant
    if "".join(segment.text for segment in template.prompt([turn])) != question.prompt:
        raise UserError(f"question {question.id} has an empty line in it; --template {CONTEST_FORM} cannot hold that")
    return turn


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


@dataclass(frozen=True)
class Gate:
    """Thresholds that both measures of a protocol must reach.

    Attributes:
        protocol: whose figures are compared.
        f1: in percent.
        em: in percent.
        source: where the thresholds come from.
    """

    protocol: str
    f1: float
    em: float
    source: str

    def passed(self, tally: Tally) -> bool:
        """Whether both measures reach their threshold."""
        return tally.mean("f1") >= self.f1 and tally.mean("em") >= self.em


def contest_gate(labels: str, meta: Mapping[str, Any]) -> tuple[Gate | None, str]:
    """Return the contest's gate if its thresholds apply.

    They apply to Llama-3-8B asked in the contest's own form: its 2,067 questions, the reading prompt without BOS, 20
    new tokens.

    Args:
        labels: :func:`labels_hash` of the mindformers protocol's questions.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.

    Returns:
        The gate and an empty text, or None and the reason why the gate does not apply.
    """
    identity = meta.get("identity", {})
    base = meta.get("parameters", {}).get("base")
    # by size: the same weights in another format have another hash
    if base != LLAMA3_8B:
        what = f"this one has {base:,} parameters" if base else "nothing says which model this is"
        return None, f"the contest's is for Llama-3-8B and {what}; eval.retention compares with the model's own before"
    if labels != CONTEST_LABELS:
        return None, "the contest's is for all 2,067 first questions of dev-v1.1.json"
    if (template := str(identity.get("template"))).split()[0] != "squad":
        return None, f"the contest's is for its own form, --template squad; this was asked in {template.split()[0]}"
    if (limit := identity.get("max_new_tokens")) != MAX_NEW_TOKENS:
        return None, f"the contest's is for {MAX_NEW_TOKENS} new tokens, not {limit}"
    # teams set it against empty answers: the gate still holds, but not quite for the same conditions
    note = "; the base was measured with min_new_tokens off" if identity.get("min_new_tokens") else ""
    return Gate("mindformers", *CONTEST_GATE, f"the contest's for Llama-3-8B{note}"), ""


def table_rows(tallies: Mapping[str, Tally]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table: means in percent, ``empty`` and ``cut`` as shares of the answers."""
    rows = []
    for protocol, one in tallies.items():
        cut = "-" if one.cut is None else percent(one.cut / one.n)
        figures = [f"{one.mean(measure):.2f}" for measure in MEASURES]
        rows.append([protocol, one.n, *figures, percent(one.empty / one.n), cut])
    return ["protocol", "n", "F1", "EM", "empty %", "cut %"], rows


def summary_lines(
    tallies: Mapping[str, Tally], meta: Mapping[str, Any], described: Mapping[str, str] = PROTOCOLS
) -> list[str]:
    """Return the lines under the table: every protocol's figures and intervals, and how the model was asked.

    Args:
        tallies: the scores by protocol.
        meta: what the predictions were made with.
        described: what each protocol is, in words.
    """
    identity = meta.get("identity", {})
    asked = prompt_of(identity)
    lines = []
    for protocol, one in tallies.items():
        f1, em = ("{:.2f} to {:.2f}".format(*one.interval(measure)) for measure in MEASURES)
        lines += [
            # unrounded and in the words of the contest's log, so that both can be compared by eye
            f"{protocol}: F1 score: {one.mean('f1')}, Em score: {one.mean('em')}, total_count: {one.n}",
            f"{protocol}: 95 %: F1 {f1}, EM {em}; {described[protocol]}; graded: {graded_part(protocol, asked)}",
        ]
    return [*lines, f"asked: {how_asked(identity)}"]


def how_asked(identity: Mapping[str, Any]) -> str:
    """Return in words with which template and limits the model was asked."""
    asked = prompt_of(identity)
    if asked is None:
        return "not known, the predictions do not say"
    name = str(identity["template"]).split()[0]
    form = "the contest's own form, no BOS" if name == CONTEST_FORM else f"around {asked.description}"
    minimum = identity.get("min_new_tokens")
    return (
        f"template {name} ({form}), greedy, at most {identity.get('max_new_tokens')} new tokens, "
        f"min_new_tokens {minimum if minimum else 'off'}"
    )


def gate_line(gate: Gate | None, why_not: str, tallies: Mapping[str, Tally]) -> str:
    """Return the verdict of the gate in words, or why there is none."""
    if gate is None:
        return f"gate: none; {why_not}"
    one = tallies[gate.protocol]
    parts = [
        f"{name.upper()} {one.mean(name):.4f} {'>=' if one.mean(name) >= least else '<'} {least:.4f}"
        for name, least in (("f1", gate.f1), ("em", gate.em))
    ]
    return f"gate ({gate.protocol}, {gate.source}): {', '.join(parts)}: {'' if gate.passed(one) else 'NOT '}passed"


def _entry(protocol: str, one: Tally) -> dict[str, Any]:
    """The figures of one protocol, as ``results.json`` has them."""
    entry: dict[str, Any] = {"alias": f"squad ({protocol})"}
    for measure in MEASURES:
        entry[f"{measure},none"] = one.mean(measure)
        entry[f"{measure}_stderr,none"] = one.stderr(measure)
        entry[f"{measure}_95,none"] = list(one.interval(measure))
    entry["empty,none"] = one.empty / one.n
    entry["cut,none"] = None if one.cut is None else one.cut / one.n
    return entry
