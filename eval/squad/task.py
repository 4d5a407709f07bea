"""Reading comprehension under a named protocol: measures what a tuned model kept of its base's ability.

``--template squad`` asks in the contest's own form: the reading prompt alone, without BOS, whichever template the run
was trained with. How much of an answer is graded follows from the protocol and from the prompt: the mindformers
protocol grades first lines; the official one grades whole answers, except to a prompt that says that an answer ends
with its first line (:mod:`eval.squad.prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import sha256_file, write_json
from converters.text.conversation import Turn
from eval.results import Figures, percent
from eval.squad.data import SHIPPED, Answered, Question, choose, read_answers, read_questions
from eval.squad.gate import MAX_NEW_TOKENS, Gate, contest_gate, gate_line
from eval.squad.prompts import CONTEST, PROMPTS, Prompt
from eval.squad.rules import PROTOCOLS, load_jieba
from eval.squad.scores import MEASURES, Tally, labels_hash, scores_by_task, tally
from eval.task import Row, Task

if TYPE_CHECKING:
    from converters.text.base import Template

BOTH = "both"
CONTEST_FORM = "squad"


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
        # the mindformers protocol does so by itself
        self.restricted = first_only and protocol != "mindformers"
        self.gate = gate
        self.prompt = PROMPTS[prompt]
        self.asked_in = self.prompt.template
        self._questions: dict[str, Question] = {}

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read the questions that the protocol asks."""
        if path == SHIPPED:
            say(f"data: {SHIPPED.name}, the shipped reading set; --data FILE takes SQuAD's own")
        questions = choose(read_questions(path), only_first=self._only_first, limit=limit, each_protocol=self._apart)
        if "mindformers" in self.protocols:
            load_jieba()  # if it is missing, that is said before a model is loaded
        self._questions = {question.id: question for question in questions}
        return [
            Row(idx, (Turn("user", one.prompt),), one.golds[0], _fields(one), one.golds)
            for idx, one in enumerate(questions)
        ]

    def _description(self, protocol: str) -> str:
        """Say what a protocol is, and on which questions if not on its own."""
        restricted = "; here on the first question of each passage" if self.restricted else ""
        return PROTOCOLS[protocol] + (restricted if protocol == "official" else "")

    @property
    def _only_first(self) -> bool:
        """Whether only the first question of each passage is asked."""
        return self.restricted or self.protocol == "mindformers"

    @property
    def _apart(self) -> bool:
        """Whether the protocols count different questions."""
        return self.protocol == BOTH and not self.restricted

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
            only_first=self._only_first,
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
        return {"protocol": self.protocol, **prompt, **({"questions": "first"} if self.restricted else {})}

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
        parts += ["first"] if self.restricted else []
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
