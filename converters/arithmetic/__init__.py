"""Arithmetic problems: raw rows to deduplicated, checked, worked and sampled conversations.

``python -m converters.arithmetic`` on the command line; ``synthesize``, ``convert``, ``recite`` and ``report`` from
Python::

    from converters.arithmetic import OutputOptions, convert, synthesize

    synthesize("raw.jsonl", rows=20_000, seed=1)
    print(convert("raw.jsonl", OutputOptions("train.jsonl", rows=512, holdout=16, holdout_out="test.jsonl")).table())

Heavy modules are imported inside the functions: Polars starts threads, and the workers must be forked before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.arithmetic.problems import CONTEST_ROWS
from converters.pipeline.output import OutputOptions

if TYPE_CHECKING:
    from converters.arithmetic.reports import Report, SurveyReport
    from converters.tokenizers.segments import TokenLimit

__all__ = ["CONTEST_ROWS", "OutputOptions", "convert", "recite", "report", "synthesize"]


def synthesize(
    out: str | Path, rows: int = CONTEST_ROWS, seed: int = 0, kinds: Sequence[str] | None = None
) -> dict[str, int]:
    """Write raw rows like the contest's as JSONL; the same seed gives the same bytes.

    Args:
        out: the file to write.
        rows: how many.
        seed: of all that is drawn.
        kinds: only these, English rows then none; ``+ - * /`` name the operators of direct computation.

    Returns:
        The number of Chinese and of English rows.

    Raises:
        UsageError: fewer than one row, a negative seed, or an unknown kind.
    """
    from converters.arithmetic import synthesis

    return synthesis.write_rows(out, rows, seed, kinds)


def recite(out: str | Path, times: int = 20, seed: int = 0) -> int:
    """Write rows that recite the tables which function values are worked out with, as ShareGPT conversations.

    Args:
        out: the JSONL file to write.
        times: how often each entry of each table occurs.
        seed: the same seed gives the same bytes.

    Returns:
        The rows written.

    Raises:
        UsageError: fewer than one time, or a negative seed.
    """
    from converters.arithmetic.recitation import write_recitations

    return write_recitations(out, times, seed)


def report(raw: str | Path) -> SurveyReport:
    """Say what a raw file holds: rows, rejected, duplicates, conflicts, and the share of each kind.

    Args:
        raw: JSONL or a JSON array, gzip too; ``-`` is stdin.

    Raises:
        UsageError: there is no such file, or nothing is in it.
    """
    from converters.arithmetic.reports import survey_report
    from converters.arithmetic.survey import survey
    from converters.pipeline.rows import Rejected
    from converters.pipeline.source import open_source

    rejected = Rejected()
    with open_source(str(raw)) as source:
        return survey_report(source, survey(source, rejected), rejected)


def convert(
    raw: str | Path,
    output: OutputOptions,
    *,
    steps: str = "worked",
    precision: str | None = None,
    digits: str = "plain",
    limit: TokenLimit | None = None,
    keep_english: bool = False,
) -> Report:
    """Convert raw rows: reject what is broken or wrong, deduplicate, sample, write the steps.

    Args:
        raw: JSONL or a JSON array, gzip too; ``-`` is stdin.
        output: how rows are chosen and written; beside the output go its report and the rejected rows.
        steps: style of the answers, a module of ``converters.arithmetic.steps``.
        precision: digits that answers are worked out to; None for the style's own.
        digits: how the digits of columns stand: ``plain``, ``cells`` or ``spaced``.
        limit: the longest training row; longer ones are shortened, or else left out and counted.
        keep_english: write English rows too.

    Raises:
        UsageError: an option is invalid, or there is no such file.
        UserError: too many rows are rejected, or there are fewer than asked for; only the rejected rows are written.
    """
    from converters.arithmetic.records import record_workers
    from converters.arithmetic.steps import choose_style
    from converters.common.files import write_json
    from converters.pipeline.source import open_source

    output.check_input(str(raw))
    style = choose_style(steps, precision, digits)
    if limit is not None:
        # before the fork, so that all workers share one tokenizer
        limit.open()
    with record_workers() as make:
        # imports Polars, which starts threads: only after the workers are forked
        from converters.arithmetic.conversion import Conversion

        with open_source(str(raw)) as source:
            done = Conversion(source, output, style, limit, keep_english, make).run()
    write_json(output.report_out, done.as_json())
    return done
