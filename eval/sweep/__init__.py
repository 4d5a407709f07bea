"""Evaluates every checkpoint of a run: what it has learned, what it has forgotten, and which one is the best.

::

    base (step 0) and checkpoints → eval.math → accuracy ┐
                                  → eval.squad → F1, EM  ├→ score, share kept → the best, sweep.json, sweep.png
                                  → eval.loss → nats     ┘

The best checkpoint has the highest contest score ``(1 − ratio)·0.3 + accuracy·0.7`` among those that keep enough of the
base's reading, and whose loss on text rose no further than a gate on it allows, if there is one. Each evaluation has
its own directory and is continued there, so a kill loses nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backends.checkpoint.resolve import open_checkpoint
from backends.generation import registry
from backends.generation.types import DEFAULT_RUNTIME, MAX_NEW_TOKENS, Runtime
from backends.run.directory import Run
from backends.weights.files import ADAPTER_CONFIG
from converters.common.console import format_table, say
from converters.common.errors import UsageError
from converters.common.files import atomic, write_json, write_text
from converters.common.reader import read_json
from eval.loss.task import LossTask
from eval.math.task import MathTask, contest_score
from eval.results import markdown_table
from eval.retention import THRESHOLD, measures_kept, read_results
from eval.run import Results, evaluate
from eval.squad.data import SHIPPED
from eval.squad.prompts import CONTEST, PROMPTS
from eval.squad.task import SquadTask


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint's figures; shares from 0 to 1, F1 and EM in percent.

    Attributes:
        step: optimizer steps done; 0 is the base.
        accuracy: share of the problems that are right.
        f1: of the reading questions.
        em: exact match of the reading questions.
        f1_kept: F1 divided by the base's; None without a base, or if the base's F1 is 0.
        em_kept: the same for exact match.
        passed: whether enough is kept; None for the base itself, and without a base.
        score: the contest's score; None for the base, where nothing was trained.
        loss: on held-out text, in nats a token; None if no text was named.
        loss_rise: how far it is above the base's; None for the base itself, and without a base or a text.
    """

    step: int
    accuracy: float
    f1: float
    em: float
    f1_kept: float | None = None
    em_kept: float | None = None
    passed: bool | None = None
    score: float | None = None
    loss: float | None = None
    loss_rise: float | None = None


@dataclass(frozen=True)
class Sweep:
    """All checkpoints of a run.

    Attributes:
        points: their figures, the base first.
        best: the best checkpoint; None if none keeps enough.
        threshold: smallest share of the base's F1 and EM that must be kept.
        folder: where ``sweep.json``, ``sweep.md``, ``sweep.png`` and every evaluation are.
        loss_gate: how far the loss on text may rise, in nats a token; None sets no gate.
    """

    points: list[Point]
    best: Point | None
    threshold: float
    folder: Path
    loss_gate: float | None = None

    @property
    def verdict(self) -> str:
        """The best checkpoint, or that none keeps enough, in words."""
        return verdict_line(self.points, self.best, self.threshold, self.loss_gate)

    @property
    def text(self) -> str:
        """Table and verdict as plain text."""
        return f"{format_table(*table(self.points))}\n\n{self.verdict}"


def sweep(
    run: str | Path | Run,
    math: str | Path,
    squad: str | Path | None = None,
    *,
    text: str | Path | None = None,
    loss_gate: float | None = None,
    base: str | None = None,
    protocol: str = "mindformers",
    prompt: str = CONTEST,
    squad_template: str | None = None,
    rule: str = "close",
    threshold: float = THRESHOLD,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Sweep:
    """Evaluate every checkpoint of a run, each loaded once, and choose the best.

    Args:
        run: run directory with checkpoints.
        math: problems, one ``{"problem", "solution"}`` per line.
        squad: reading questions; None takes the shipped set.
        text: held-out text for the loss, as :mod:`eval.loss` reads it; None measures none.
        loss_gate: how far the loss may rise above the base's, in nats a token; None sets no gate.
        base: the frozen model, if it is not where the adapters say.
        protocol: the reading protocol.
        prompt: how the reading questions are put, a key of :data:`eval.squad.prompts.PROMPTS`.
        squad_template: prompt template of the reading questions; None takes the one the run was trained with.
        rule: the grading rule of the problems.
        threshold: smallest share of the base's F1 and EM that must be kept.
        limit: the first problems and questions only, and as many passages.
        max_new_tokens: limit of a solution; None takes the longest row that the run was trained on.
        out: folder of everything; None takes ``eval/sweep`` in the run.
        overwrite: start over instead of continuing with the evaluations in ``out``.
        runtime: where and in which precision the models run.

    Returns:
        The figures of every checkpoint and the best of them; the same are in the files of ``folder``.

    Raises:
        UsageError: the run has no checkpoints, or data are missing or empty.
    """
    if loss_gate is not None and text is None:
        raise UsageError("--loss-gate needs --text FILE, whose loss it is for")
    # before the checkpoints are opened; evaluate() would say it only after that
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: at least 1 is needed")
    run = run if isinstance(run, Run) else Run.open(run)
    weights = places(run, base)
    questions = SHIPPED if squad is None else Path(squad)
    # read now, so that an error in the data is reported before hours of work
    MathTask(rule).read_data(Path(math), limit)
    SquadTask(protocol, prompt=prompt).read_data(questions, limit)
    if text is not None:
        LossTask().read_data(Path(text), limit)
    if max_new_tokens is None:
        # of the run, for the base too: all checkpoints are asked alike
        # the last checkpoint, since the base knows of no training rows
        max_new_tokens = max(MAX_NEW_TOKENS, open_checkpoint(weights[-1][1], base=base).longest_row or 0)
        say(f"solutions may have {max_new_tokens} tokens (--max-new-tokens)")
    folder = Path(out) if out else run.path / "eval" / "sweep"
    points: list[Point] = []
    for number, (step, place) in enumerate(weights, start=1):
        say(f"step {step:,} ({number} of {len(weights)}): {place}")
        # padded as the checkpoints are, so that a listing is in the order of training
        home = folder / f"step-{step:06d}"
        # the base is asked as the run was trained: otherwise the template's effect would pass for learning
        trained = None if step else run.template
        # allowed: both templates are chosen here, the base's and that of reading
        opened = functools.partial(open_checkpoint, place, base=base if step else None, allow_mismatch=True)
        files = opened(template=trained)
        # the template may differ between the two evaluations, the weights do not
        load = functools.cache(functools.partial(registry.load_generator, files, runtime))
        ask = functools.partial(evaluate, limit=limit, overwrite=overwrite, runtime=runtime, generator=load)
        solved = ask(MathTask(rule), files, math, out=home / "math", max_new_tokens=max_new_tokens)
        reading_template = squad_template or PROMPTS[prompt].template
        files = opened(template=reading_template) if reading_template else files
        read = ask(SquadTask(protocol, prompt=prompt), files, questions, out=home / "squad")
        measured = None if text is None else ask(LossTask(), files, text, out=home / "loss")
        for results in filter(None, (solved, read, measured)):
            # the printed table of each evaluation, which sweep() itself does not print
            write_text(home / f"{results.task}.txt", f"{results.text}\n")
        point = _point(step, solved, read, folder / "step-000000", rule, protocol, threshold)
        points.append(point if measured is None else _with_loss(point, measured, points, loss_gate))
    found = Sweep(points, choose_best(points), threshold, folder, loss_gate)
    conditions = {
        "math": str(math),
        "squad": None if squad is None else str(squad),
        "text": None if text is None else str(text),
        "loss_gate": loss_gate,
        "protocol": protocol,
        "prompt": prompt,
        "squad_template": squad_template,
        "rule": rule,
        "limit": limit,
        "threshold": threshold,
        "max_new_tokens": max_new_tokens,
    }
    best = found.best.step if found.best else None
    write_json(folder / "sweep.json", {"points": [asdict(point) for point in points], "best": best, **conditions})
    page = f"# Sweep of {run.path.name}\n\n{markdown_table(*table(points))}\n{found.verdict}\n"
    write_text(folder / "sweep.md", page)
    plot(points, found.best, folder / "sweep.png", run.path.resolve().name, threshold)
    say(f"{folder}/sweep.json, sweep.md, sweep.png; every row in {folder}/step-…/")
    return found


def places(run: Run, base: str | None) -> list[tuple[int, str]]:
    """Return ``(step, directory of the weights)`` for the base as step 0, if there is one, and for every checkpoint.

    Args:
        run: the run.
        base: directory of the base; None takes the one that the adapters name.

    Raises:
        UsageError: the run has no checkpoints.
    """
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UsageError(f"{run.path}: no checkpoints there; callbacks.CheckpointMonitor in the recipe writes them")
    found = [(checkpoint.step, str(checkpoint.path)) for checkpoint in checkpoints]
    adapter = checkpoints[0].path / ADAPTER_CONFIG
    if not adapter.is_file():
        say(f"{run.path}: no frozen base under these weights, so there is no before to hold reading against")
        return found
    # the adapter says which base it was trained on; one that names none leaves the recipe's
    below = base or read_json(adapter).get("base_model_name_or_path") or run.recipe.load_checkpoint
    return [(0, str(below)), *found]


def _point(step: int, solved: Results, read: Results, base: Path, rule: str, protocol: str, threshold: float) -> Point:
    """Return one checkpoint's figures and how much of the base's reading it kept.

    Raises:
        UserError: the base was not measured alike.
    """
    accuracy = solved.figures["math"][f"{rule},none"]
    reading = read.figures[f"squad_{protocol}"]
    contest = contest_score(solved.value["config"].get("parameters", {}), accuracy)
    point = Point(step, accuracy, reading["f1,none"], reading["em,none"], score=contest["score"] if contest else None)
    if step == 0 or not base.is_dir() or read.folder is None:
        return point
    kept = {one.measure: one for one in measures_kept(read_results(base / "squad"), read_results(read.folder))}
    passed = all(one.passed(threshold) for one in kept.values())
    return replace(point, f1_kept=kept["f1"].ratio, em_kept=kept["em"].ratio, passed=passed)


def _with_loss(point: Point, measured: Results, before: Sequence[Point], gate: float | None) -> Point:
    """Return a point with its loss, and how far that is above the loss of the first of ``before`` if it is the base."""
    loss = measured.figures["loss"]["nats,none"]
    base = next((one.loss for one in before if one.step == 0), None)
    if base is None:
        return replace(point, loss=loss)
    passed = point.passed and (gate is None or loss <= base + gate)
    return replace(point, loss=loss, loss_rise=loss - base, passed=passed)


def choose_best(points: Sequence[Point]) -> Point | None:
    """Return the checkpoint with the highest score among those not below the gate, the earlier of equal ones.

    Args:
        points: figures of all checkpoints; step 0, the base, is never chosen.

    Returns:
        The best checkpoint; None if all are below the gate.
    """
    # not False: without a base there is no gate (None), and every checkpoint may be taken
    able = [point for point in points if point.step and point.passed is not False]
    return max(able, key=lambda point: (point.score or 0.0, -point.step), default=None)


def table(points: Sequence[Point]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows, shares in percent."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    losses = any(point.loss is not None for point in points)
    rows: list[list[Any]] = []
    for point in points:
        gate = "-" if point.passed is None else "passed" if point.passed else "NOT passed"
        figures = [share(point.accuracy), f"{point.f1:.2f}", f"{point.em:.2f}"]
        score = "-" if point.score is None else f"{point.score:.6f}"
        step = f"{point.step:,}" if point.step else "0 (base)"
        shares = [share(point.f1_kept), share(point.em_kept)]
        nats = [
            "-" if one is None else f"{one:{form}}" for one, form in ((point.loss, ".4f"), (point.loss_rise, "+.4f"))
        ]
        rows.append([step, *figures, *shares, *(nats if losses else []), gate, score])
    loss_columns = ["nats a token", "rise"] if losses else []
    return ["step", "accuracy %", "F1", "EM", "F1 kept %", "EM kept %", *loss_columns, "gate", "score"], rows


def verdict_line(points: Sequence[Point], best: Point | None, threshold: float, loss_gate: float | None = None) -> str:
    """Return the verdict in words: the best checkpoint, or that none keeps enough."""
    if best is None:
        rising = "" if loss_gate is None else f" with a loss at most {loss_gate:g} nats a token above its own"
        return f"NOT passed: no checkpoint keeps {threshold:g} of the base's F1 and EM{rising}"
    out = [f"{point.step:,}" for point in points if point.passed is False]
    left_out = f"; below the gate of {threshold:g}: {', '.join(out)}" if out else ""
    score = "" if best.score is None else f", score {best.score:.6f}"
    return f"best: step {best.step:,}, accuracy {100 * best.accuracy:.1f} %{score}{left_out}"


def plot(points: Sequence[Point], best: Point | None, path: Path, title: str, threshold: float) -> None:
    """Draw accuracy and the kept shares of the base's reading over steps; without a base, F1 and EM themselves.

    Args:
        points: figures of all checkpoints.
        best: the one to mark, if any.
        path: the PNG to write.
        title: name of the run.
        threshold: kept share at which the gate is drawn, 0 to 1.
    """
    import matplotlib

    # before pyplot: a machine without a display can draw into a file
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    steps = [point.step for point in points]
    losses = [(point.step, point.loss) for point in points if point.loss is not None]
    if losses:
        # a panel of its own: nats beside percent would need a second scale on one axis
        figure, (axes, below) = plt.subplots(2, figsize=(8, 6), sharex=True, layout="constrained", height_ratios=(3, 1))
        below.plot(*zip(*losses, strict=True), "D-", color="tab:green", label="loss on text")
        below.set(xlabel="step", ylabel="nats a token")
        below.grid(alpha=0.3)
    else:
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(steps, [100 * point.accuracy for point in points], "o-", color="tab:blue", label="learned: accuracy")
    if any(point.f1_kept is not None for point in points):
        for measure, style in (("f1", "s-"), ("em", "^--")):
            # the base keeps all of itself
            kept = [1.0 if point.step == 0 else getattr(point, f"{measure}_kept") for point in points]
            # matplotlib leaves a gap at nan, where 0 would look like everything forgotten
            shown = [float("nan") if share is None else 100 * share for share in kept]
            axes.plot(steps, shown, style, color="tab:orange", label=f"kept: {measure.upper()} of the base's")
        axes.axhline(100 * threshold, color="tab:red", linewidth=1, linestyle=":", label=f"gate: {threshold:g}")
    else:
        for measure, style in (("f1", "s-"), ("em", "^--")):
            axes.plot(steps, [getattr(p, measure) for p in points], style, color="tab:orange", label=measure.upper())
    if best is not None:
        axes.plot(
            best.step, 100 * best.accuracy, "*", color="tab:blue", markersize=17, label=f"best: step {best.step:,}"
        )
    axes.set(
        xlabel="" if losses else "step", ylabel="percent", title=f"{title}: learning and forgetting", ylim=(0, None)
    )
    axes.set_xticks(steps)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
