"""What every evaluation writes: figures with intervals, ``results.json``, Markdown tables, and what they depend on."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.run.environment import code_version, package_versions
from converters.common.errors import UserError
from converters.common.reader import read_json

Z95 = 1.959964
"""Quantile of the normal distribution for an interval of 95 %."""

LLAMA3_8B = 8_030_261_248
"""Parameters of Llama-3-8B, the contest's model."""

PACKAGES = ("twinlora", "torch", "transformers", "peft", "mindspore", "mindformers", "tokenizers", "tiktoken")


@dataclass(frozen=True)
class Figures:
    """What graded rows come to.

    Attributes:
        header: names of the table's columns.
        table: its rows.
        lines: what is said under it.
        results: figures by part of the task, as lm-eval names them: ``{"squad": {"f1,none": 58.5, …}}``.
        configs: what the figures were made with, by task.
        higher_is_better: measures by task and whether more is better.
        samples: rows of each part, ``(read, graded)``.
        extra: what else ``results.json`` holds.
        title: heading of ``table.md``; None writes no such file.
        passed: whether the gate was passed; None without one.
        verdict: the gate's verdict in words.
    """

    header: Sequence[str]
    table: Sequence[Sequence[Any]]
    lines: Sequence[str]
    results: Mapping[str, Mapping[str, Any]]
    configs: Mapping[str, Mapping[str, Any]]
    higher_is_better: Mapping[str, Mapping[str, bool]]
    samples: Mapping[str, tuple[int, int]]
    extra: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    passed: bool | None = None
    verdict: str = ""


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval that holds a share's true value with 95 % confidence (Wilson 1927): it never leaves 0…1.

    Args:
        right: successes.
        n: trials.
        z: quantile of the normal distribution; 1.96 is 95 %.
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    # without rounding these hold exactly
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def share_figures(measure: str, right: int, n: int) -> dict[str, Any]:
    """Return a share as ``results.json`` has it: itself, its standard error (None for a single row), its interval."""
    share = right / n if n else 0.0
    return {
        f"{measure},none": share,
        f"{measure}_stderr,none": math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
        f"{measure}_wilson95,none": list(wilson(right, n)),
    }


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None, tuple[float, float]]:
    """Return mean, standard error and 95 % interval of values from 0 to 1.

    The interval is Wilson's where every value is 0 or 1, else a normal one within 0…1.
    """
    n, mean = len(values), sum(values) / len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    if set(values) <= {0.0, 1.0}:
        return mean, error, wilson(int(sum(values)), n)
    spread = Z95 * (1.0 if error is None else error)
    return mean, error, (max(0.0, mean - spread), min(1.0, mean + spread))


def percent(share: float) -> str:
    """Write a share with one decimal, in percent."""
    return f"{100 * share:.1f}"


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Return a Markdown table: the first ``left`` columns left-aligned, the others right."""
    lines = [header, ["---" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    """A cell cannot hold a line break, and a bar would end it."""
    return " ".join(str(value).replace("|", "\\|").split())


def markdown_page(
    title: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], lines: Iterable[str], *, left: int = 1
) -> str:
    """Return a page of a title, a table and a list."""
    table = markdown_table(header, rows, left=left)
    return "\n".join([f"# {title}", "", table, *(f"- {line}" for line in lines)]) + "\n"


def environment(*more: str) -> dict[str, str | None]:
    """Return the versions that figures may depend on, without importing any of them.

    Args:
        more: further packages.
    """
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **package_versions((*PACKAGES, *more)),
    }


def read_results_json(path: str | Path) -> dict[str, Any]:
    """Read a ``results.json``.

    Raises:
        UsageError: there is none.
        UserError: it is not one of an evaluation.
    """
    value = read_json(path)
    parts = ("results", "higher_is_better", "n-samples", "hashes")
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in parts):
        raise UserError(f"{path}: not a results.json of an evaluation ({', '.join(parts)} are expected)")
    return value


def results_json(
    figures: Figures,
    meta: Mapping[str, Any],
    *,
    packages: Sequence[str] = (),
    not_in_config: Sequence[str] = ("identity", "complete", "rows"),
) -> dict[str, Any]:
    """Return ``results.json`` in the shape of lm-eval's, with hashes and what the task adds.

    Args:
        figures: what the rows come to.
        meta: what the predictions were made with, as :class:`backends.generation.predictions_log.AnswerLog` keeps it.
        packages: packages whose versions the figures depend on, besides the usual ones.
        not_in_config: parts of ``meta`` that ``config`` leaves out.
    """
    identity = dict(meta.get("identity", {}))
    made_with = {
        "generation_kwargs": {
            key: identity[key] for key in ("max_new_tokens", "min_new_tokens", "dtype") if key in identity
        },
        "template": identity.get("template"),
        "metadata": {"version": 1.0},
    }
    return {
        "results": dict(figures.results),
        "configs": {
            task: {"task": task, "output_type": "generate_until", **config, **made_with}
            for task, config in figures.configs.items()
        },
        "versions": dict.fromkeys(figures.configs, 1.0),
        "n-shot": dict.fromkeys(figures.configs, 0),
        "higher_is_better": dict(figures.higher_is_better),
        "n-samples": {
            part: {"original": read, "effective": graded} for part, (read, graded) in figures.samples.items()
        },
        **figures.extra,
        "config": {key: value for key, value in meta.items() if key not in not_in_config},
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": code_version(),
        "date": time.time(),
        "environment": environment(*packages),
    }
