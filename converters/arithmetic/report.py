"""The report of a raw file and of a conversion: a table to read and a JSON file to compute with."""

from __future__ import annotations

from typing import Any

from converters.arithmetic.bulk_check import DIGITS
from converters.arithmetic.conversion import Converted, Options
from converters.arithmetic.problems import CHINESE, ENGLISH, KINDS
from converters.arithmetic.survey import Counts, Survey, by_kind
from converters.common.console import format_table
from converters.common.rejected import Rejected
from converters.common.source import Source
from converters.pipeline.options import file_facts


def survey_report(source: Source, rows: Survey, rejected: Rejected) -> dict[str, Any]:
    """What a raw file holds, as JSON."""
    accepted, refused = sum(rows.accepted.values()), rejected.reasons.total()
    unique = by_kind(rows.kinds)
    whole = sum(unique.values())
    return {
        "input": {"file": source.name, "bytes": source.size, "sha256": source.sha256},
        "rows": {
            "in": accepted + refused,
            "rejected": refused,
            "duplicates": accepted - whole,
            "unique": whole,
            "unique_chinese": whole - unique[ENGLISH],
            "unique_english": unique[ENGLISH],
        },
        "rejected": dict(rejected.reasons.most_common()),
        "conflicts": {
            "problems": rows.conflicts,
            "examples": [
                {"problem": one.problem, "solutions": list(one.solutions), "lines": list(one.lines)}
                for one in rows.examples
            ],
        },
        "kinds": {
            kind: {"rows": rows.accepted[kind], "unique": unique[kind], "share": unique[kind] / whole if whole else 0.0}
            for kind in KINDS
        },
        "solutions_checked": {
            f"to_{DIGITS}_digits": accepted - rows.accepted[ENGLISH] - rows.exact,
            "exactly": rows.exact,
            "boxed_only": rows.accepted[ENGLISH],
        },
    }


def convert_report(source: Source, options: Options, done: Converted) -> dict[str, Any]:
    """What a conversion did, as JSON; the same input and options give the same report."""
    report = survey_report(source, done.survey, done.rejected)
    chosen = [done.written[kind] + done.held_out[kind] for kind in CHINESE]
    report["solutions_checked"]["exactly_when_written"] = sum(chosen)
    for kind, row in report["kinds"].items():
        row["written"] = done.written[kind]
        row["held_out"] = done.held_out[kind]
    report["options"] = {
        "steps": options.style.name,
        "precision": options.style.precision,
        "digits": options.style.digits,
        **options.as_json(),
        "keep_english": options.keep_english,
    }
    if options.limit is not None:
        report["options"] |= {
            "max_tokens": options.limit.tokens,
            "tokenizer": str(options.limit.tokenizer),
            "template": options.limit.template,
        }
        report["too_long"] = _some(done.too_long)
        report["shortened"] = {name: _some(counts) for name, counts in done.shortened.items()}
    report["english_dropped"] = 0 if options.keep_english else report["rows"]["unique_english"]
    report["left_over"] = done.left_over
    report["output"] = file_facts(options.out, sum(done.written.values()))
    if options.holdout_out:
        report["holdout"] = file_facts(options.holdout_out, sum(done.held_out.values()))
    return report


def _some(counts: Counts) -> Counts:
    """The kinds there are some of."""
    return {kind: count for kind, count in counts.items() if count}


def table(report: dict[str, Any]) -> str:
    """Lay a report out for reading."""
    rows = report["rows"]
    converted = "output" in report
    columns = ["rows", "unique", "share", *(["held out", "written"] if converted else [])]
    body = []
    for kind, figures in report["kinds"].items():
        cells = [f"{figures['rows']:,}", f"{figures['unique']:,}", f"{figures['share']:.6f}"]
        body.append([kind, *cells, *([f"{figures['held_out']:,}", f"{figures['written']:,}"] if converted else [])])
    accepted = rows["in"] - rows["rejected"]
    total = ["total", f"{accepted:,}", f"{rows['unique']:,}", ""]
    if converted:
        held = sum(figures["held_out"] for figures in report["kinds"].values())
        total += [f"{held:,}", f"{report['output']['rows']:,}"]
    lines = [
        f"{report['input']['file']}: {rows['in']:,} rows in, {rows['rejected']:,} rejected, "
        f"{rows['duplicates']:,} duplicates, {rows['unique']:,} different "
        f"({rows['unique_chinese']:,} Chinese + {rows['unique_english']:,} English)",
        *(f"  rejected, {reason}: {count:,}" for reason, count in report["rejected"].items()),
    ]
    if report["conflicts"]["problems"]:
        one = report["conflicts"]["examples"][0]
        lines.append(
            f"  conflicts: {report['conflicts']['problems']:,} problems have more than one solution, such as lines "
            f"{one['lines'][0]} and {one['lines'][1]}: {one['problem'][:80]!r}"
        )
    checked = report["solutions_checked"]
    lines.append(
        "  solutions checked: "
        + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in checked.items() if count)
    )
    lines += [format_table(["kind", *columns], [*body, total])]
    if converted:
        lines += _notes(report)
    return "\n".join(lines)


def _notes(report: dict[str, Any]) -> list[str]:
    """What was dropped on purpose, and where the rows went."""
    notes = []
    if report["english_dropped"]:
        notes.append(f"{report['english_dropped']:,} English rows dropped (--keep-english keeps them)")
    options = report["options"]
    for name, counts in report.get("shortened", {}).items():
        if counts:
            notes.append(f"{sum(counts.values()):,} rows shortened to {name} ({_listed(counts)})")
    if report.get("too_long"):
        notes.append(
            f"{sum(report['too_long'].values()):,} rows left out, longer than {options['max_tokens']} tokens in every "
            f"precision ({_listed(report['too_long'])})"
        )
    if report["left_over"]:
        notes.append(f"{report['left_over']} rows left over, so that the total is a multiple")
    for key in ("output", "holdout"):
        if key in report:
            one = report[key]
            notes.append(f"{key}: {one['rows']:,} rows in {one['file']} (sha256 {one['sha256'][:12]}…)")
    return notes


def _listed(counts: Counts) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
