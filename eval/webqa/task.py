"""Answers from a given text, and refusals where it has none: the confusion of both, and how many are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.common.errors import UserError
from converters.text.conversation import read_conversations
from eval.results import Figures, percent, wilson
from eval.task import Row, Task
from eval.webqa.rules import ANSWERED, EMPTY, MEANING, REFUSED, Counts, grade

MAX_NEW_TOKENS = 64  # a refusal is about 25 characters
LESS_IS_BETTER = ("refused_needlessly", "answered_without_evidence")


class WebqaTask(Task):
    """Conversations as ``converters.webqa`` writes them; the last answer is the label."""

    name = "webqa"
    asks_the_data = True
    max_new_tokens = MAX_NEW_TOKENS

    def read_data(self, path: Path, limit: int | None) -> list[Row]:
        """Read questions with their answers."""
        # every row is checked, also beyond the limit: a damaged file is better known now than in the full run
        conversations = read_conversations(path)
        for number, one in enumerate(conversations, start=1):
            if one.turns[-1].role != "assistant" or not one.turns[-1].text.strip():
                raise UserError(f"{path}: row {number}: no answer to grade by")
        return [
            Row(idx, one.turns[:-1], one.turns[-1].text, {"id": one.id})
            for idx, one in enumerate(conversations[:limit])
        ]

    def grade_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return on which side answer and label are, and whether the answer is right."""
        return grade(row["predict"], row["label"])

    def figures(self, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], source: str) -> Figures:
        """Return the confusion of answered and refused, and the share of each measure."""
        counts = Counts.of(rows)
        task = f"webqa_{Path(source).name.split('.')[0]}"
        entry: dict[str, Any] = {"alias": task}
        for name, (right, whole) in counts.measures().items():
            # None and not 0: a data set without refusals says nothing about refusing
            entry[f"{name},none"] = right / whole if whole else None
            entry[f"{name}_wilson95,none"] = list(wilson(right, whole))
        header, table = table_rows(counts)
        return Figures(
            header=header,
            table=table,
            lines=summary_lines(counts),
            results={task: entry},
            configs={task: {"measures": MEANING}},
            higher_is_better={task: {name: name not in LESS_IS_BETTER for name in counts.measures()}},
            samples={task: (counts.n, counts.n)},
            extra={
                "counts": {"confusion": counts.confusion, "exact": counts.exact, "contained": counts.contained},
            },
            title=task,
        )


def table_rows(counts: Counts) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the confusion: one row per side of the label."""
    columns = (ANSWERED, REFUSED, EMPTY)
    header = ["label", "n", *(f"→ {name}" for name in columns)]
    return header, [
        [side, counts.labelled(side), *(counts.confusion[side][name] for name in columns)]
        for side in (ANSWERED, REFUSED)
    ]


def summary_lines(counts: Counts) -> list[str]:
    """Return a line per measure: its share with the 95 % interval, and the rows it is a share of."""
    lines = []
    for name, (right, whole) in counts.measures().items():
        shown = f"{name.replace('_', ' ')}: "
        if whole:
            low, high = wilson(right, whole)
            shown += f"{percent(right / whole)} % (95 %: {percent(low)} to {percent(high)}), {right} of {whole} rows"
        else:
            shown += "–, no such row"
        lines.append(f"{shown}; {MEANING[name]}")
    return lines
