"""From answers to figures under a protocol: means with intervals, the gate, the table, ``results.json``."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from converters.common.files import sha256_text
from eval.math.results import LLAMA3_8B
from eval.results import environment, git_hash, percent, wilson
from eval.squad.data import Answered
from eval.squad.rules import PROTOCOLS, Scores, mindformers_scores, official_scores

MAX_NEW_TOKENS = 20
MEASURES = ("f1", "em")
# The contest's gate: 0.9 of what Llama-3-8B has untuned, 59.87023775108988 and 44.17029511369134
CONTEST_GATE = (53.88321397598089, 39.75326560232221)
CONTEST_LABELS = "9ec24da1cde8d188"  # labels_hash of dev-v1.1.json's first questions
Z95 = 1.959964


@dataclass
class Tally:
    """Scores of one protocol's questions, and how many answers were empty or cut at the limit.

    Attributes:
        f1: F1 of every answer, 0 to 1.
        em: exact match of every answer, 0 or 1.
        empty: answers without a text in their first line.
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
        spread = Z95 * (self.stderr("f1") or 100.0)
        return max(0.0, self.mean("f1") - spread), min(100.0, self.mean("f1") + spread)


def score(answer: Answered, protocol: str) -> Scores:
    """Score one answer under a protocol."""
    if protocol == "mindformers":
        return mindformers_scores(answer.text, answer.golds[0])
    return official_scores(answer.text, answer.golds)


def scores_by_task(answer: Answered, protocols: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return a row's scores in percent, as prediction files keep them: ``{"squad_official": {"f1": …, "em": …}}``."""
    return {
        f"squad_{protocol}": {name: 100 * value for name, value in score(answer, protocol)._asdict().items()}
        for protocol in protocols
        if answer.first or protocol != "mindformers"
    }


def tally(answers: Sequence[Answered], protocol: str) -> Tally:
    """Score the answers that a protocol counts."""
    counted = [answer for answer in answers if answer.first or protocol != "mindformers"]
    found = Tally()
    for answer in counted:
        f1, em = score(answer, protocol)
        found.f1.append(f1)
        found.em.append(em)
    found.empty = sum(not answer.text for answer in counted)
    known = all(answer.finish_reason for answer in counted)
    found.cut = sum(answer.finish_reason == "length" for answer in counted) if known else None
    return found


def labels_hash(answers: Sequence[Answered]) -> str:
    """Identify what was asked by the first gold answer of every question, whatever file they came in."""
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
    """Return the contest's gate where its thresholds mean something, else None, and why.

    They hold for Llama-3-8B asked in the contest's own form: its 2,067 questions, the reading prompt without BOS, 20
    new tokens.

    Args:
        labels: :func:`labels_hash` of the mindformers protocol's questions.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.
    """
    identity = meta.get("identity", {})
    base = meta.get("parameters", {}).get("base")
    if base != LLAMA3_8B:
        what = f"this one has {base:,} parameters" if base else "nothing says which model this is"
        return None, f"the contest's is for Llama-3-8B and {what}; eval.retention compares with the model's own before"
    if labels != CONTEST_LABELS:
        return None, "the contest's is for all 2,067 first questions of dev-v1.1.json"
    if (template := str(identity.get("template"))).split()[0] != "squad":
        return None, f"the contest's is for its own form, --template squad; this was asked in {template.split()[0]}"
    if (limit := identity.get("max_new_tokens")) != MAX_NEW_TOKENS:
        return None, f"the contest's is for {MAX_NEW_TOKENS} new tokens, not {limit}"
    note = "; the base was measured with min_new_tokens off" if identity.get("min_new_tokens") else ""
    return Gate("mindformers", *CONTEST_GATE, f"the contest's for Llama-3-8B{note}"), ""


def squad_rows(tallies: Mapping[str, Tally]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table: means in percent, ``empty`` and ``cut`` as shares of the answers."""
    rows = []
    for protocol, one in tallies.items():
        cut = "-" if one.cut is None else percent(one.cut / one.n)
        figures = [f"{one.mean(measure):.2f}" for measure in MEASURES]
        rows.append([protocol, one.n, *figures, percent(one.empty / one.n), cut])
    return ["protocol", "n", "F1", "EM", "empty %", "cut %"], rows


def summary_lines(tallies: Mapping[str, Tally], meta: Mapping[str, Any]) -> list[str]:
    """Say each protocol's exact figures, in the line that the contest's log has, and how the model was asked."""
    lines = []
    for protocol, one in tallies.items():
        f1, em = ("{:.2f} to {:.2f}".format(*one.interval(measure)) for measure in MEASURES)
        lines += [
            f"{protocol}: F1 score: {one.mean('f1')}, Em score: {one.mean('em')}, total_count: {one.n}",
            f"{protocol}: 95 %: F1 {f1}, EM {em}; {PROTOCOLS[protocol]}",
        ]
    return [*lines, f"asked: {how_asked(meta.get('identity', {}))}"]


def how_asked(identity: Mapping[str, Any]) -> str:
    """Say in which template and within which limits the model was asked."""
    if "template" not in identity:
        return "not known, the predictions do not say"
    name = str(identity["template"]).split()[0]
    form = "the contest's own form, no BOS" if name == "squad" else "around the contest's reading prompt"
    minimum = identity.get("min_new_tokens")
    return (
        f"template {name} ({form}), greedy, at most {identity.get('max_new_tokens')} new tokens, "
        f"min_new_tokens {minimum if minimum else 'off'}, first line graded"
    )


def gate_line(gate: Gate | None, why_not: str, tallies: Mapping[str, Tally]) -> str:
    """Say the verdict, or why there is none."""
    if gate is None:
        return f"gate: none; {why_not}"
    one = tallies[gate.protocol]
    parts = [
        f"{name.upper()} {one.mean(name):.4f} {'>=' if one.mean(name) >= least else '<'} {least:.4f}"
        for name, least in (("f1", gate.f1), ("em", gate.em))
    ]
    return f"gate ({gate.protocol}, {gate.source}): {', '.join(parts)}: {'' if gate.passed(one) else 'NOT '}passed"


def results_json(tallies: Mapping[str, Tally], gate: Gate | None, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``results.json`` in the shape of lm-eval's, figures in percent, with hashes and the gate added.

    Args:
        tallies: figures by protocol.
        gate: the thresholds, if any.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.
    """
    identity = dict(meta.get("identity", {}))
    results: dict[str, dict[str, Any]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for protocol, one in tallies.items():
        entry: dict[str, Any] = {"alias": f"squad ({protocol})"}
        for measure in MEASURES:
            entry[f"{measure},none"] = one.mean(measure)
            entry[f"{measure}_stderr,none"] = one.stderr(measure)
            entry[f"{measure}_95,none"] = list(one.interval(measure))
        entry["empty,none"] = one.empty / one.n
        entry["cut,none"] = None if one.cut is None else one.cut / one.n
        results[f"squad_{protocol}"] = entry
        configs[f"squad_{protocol}"] = {
            "task": f"squad_{protocol}",
            "protocol": protocol,
            "protocol_is": PROTOCOLS[protocol],
            "unit": "percent",
            "output_type": "generate_until",
            "generation_kwargs": {
                key: identity[key] for key in ("max_new_tokens", "min_new_tokens", "dtype") if key in identity
            },
            "template": identity.get("template"),
            "metadata": {"version": 1.0},
        }
    return {
        "results": results,
        "configs": configs,
        "versions": dict.fromkeys(results, 1.0),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {task: dict.fromkeys(MEASURES, True) for task in results},
        "n-samples": {f"squad_{name}": {"original": one.n, "effective": one.n} for name, one in tallies.items()},
        "gate": None if gate is None else {**vars(gate), "passed": gate.passed(tallies[gate.protocol])},
        "config": {key: value for key, value in meta.items() if key not in ("identity", "complete", "rows", "sha256")},
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": git_hash(),
        "date": time.time(),
        "environment": {**environment(), "jieba": _jieba()},
    }


def _jieba() -> str | None:
    try:
        return metadata.version("jieba")
    except metadata.PackageNotFoundError:
        return None
