"""What every evaluation writes: figures with intervals, ``results.json``, Markdown tables and package versions."""

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

PACKAGES = ("twinlora", "torch", "transformers", "peft", "mindspore", "mindformers", "tokenizers", "tiktoken")


@dataclass(frozen=True)
class Figures:
    """The figures of a set of graded rows.

    Attributes:
        header: names of the table's columns.
        table: its rows.
        lines: the lines printed under it.
        results: figures by part of the task, as lm-eval names them: ``{"squad": {"f1,none": 58.5, …}}``.
        configs: what the figures were made with, by task.
        higher_is_better: whether a higher value is better, by task and measure.
        samples: numbers of rows by part, ``(read, graded)``.
        extra: further entries of ``results.json``.
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
    """Return the Wilson score interval of a share (Wilson 1927); unlike the normal interval it stays within 0…1.

    Args:
        right: successes.
        n: trials.
        z: quantile of the normal distribution; 1.96 gives 95 % confidence.

    Returns:
        Lower and upper end, 0 to 1.
    """
    if n == 0:
        # without a trial nothing is known of the share
        return 0.0, 1.0
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    # at 0 and n the formula gives exactly 0 and 1, which floating point may miss by a rounding error
    return (0.0 if right == 0 else low), (1.0 if right == n else high)


def share_figures(measure: str, right: int, n: int) -> dict[str, Any]:
    """Return the entries of a share in ``results.json``: value, standard error (None for a single row), 95 % interval.

    Args:
        measure: name of the entries.
        right: successes.
        n: trials.
    """
    share = right / n if n else 0.0
    return {
        f"{measure},none": share,
        # n - 1: the sample standard deviation of zeros and ones over √n, as in mean_and_interval()
        f"{measure}_stderr,none": math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
        f"{measure}_wilson95,none": list(wilson(right, n)),
    }


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None, tuple[float, float]]:
    """Return mean, standard error and 95 % interval of values from 0 to 1.

    The interval is Wilson's if every value is 0 or 1, otherwise the normal one (mean ± 1.96 standard errors) cut to
    0…1. The standard error of a single value is None.
    """
    n, mean = len(values), sum(values) / len(values)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    if set(values) <= {0.0, 1.0}:
        return mean, error, wilson(int(sum(values)), n)
    # one value says nothing of the spread: 1 makes the interval the whole range
    spread = Z95 * (1.0 if error is None else error)
    return mean, error, (max(0.0, mean - spread), min(1.0, mean + spread))


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution, for an interval of 95 %.

    The expansion about the normal quantile z of Abramowitz and Stegun 26.7.5; from 3 degrees of freedom it is within
    0.5 % of the exact value.

    Args:
        freedom: degrees of freedom, 1 or more.
    """
    z, v = Z95, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, start=1))


def mean_per_unit(values: Sequence[float], units: Sequence[float]) -> tuple[float, float | None]:
    """Return Σ values / Σ units and its standard error, rows being the sample: the ratio estimator.

    With k rows, value d and unit count n of each, N = Σ n and the mean m = Σ d / N (Cochran 1977, section 6.4)::

        error² = k / (k − 1) · Σ (d − m·n)² / N²

    So a row counts by its units, and rows, not units, are independent: the tokens of one passage are not.

    Args:
        values: of each row, for instance the loss summed over its tokens.
        units: of each row, for instance its number of tokens; more than 0 in all.

    Returns:
        The mean, and its standard error; None for a single row.
    """
    k, total = len(values), math.fsum(units)
    mean = math.fsum(values) / total
    if k < 2:
        return mean, None
    squares = math.fsum((value - mean * unit) ** 2 for value, unit in zip(values, units, strict=True))
    return mean, math.sqrt(k / (k - 1) * squares) / total


def percent(share: float) -> str:
    """Format a share from 0 to 1 in percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """Return a Markdown table.

    Args:
        header: names of the columns.
        rows: lines of the table; any value is written as text.
        left: how many columns, from the first, are aligned left; the others are aligned right.
    """
    lines = [header, ["---" if i < left else "--:" for i in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    """Format a table cell: a Markdown cell cannot hold a line break, and a bar would end it."""
    return " ".join(str(value).replace("|", "\\|").split())


def markdown_page(
    title: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], lines: Iterable[str], *, left: int = 1
) -> str:
    """Return a Markdown page: a title, a table (see :func:`markdown_table`) and a list of lines."""
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
        UsageError: the file is missing.
        UserError: it was not written by an evaluation.
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
    """Return the content of ``results.json``: lm-eval's shape, plus hashes and the task's own entries.

    Args:
        figures: the figures of the rows.
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
        # lm-eval's files have both for every task; 0 because no prompt holds worked examples
        "versions": dict.fromkeys(figures.configs, 1.0),
        "n-shot": dict.fromkeys(figures.configs, 0),
        "higher_is_better": dict(figures.higher_is_better),
        "n-samples": {
            part: {"original": read, "effective": graded} for part, (read, graded) in figures.samples.items()
        },
        **figures.extra,
        "config": {key: value for key, value in meta.items() if key not in not_in_config},
        # the predictions' own hash lets retention and report refuse rows that were changed afterwards
        "hashes": {**identity, "predictions": meta.get("sha256")},
        "git_hash": code_version(),
        "date": time.time(),
        "environment": environment(*packages),
    }
