"""Builds the page of a run from its files. A missing file is not an error: the page says what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json
from eval.loss.task import NAME as LOSS
from eval.report.compared import Compared, compare, rows_table, wrong_answers
from eval.report.data import base_evaluations, find_evaluations, measure_name, own_evaluations
from eval.retention import THRESHOLD

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from backends.run.directory import Run

WRONG = 20
Log = Sequence[Mapping[str, Any]]

# characters that HTML could take for markup, or that older JavaScript does not allow in a string
_UNSAFE = re.compile("[<>&\u2028\u2029]")


@dataclass(frozen=True)
class Report:
    """A page about a run.

    Attributes:
        html: the whole document.
        evaluations: the evaluations on the page, each with its counterpart before training.
        found: number of evaluations of the run that were found; one found twice is shown once.
        missing: what the page leaves out because the run does not have it.
        notes: results that were named but are not on the page.
    """

    html: str
    evaluations: tuple[Compared, ...]
    found: int
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()


def build_report(
    run: str | Path,
    *,
    before: Sequence[str | Path] | None = None,
    after: Sequence[str | Path] | None = None,
    threshold: float = THRESHOLD,
    loss_gate: float | None = None,
    wrong: int = WRONG,
) -> Report:
    """Build the page of a run.

    Args:
        run: its directory.
        before: results of the base, or directories that hold some; None looks where they go by default.
        after: results of the run, or directories that hold some; None takes those in the run.
        threshold: share of every reading measure that must be kept.
        loss_gate: how far a loss on text may rise, in nats a token; None sets no gate.
        wrong: how many wrong answers to show of every evaluation.

    Returns:
        The page and what it shows; nothing is written.

    Raises:
        UsageError: there is no run, or no results where some were named.
        UserError: a file that was named is not one of an evaluation.
    """
    from backends.run.directory import Run, read_log
    from eval.report.plots import loss_plots

    if wrong < 0 or not threshold > 0:
        raise UsageError(f"--wrong {wrong}, --threshold {threshold:g}: not below 0, and more than 0")
    opened = Run.open(run)
    of_run = find_evaluations(after) if after else own_evaluations(opened)
    of_base = find_evaluations(before) if before else base_evaluations(opened, of_run)
    compared = compare(of_run, of_base)
    notes = []
    # by identity: one evaluation of the base may stand beside several of the run
    unused = len(of_base) - len({id(one.before) for one in compared if one.before})
    if before and unused:
        notes.append(
            f"{unused} of {len(of_base)} results before training have no counterpart of the same rows after it"
        )

    # a record without a finite loss cannot be drawn
    log = [row for row in read_log(opened.log) if math.isfinite(row.get("loss", math.nan))]
    # what was learned comes first on the page, what was to be kept after it
    compared.sort(key=lambda one: one.after.should_be_kept)
    # a run that has not written it yet gets a page all the same, with whole prompts
    template = opened.template if (opened.path / "template.json").is_file() else None
    graded = [one.after.rows(template) for one in compared]
    sections: dict[str, Any] = {
        "learned": [one for one in compared if not one.after.should_be_kept],
        "kept": [_retention(one, threshold, loss_gate) for one in compared if one.after.should_be_kept],
        "sweep": _sweep(opened),
        "loss": loss_plots(log) if log else {},
        "rows": rows_table(compared, template),
        "wrong": [
            (one.after, len(rows), *wrong_answers(rows, wrong))
            for one, rows in zip(compared, graded, strict=True)
            # a loss is neither right nor wrong
            if one.after.tasks != [LOSS]
        ],
        "data": _json(opened, "data.json"),
        "environment": _json(opened, "environment.json"),
    }
    missing = {
        "learned": "evaluations of a task",
        "kept": "evaluations of reading",
        "loss": "steps in train_log.jsonl",
        "data": "data.json",
        "environment": "environment.json",
    }
    html = _render(
        **sections,
        run=opened,
        log=log,
        name=opened.path.resolve().name,
        written=time.strftime("%Y-%m-%d %H:%M"),
        figures=_headline(opened, log, compared),
        compared=compared,
        threshold=threshold,
        loss_gate=loss_gate,
        recipe=(opened.path / "recipe.yaml").read_text(encoding="utf-8"),
    )
    without = tuple(what for section, what in missing.items() if not sections[section])
    return Report(html, tuple(compared), len(of_run), without, tuple(notes))


def _render(**values: Any) -> str:
    """Fill the template of the page, which escapes every value.

    The content security policy allows the page's one script by its hash: no other can run, and nothing can be fetched.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("eval.report"),
        autoescape=True,
        # a misspelt name in the template raises instead of leaving a blank on the page
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"measure_name": measure_name, "script_json": script_json, "flat": _flat}
    environment.filters |= {"figure": _figure, "percent": lambda share: _figure(share, 1, scale=100)}
    script, style = (_source(environment, name) for name in ("rows.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # inline styles must be allowed: matplotlib writes them as attributes, which a hash cannot name
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template("report.html").render(script=script, style=style, policy=policy, **values)


def _source(environment: Environment, name: str) -> Markup:
    from markupsafe import Markup

    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def script_json(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: characters special to HTML or JavaScript are escaped."""
    from markupsafe import Markup

    # NaN is no JSON: the page's script would stop at it
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _headline(run: Run, log: Log, compared: Iterable[Compared]) -> list[tuple[str, str]]:
    """Return the headline figures of the page as ``(name, figure)``."""
    found = []
    for one in compared:
        task = one.after.tasks[0]
        measure = one.after.measures(task)[0]
        figures = [side.figure(task, measure) for side in one.sides.values()]
        joined = " → ".join([*(figure.removesuffix(" %") for figure in figures[:-1]), figures[-1]])
        found.append((f"{one.after.name(task)}, {measure_name(measure)}", joined))
        if contest := one.after.value.get("contest"):
            found.append(("contest score", f"{contest['score']:.4f}"))
    if log:
        found.append(("loss, first → last step", f"{log[0]['loss']:.3f} → {log[-1]['loss']:.3f}"))
    if run.result:
        found.append(("trained parameters", f"{run.result['trainable_parameters']:,}"))
        found.append(("time in steps", _duration(run.result["seconds"])))
        found.append(("tokens a second", f"{run.result['tokens_per_s']:,.0f}"))
    return found


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _retention(one: Compared, threshold: float, loss_gate: float | None) -> dict[str, Any]:
    """Compare reading, or a loss, before and after.

    Returns:
        ``one``, its ``retention`` (None if there is nothing to compare with) and the ``doubts`` about it.
    """
    from eval.retention import retention

    if one.before is None:
        return {"one": one, "retention": None, "doubts": []}
    try:
        gate = loss_gate if LOSS in one.after.tasks else None
        found = retention(one.before.path, one.after.path, threshold, loss_gate=gate)
    # results that cannot be compared are worth a line on the page, not the whole page
    except UserError as error:
        return {"one": one, "retention": None, "doubts": [str(error)]}
    return {"one": one, "retention": found, "doubts": one.doubts}


def _sweep(run: Run) -> dict[str, Any]:
    """Return what :mod:`eval.sweep` wrote, with a plot of what was learned and kept; empty if it was not run."""
    from eval.report.plots import Curve, plot

    found = _json(run, "eval/sweep/sweep.json")
    if not (points := found.get("points")):
        return {}
    curves = [Curve("after", [(one["step"], 100 * one["accuracy"]) for one in points])]
    kept = [(one["step"], 100 * one["f1_kept"]) for one in points if one["f1_kept"] is not None]
    if kept and points[0]["step"] == 0:
        kept.insert(0, (0, 100.0))  # the base keeps all of itself
    if kept:
        curves.insert(0, Curve("mark", kept))
    drawn = {"plot": plot(curves, title="Accuracy and kept F1 over steps", height=190)}
    # absent in what an older sweep wrote; None where no text was measured, and for the base itself
    if rises := [(one["step"], one["loss_rise"]) for one in points if one.get("loss_rise") is not None]:
        curve = Curve("mark", [(0, 0.0), *rises])
        drawn["rises"] = plot([curve], title="Rise of the loss on text over steps", height=120)
    return {**found, **drawn}


def _json(run: Run, name: str) -> dict[str, Any]:
    """Read a JSON file of the run; empty if there is none."""
    file = run.path / name
    return read_json(file) if file.is_file() else {}


def _figure(value: Any, digits: int = 0, scale: int = 1) -> str:
    """Format a number with thousands separators; a dash for a missing one."""
    return f"{scale * value:,.{digits}f}" if isinstance(value, int | float) else "–"


def _flat(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested values to ``(name, text)``; lists are joined by spaces, None is left out."""
    found: list[tuple[str, str]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found += [(f"{key} {name}", text) for name, text in _flat(inner)]
        elif inner is not None:
            found.append((key, " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)))
    return found
