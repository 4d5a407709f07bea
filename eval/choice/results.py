"""From counted answers to what a person and a program read: the table, the summary, ``results.json``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from converters.common.console import format_table
from eval.choice.rules import SCORE_002, UNPARSED, Scores
from eval.markdown import markdown_table
from eval.results import environment, git_hash, percent, wilson


def class_rows(scores: Scores) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table: one row a label, with its figures and what was answered instead."""
    answers = [f"→ {name}" for name in (*scores.choices, UNPARSED)]
    header = ["label", "n", "precision", "recall", "F1", *answers]
    rows = [
        [name, scores.labelled(i), *map(_share, (scores.precision(i), scores.recall(i), scores.f1(i))), *counts]
        for i, (name, counts) in enumerate(zip(scores.choices, scores.confusion, strict=True))
    ]
    return header, rows


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def summary_lines(scores: Scores, positive: str | None, *, score_002: bool = False) -> list[str]:
    """Say the figures over all rows.

    Args:
        scores: the counts.
        positive: the class whose F1 is named beside the macro-F1, if any.
        score_002: add report 002's score, 70 points times the accuracy.
    """
    low, high = wilson(scores.right, scores.n)
    name, share = scores.commonest
    averages = f"macro-F1: {percent(scores.macro_f1)}; Matthews correlation: {scores.mcc:.4f}"
    if positive is not None:
        averages += f"; F1 of {positive!r}: {_share(scores.f1(scores.choices.index(positive)))}"
    lines = [
        f"accuracy: {percent(scores.accuracy)} % (95 %: {percent(low)} to {percent(high)}), "
        f"{scores.right} of {scores.n} rows; always {name!r} would be {percent(share)} %",
        averages,
        f"unparsed: {scores.unparsed} of {scores.n} rows name no choice and count as wrong",
    ]
    if score_002:
        points = SCORE_002 * scores.accuracy
        lines.append(f"score 002: {scores.accuracy:.4f} * {SCORE_002} = {points:.2f} of {SCORE_002} points")
    return lines


def text_report(scores: Scores, positive: str | None, *, score_002: bool = False) -> str:
    """Return table and summary as plain text."""
    header, rows = class_rows(scores)
    return "\n".join([format_table(header, rows), "", *summary_lines(scores, positive, score_002=score_002)])


def markdown_report(scores: Scores, positive: str | None, title: str, *, score_002: bool = False) -> str:
    """Return title, table and summary as Markdown."""
    header, rows = class_rows(scores)
    lines = summary_lines(scores, positive, score_002=score_002)
    return "\n".join([f"# {title}", "", markdown_table(header, rows), *(f"- {line}" for line in lines)]) + "\n"


def results_json(
    scores: Scores,
    *,
    task: str,
    positive: str | None,
    unlabelled: int,
    meta: Mapping[str, Any],
    score_002: bool = False,
) -> dict[str, Any]:
    """Return ``results.json`` in the shape of lm-eval's, with counts and hashes added.

    Args:
        scores: the counts.
        task: what the data set is called.
        positive: the class that ``f1`` is of, if any.
        unlabelled: rows that were answered but have no label.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.
        score_002: report 002's score goes in.
    """
    identity = dict(meta.get("identity", {}))
    share, n = scores.accuracy, scores.n
    measures = {"acc": share, "macro_f1": scores.macro_f1, "mcc": scores.mcc}
    if positive is not None:
        measures["f1"] = scores.f1(scores.choices.index(positive)) or 0.0
    if score_002:
        measures["score_002"] = SCORE_002 * share
    entry: dict[str, Any] = {
        "alias": task,
        **{f"{name},none": value for name, value in measures.items()},
        "acc_stderr,none": math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
        "acc_wilson95,none": list(wilson(scores.right, n)),
        "unparsed,none": scores.unparsed / n if n else 0.0,
    }
    way = identity.get("way")
    return {
        "results": {task: entry},
        "configs": {
            task: {
                "task": task,
                "output_type": "multiple_choice" if way == "loglik" else "generate_until",
                "way": way,
                "doc_to_choice": list(scores.choices),
                "positive": positive,
                "generation_kwargs": {
                    key: identity[key] for key in ("max_new_tokens", "min_new_tokens", "dtype") if key in identity
                },
                "template": identity.get("template"),
                "metadata": {"version": 1.0},
            }
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(measures, True)},
        "n-samples": {task: {"original": n + unlabelled, "effective": n}},
        "counts": {
            task: {"n": n, "right": scores.right, UNPARSED: scores.unparsed, "without label": unlabelled},
            "confusion": {
                label: dict(zip((*scores.choices, UNPARSED), counts, strict=True))
                for label, counts in zip(scores.choices, scores.confusion, strict=True)
            },
        },
        "config": {key: value for key, value in meta.items() if key not in ("identity", "complete", "rows")},
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": git_hash(),
        "date": time.time(),
        "environment": environment(),
    }
