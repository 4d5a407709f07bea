"""The sections of a run's page, each from its own files in the run; what is missing there is named, not an error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converters.common.errors import UserError
from converters.common.reader import read_json
from eval.report.chart import Line, chart, running_mean
from eval.report.data import Compared, Evaluation, wrong_answers
from eval.report.html import Html, bars, join, legend, page, pairs, side_by_side, table, tag, tiles

if TYPE_CHECKING:
    from backends.run.directory import Run

Log = Sequence[Mapping[str, Any]]

# what people call a measure
_NAMES = {"acc": "accuracy", "macro_f1": "macro-F1", "mcc": "Matthews correlation", "f1": "F1", "em": "EM"}


def build(run: Run, compared: Sequence[Compared], *, threshold: float, wrong: int) -> str:
    """Return the page.

    Args:
        run: the run directory.
        compared: evaluations of the run, with those of its base where there are some.
        threshold: share of a reading measure that must be kept.
        wrong: wrong answers to show of every evaluation.
    """
    from backends.run.directory import read_log

    log = [row for row in read_log(run.log) if math.isfinite(row.get("loss", math.nan))]
    reading = [one for one in compared if _is_reading(one.after)]
    learned = [one for one in compared if not _is_reading(one.after)]
    name = run.path.resolve().name
    return page(
        f"{name}: report",
        tag("h1", name),
        _state(run, log),
        tiles(_headline(run, log, [*learned, *reading])),
        tag("h2", "What it learned"),
        join(map(_learned, learned))
        or _missing("no evaluation of a task yet", f"python -m eval.math --ckpt {run.path}"),
        tag("h2", "What it kept"),
        join(_kept(one, threshold) for one in reading)
        or _missing("no evaluation of its reading yet", f"python -m eval.squad --ckpt {run.path}"),
        _sweep(run),
        tag("h2", "Loss"),
        _loss(log),
        tag("h2", "Wrong answers, beside the right ones"),
        join(_wrong(one.after, run, wrong, unfolded=i == 0) for i, one in enumerate([*learned, *reading])) or _none(),
        tag("h2", "Data"),
        _data(run),
        tag("h2", "Recipe"),
        tag("pre", (run.path / "recipe.yaml").read_text(encoding="utf-8")),
        tag("h2", "Environment"),
        _environment(run, compared),
    )


def _is_reading(one: Evaluation) -> bool:
    return all(task.startswith("squad") for task in one.tasks)


def _none() -> Html:
    return tag("p", "There is nothing to show.", cls="soft")


def _missing(what: str, command: str) -> Html:
    return tag("p", f"There is {what}: ", tag("code", command), cls="soft")


def _state(run: Run, log: Log) -> Html:
    """Say what was trained from what, and whether it is finished."""
    what = f"LoRA on {run.base}" if run.is_adapter else "LoRA" if run.recipe.pet else "Full-parameter training"
    state = "finished"
    if run.result is None:
        state = (
            f"not finished: step {log[-1]['step']:,} of {log[-1]['total']:,}" if log else "not finished: no step yet"
        )
    return tag(
        "p",
        f"{what}, template {run.recipe.data.template}, {state}. Written {time.strftime('%Y-%m-%d %H:%M')}.",
        cls="soft",
    )


def _headline(run: Run, log: Log, compared: Iterable[Compared]) -> list[tuple[str, Any]]:
    """Choose the figures that are read first."""
    found: list[tuple[str, Any]] = []
    for one in compared:
        for task in one.after.tasks[:1]:
            measure = one.after.measures(task)[0]
            now = one.after.written(task, measure)
            said = f"{one.before.written(task, measure).removesuffix(' %')} → {now}" if one.before else now
            found.append((f"{one.after.name(task)}, {_named(measure)}", said))
        if contest := one.after.value.get("contest"):
            found.append(("contest score", f"{contest['score']:.4f}"))
    if log:
        found.append(("loss, first → last step", f"{log[0]['loss']:.3f} → {log[-1]['loss']:.3f}"))
    if run.result:
        found.append(("trained parameters", f"{run.result['trainable_parameters']:,}"))
        found.append(("time in steps", _duration(run.result["seconds"])))
        found.append(("tokens a second", f"{run.result['tokens_per_s']:,.0f}"))
    return found


def _named(measure: str) -> str:
    return _NAMES.get(measure, measure)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _learned(one: Compared) -> Html:
    """Draw accuracy by kind before and after, and list the figures under every rule."""
    after, before = one.after, one.before
    sections = [tag("h3", after.title)]
    for task in after.tasks:
        measure = after.measures(task)[0]
        sides = [("before", before), ("after", after)] if before else [("after", after)]
        drawn = []
        for part in [*after.parts(task), task]:
            shares = [(side, found.share(part, measure)) for side, found in sides]
            values = [(side, share, f"{100 * share:.1f}") for side, share in shares if share is not None]
            drawn.append((f"{'all' if part == task else after.name(part)} ({after.samples(part):,})", values))
        sections += [
            legend(*((side, f"{side} training") for side, _ in sides), (None, f"{_named(measure)} in percent, (rows)"))
        ]
        sections += [bars(drawn), _measures(one, task)]
    return join([*sections, *_confusion(after), _doubts(one.doubts)])


def _measures(one: Compared, task: str) -> Html:
    """List every measure of a task."""
    after, before = one.after, one.before
    sides = [before, after] if before else [after]
    header = ["", *(["before"] if before else []), "after", "95 %", "rows"]
    rows = [
        [
            _named(name),
            *(side.written(task, name) for side in sides),
            after.interval(task, name),
            f"{after.samples(task):,}",
        ]
        for name in after.measures(task)
    ]
    return table(header, rows)


def _confusion(one: Evaluation) -> list[Html]:
    """Show which label was answered how, where the results have it."""
    counts = one.value.get("counts", {}).get("confusion")
    if not isinstance(counts, Mapping) or not counts:
        return []
    answers = list(next(iter(counts.values())))
    rows = [[label, *(row[answer] for answer in answers)] for label, row in counts.items()]
    return [table(["label", *(f"→ {answer}" for answer in answers)], rows)]


def _doubts(lines: Iterable[str]) -> Html:
    return join(tag("p", f"Note: {line}.", cls="soft") for line in lines)


def _kept(one: Compared, threshold: float) -> Html:
    """Show reading before and after with the ratio of each measure, and the verdict."""
    heading = tag("h3", one.after.title)
    gate = _gate(one.after)
    if one.before is None:
        figures = join(_measures(one, task) for task in one.after.tasks)
        return join([heading, figures, gate, tag("p", "Nothing to compare with: no results of the base.", cls="soft")])
    from eval.retention import read_results, retention

    try:
        kept = retention(read_results(one.before.path), read_results(one.after.path))
    except UserError as error:
        return join([heading, *(_measures(one, task) for task in one.after.tasks), gate, _doubts([str(error)])])
    rows = [
        [
            _named(each.measure)
            if len(one.after.tasks) == 1
            else f"{one.after.name(each.task)} {_named(each.measure)}",
            one.before.written(each.task, each.measure),
            one.after.written(each.task, each.measure),
            "–" if each.ratio is None else f"{each.ratio:.3f}",
            "" if each.low is None else f"{each.low:.3f} to {each.high:.3f}",
            f"{each.n:,}",
        ]
        for each in kept
    ]
    passed = all(each.passed(threshold) for each in kept)
    verdict = tag(
        "p",
        tag("b", "Kept" if passed else "Not kept", cls="good" if passed else "bad"),
        f": every measure must be at least {threshold:g} of what it was."
        + ("" if all(each.certain(threshold) for each in kept) else " An interval holds the threshold: not certain."),
    )
    header = ["", "before", "after", "ratio", "95 %", "rows"]
    return join([heading, table(header, rows), verdict, gate, _doubts(one.doubts)])


def _gate(one: Evaluation) -> Html:
    gate = one.value.get("gate")
    if not isinstance(gate, Mapping):
        return Html("")
    passed = bool(gate.get("passed"))
    named = tag("b", "Passed" if passed else "Did not pass", cls="good" if passed else "bad")
    said = f" the gate: {gate.get('protocol')} F1 {gate.get('f1'):.4f}, EM {gate.get('em'):.4f}; {gate.get('source')}."
    return tag("p", named, said)


def _sweep(run: Run) -> Html:
    """Draw what was learned and what was kept over the run's checkpoints, where eval.sweep was run."""
    file = run.path / "eval" / "sweep" / "sweep.json"
    if not file.is_file():
        return Html("")
    found = read_json(file)
    points = found.get("points", [])
    accuracy = [(float(one["step"]), 100 * one["accuracy"]) for one in points]
    kept = [(float(one["step"]), 100 * one["f1_kept"]) for one in points if one["f1_kept"] is not None]
    if kept and points[0]["step"] == 0:
        kept.insert(0, (0.0, 100.0))  # the base keeps all of itself
    lines = [Line(kind, drawn) for kind, drawn in (("mark", kept), ("after", accuracy)) if drawn]
    if not lines:
        return Html("")
    rows = [
        [
            f"{one['step']:,}{' best' if one['step'] == found.get('best') else ''}",
            f"{100 * one['accuracy']:.1f}",
            *("–" if one[name] is None else f"{100 * one[name]:.1f}" for name in ("f1_kept", "em_kept")),
            "–" if one["score"] is None else f"{one['score']:.4f}",
        ]
        for one in points
    ]
    return join(
        [
            tag("h2", "Over its checkpoints"),
            legend(("after", "accuracy in percent"), ("mark", "F1 kept of the base's, in percent"), (None, "by step")),
            chart(lines, title="Accuracy and kept F1 over steps", height="14rem", logarithmic=False),
            table(["step", "accuracy", "F1 kept", "EM kept", "contest score"], rows),
        ]
    )


def _loss(log: Log) -> Html:
    """Draw the loss with its running mean, and the learning rate under it."""
    if not log:
        return tag("p", "There is no step in train_log.jsonl.", cls="soft")
    points = [(float(row["step"]), float(row["loss"])) for row in log]
    smooth = running_mean(points)
    first, last = log[0], log[-1]
    title = f"Loss from {first['loss']:.4f} at step {first['step']} to {last['loss']:.4f} at step {last['step']}"
    rates = [(float(row["step"]), float(row["lr"])) for row in log if "lr" in row]
    parts = [
        legend(("before", "loss of a step, in nats per supervised token"), ("after", "running mean")),
        chart([Line("before", points), Line("after", smooth)], title=title, height="17rem"),
    ]
    if rates:
        parts += [legend(("mark", "learning rate")), chart([Line("mark", rates)], title="Learning rate", height="5rem")]
    return join(parts)


def _wrong(one: Evaluation, run: Run, most: int, *, unfolded: bool) -> Html:
    """Show wrong answers, what is right on the left of what was said."""
    template = run.template if (run.path / "template.json").is_file() else None
    chosen, count = wrong_answers(one, template, most)
    n = len(one.predictions)
    if not n:
        return tag("p", f"{one.title}: the predictions are not beside the results.", cls="soft")
    said = f"{one.title}: {len(chosen)} of {count:,} wrong answers to {n:,} questions"
    items = [(wrong.row, wrong.question, wrong.right, wrong.said) for wrong in chosen]
    shown = side_by_side(("right", "answered"), items)
    return tag("details", tag("summary", said), shown, open="" if unfolded else None)


def _data(run: Run) -> Html:
    """Show which rows were trained on and what encoding did to them."""
    file = run.path / "data.json"
    if not file.is_file():
        return _none()
    found = read_json(file)
    audit = found.get("audit", {})
    share = audit.get("supervised", 0) / (audit.get("tokens") or 1)
    values = [(str(one.get("path")), f"SHA-256 {str(one.get('sha256'))[:16]}") for one in found.get("files", [])]
    values += [
        ("rows", f"{audit.get('kept', 0):,} of {audit.get('rows', 0):,}"),
        ("tokens", f"{audit.get('tokens', 0):,}, of them supervised {audit.get('supervised', 0):,} ({share:.1%})"),
        ("longest row", f"{audit.get('longest', 0):,} tokens; seq_length {audit.get('seq_length')}"),
        *((what, _counted(audit, what)) for what in ("dropped", "truncated", "unsupervised", "empty", "unknown")),
        ("template", _hashed(found.get("template"))),
        ("tokenizer", _hashed(found.get("tokenizer"))),
    ]
    histogram = audit.get("histogram", [])
    most = max((count for *_, count in histogram), default=0) or 1
    drawn = [(f"{low:,} to {high:,}", [("after", count / most, f"{count:,}")]) for low, high, count in histogram]
    lengths = [tag("h3", "Rows by their length in tokens"), bars(drawn)] if drawn else []
    return join([pairs(values), *lengths])


def _counted(audit: Mapping[str, Any], what: str) -> str:
    rows = audit.get("examples", {}).get(what, [])
    return f"{audit.get(what, 0):,}" + (f" (rows {', '.join(map(str, rows))}, …)" if rows else "")


def _hashed(value: Any) -> str:
    """Write a template or tokenizer by its name and the beginning of its hash."""
    if not isinstance(value, Mapping):
        return "not recorded"
    return f"{value.get('name') or value.get('source')} ({str(value.get('hash'))[:16]})"


def _environment(run: Run, compared: Sequence[Compared]) -> Html:
    """Show what the run was made with, and what its evaluations were made with."""
    file = run.path / "environment.json"
    parts = [pairs(_flat(read_json(file)))] if file.is_file() else [_none()]
    for one in compared:
        for when, found in (("before", one.before), ("after", one.after)):
            if found is not None:
                values = {"file": str(found.path), "code": found.value.get("git_hash"), **found.hashes}
                named = tag("summary", f"{found.title}, {when}")
                parts.append(tag("details", named, pairs(_flat({**values, **found.value.get("environment", {})}))))
    return join(parts)


def _flat(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write nested values one a line, lists joined, what is None left out."""
    found: list[tuple[str, str]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found += [(f"{key} {name}", text) for name, text in _flat(inner)]
        elif inner is not None:
            found.append((key, " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)))
    return found
