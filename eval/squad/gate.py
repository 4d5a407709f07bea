"""The gate: figures that a tuned model must reach, the contest's or the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.common.contest import LLAMA3_8B
from eval.squad.scores import Tally

# the contest's limit; its gate holds for no other
MAX_NEW_TOKENS = 20
# The contest's gate: 0.9 of what Llama-3-8B has untuned, 59.87023775108988 and 44.17029511369134
CONTEST_GATE = (53.88321397598089, 39.75326560232221)
CONTEST_LABELS = "9ec24da1cde8d188"  # labels_hash of dev-v1.1.json's first questions


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
        labels: :func:`eval.squad.scores.labels_hash` of the mindformers protocol's questions.
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
