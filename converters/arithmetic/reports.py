"""What a raw file holds and what a conversion did with it: figures to compute with, and a table to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from converters.arithmetic.bulk_check import DIGITS
from converters.arithmetic.problems import CHINESE, ENGLISH, KINDS
from converters.arithmetic.survey import Survey
from converters.common.console import format_table
from converters.pipeline.conversion import Counts, count_kinds, written_files
from converters.pipeline.rows import Rejected
from converters.pipeline.source import Source


@dataclass(frozen=True, kw_only=True)
class SurveyReport:
    """What a raw file holds.

    Attributes:
        input: file, bytes, sha256.
        rows: ``in`` the file, ``rejected``, ``duplicates``, and ``unique`` ones, Chinese and English.
        rejected: rejected rows by reason.
        conflicts: how many problems have more than one solution, and the first of them.
        kinds: for each kind its rows, its unique problems and their share.
        solutions_checked: rows by how far their solution was checked.
    """

    input: dict[str, Any]
    rows: Counts
    rejected: Counts
    conflicts: dict[str, Any]
    kinds: dict[str, dict[str, Any]]
    solutions_checked: Counts

    def as_json(self) -> dict[str, Any]:
        """The figures for a JSON file; the same input and options give the same ones."""
        # figures of options that were not used are None and left out
        return {key: value for key, value in vars(self).items() if value is not None}

    def table(self) -> str:
        """The report laid out for reading."""
        return "\n".join([*self._summary(), self._kinds_table()])

    def _summary(self) -> Iterator[str]:
        rows = self.rows
        yield (
            f"{self.input['file']}: {rows['in']:,} rows in, {rows['rejected']:,} rejected, "
            f"{rows['duplicates']:,} duplicates, {rows['unique']:,} different "
            f"({rows['unique_chinese']:,} Chinese + {rows['unique_english']:,} English)"
        )
        for reason, count in self.rejected.items():
            yield f"  rejected, {reason}: {count:,}"
        if self.conflicts["problems"]:
            one = self.conflicts["examples"][0]
            yield (
                f"  conflicts: {self.conflicts['problems']:,} problems have more than one solution, such as lines "
                f"{one['lines'][0]} and {one['lines'][1]}: {one['problem'][:80]!r}"
            )
        checked = (f"{count:,} {name.replace('_', ' ')}" for name, count in self.solutions_checked.items() if count)
        yield f"  solutions checked: {', '.join(checked)}"

    def _kinds_table(self, *further: str) -> str:
        """One line a kind; ``further`` are keys of more counts."""
        body = []
        for kind, one in self.kinds.items():
            counts = (f"{one[key]:,}" for key in further)
            body.append([kind, f"{one['rows']:,}", f"{one['unique']:,}", f"{one['share']:.6f}", *counts])
        sums = (f"{sum(one[key] for one in self.kinds.values()):,}" for key in further)
        total = ["total", f"{self.rows['in'] - self.rows['rejected']:,}", f"{self.rows['unique']:,}", "", *sums]
        header = ["kind", "rows", "unique", "share", *(key.replace("_", " ") for key in further)]
        return format_table(header, [*body, total])


@dataclass(frozen=True, kw_only=True)
class Report(SurveyReport):
    """What a conversion did; ``kinds`` has what was held out and written of each as well.

    Attributes:
        options: everything that was asked for.
        too_long: with a token limit, rows left out by kind, since they are too long in every precision.
        shortened: with a token limit, rows by kind that are written to a shorter precision, by that precision.
        english_dropped: English rows that were not wanted.
        left_over: rows at the end that were not written, so that the total is a multiple.
        output: file, rows, bytes, sha256.
        holdout: the same of the held-out rows.
    """

    options: dict[str, Any]
    too_long: Counts | None
    shortened: dict[str, Counts] | None
    english_dropped: int
    left_over: int
    output: dict[str, Any]
    holdout: dict[str, Any] | None

    def table(self) -> str:
        """The report laid out for reading."""
        return "\n".join([*self._summary(), self._kinds_table("held_out", "written"), *self._notes()])

    def _notes(self) -> Iterator[str]:
        """What was dropped on purpose, and where the rows went."""
        if self.english_dropped:
            yield f"{self.english_dropped:,} English rows dropped (--keep-english keeps them)"
        for precision, counts in (self.shortened or {}).items():
            if counts:
                yield f"{sum(counts.values()):,} rows shortened to {precision} ({_listed(counts)})"
        if self.too_long:
            yield (
                f"{sum(self.too_long.values()):,} rows left out, longer than {self.options['max_tokens']} tokens in "
                f"every precision ({_listed(self.too_long)})"
            )
        yield from written_files(self.left_over, self.output, self.holdout)


def survey_report(source: Source, rows: Survey, rejected: Rejected) -> SurveyReport:
    """Make the report of a raw file.

    Args:
        source: the file.
        rows: its unique and accepted rows.
        rejected: its rejected rows.
    """
    accepted = sum(rows.accepted.values())
    unique = count_kinds(rows.kinds, KINDS)
    whole = sum(unique.values())
    return SurveyReport(
        input=source.facts(),
        rows={
            "in": accepted + rejected.total,
            "rejected": rejected.total,
            "duplicates": accepted - whole,
            "unique": whole,
            "unique_chinese": whole - unique[ENGLISH],
            "unique_english": unique[ENGLISH],
        },
        rejected=dict(rejected.reasons.most_common()),
        conflicts={
            "problems": rows.conflicts,
            "examples": [
                {"problem": one.problem, "solutions": list(one.solutions), "lines": list(one.lines)}
                for one in rows.examples
            ],
        },
        kinds={
            kind: {"rows": rows.accepted[kind], "unique": unique[kind], "share": unique[kind] / whole if whole else 0.0}
            for kind in KINDS
        },
        solutions_checked={
            f"to_{DIGITS}_digits": accepted - rows.accepted[ENGLISH] - rows.exact,
            "exactly": rows.exact,
            "boxed_only": rows.accepted[ENGLISH],
        },
    )


def conversion_report(
    found: SurveyReport, written: Counts, held_out: Counts, *, keep_english: bool, **more: Any
) -> Report:
    """Make the report of a conversion.

    Args:
        found: what the raw file holds.
        written: written rows by kind.
        held_out: held-out rows by kind.
        keep_english: whether English rows were wanted.
        more: the other fields of the report.
    """
    # every Chinese row is checked exactly when it is written; English solutions cannot be recomputed
    checked = sum(written[kind] + held_out[kind] for kind in CHINESE)
    fields = vars(found) | {
        "kinds": {
            kind: {**one, "written": written[kind], "held_out": held_out[kind]} for kind, one in found.kinds.items()
        },
        "solutions_checked": {**found.solutions_checked, "exactly_when_written": checked},
        "english_dropped": 0 if keep_english else found.rows["unique_english"],
    }
    return Report(**fields, **more)


def only_some(counts: Counts) -> Counts:
    """Return the counts that are not 0."""
    return {kind: count for kind, count in counts.items() if count}


def _listed(counts: Counts) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
