"""Every checkpoint of a run: what it has learned, what it has forgotten by then, and which to take.

::

    base (step 0) and checkpoints → eval.math → accuracy ┐
                                  → eval.squad → F1, EM  ┴→ score, share kept → the best, sweep.json, sweep.png

The best checkpoint has the highest contest score ``(1 − ratio)·0.3 + accuracy·0.7`` of those that keep enough of the
base's reading. Each evaluation lies in its own directory and is gone on with, so a kill loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import format_table, run_main, say
from converters.common.errors import GateNotPassed, UsageError
from eval.math.rules import RULES
from eval.retention import THRESHOLD
from eval.squad.rules import PROTOCOLS

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.types import Generator, Runtime
    from backends.run.directory import Run

EPILOG = """examples:
  python -m eval.sweep --ckpt RUN --math heldout.jsonl
  python -m eval.sweep --ckpt RUN --math heldout.jsonl --squad dev-v1.1.json --squad-template squad --limit 500
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint's figures; shares from 0 to 1, F1 and EM in percent.

    Attributes:
        step: optimizer steps done; 0 is the base.
        accuracy: share of the problems that are right.
        f1: of the reading questions.
        em: exact match of the reading questions.
        f1_kept: F1 over the base's; None without a base, or where it had none.
        em_kept: the same of exact match.
        passed: whether enough is kept; None for the base and where there is none to compare with.
        score: the contest's score; None for the base, where nothing was trained.
    """

    step: int
    accuracy: float
    f1: float
    em: float
    f1_kept: float | None = None
    em_kept: float | None = None
    passed: bool | None = None
    score: float | None = None


def _parser() -> argparse.ArgumentParser:
    from backends.cli.model_arguments import add_device_arguments

    parser = argparse.ArgumentParser(
        prog="python -m eval.sweep",
        description="Evaluate every checkpoint of a run: accuracy, reading, contest score; name the best.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", required=True, metavar="RUN", help="run directory with checkpoints")
    parser.add_argument("--base", metavar="DIR", help="the frozen model (default: where the adapter says)")
    parser.add_argument("--math", required=True, metavar="FILE", help='problems, one {"problem", "solution"} a line')
    parser.add_argument("--squad", metavar="FILE", help="SQuAD v1.1's JSON (default: the shipped reading set)")
    parser.add_argument(
        "--protocol", choices=list(PROTOCOLS), default="mindformers", help="reading protocol (default: %(default)s)"
    )
    parser.add_argument(
        "--squad-template",
        metavar="NAME",
        help="how reading questions are put; squad: the contest's own form (default: as the run was trained)",
    )
    parser.add_argument("--rule", choices=list(RULES), default="close", help="grading rule (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="SHARE",
        help="least share of the base's reading that must be left (float, default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N problems and questions (default: all)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="a solution is cut after N tokens (default: the longest row the run was trained on, at least 128)",
    )
    parser.add_argument("--out", metavar="DIR", help="where everything goes (default: eval/sweep in the run)")
    parser.add_argument("--overwrite", action="store_true", help="start over (default: go on with what is in --out)")
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Raises:
        UsageError: the run has no checkpoints, or data is missing or empty.
        GateNotPassed: no checkpoint keeps enough.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from backends.generation.types import MAX_NEW_TOKENS
    from backends.run.directory import Run
    from converters.common.files import write_json, write_text
    from eval.markdown import markdown_table
    from eval.math.command import read_problems
    from eval.squad.data import SHIPPED, read_questions

    args = _parser().parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1 is needed")
    run = Run.open(args.ckpt)
    weights = places(run, args.base)
    read_problems(args.math, args.limit)  # what is wrong with the data is said before hours of work
    read_questions(args.squad or SHIPPED)
    if args.max_new_tokens is None:
        # of the run, for the base too: all checkpoints are asked alike
        args.max_new_tokens = max(MAX_NEW_TOKENS, open_checkpoint(weights[-1][1], base=args.base).longest_row or 0)
        say(f"solutions may have {args.max_new_tokens} tokens (--max-new-tokens)")
    out = Path(args.out) if args.out else run.path / "eval" / "sweep"
    points: list[Point] = []
    for number, (step, place) in enumerate(weights, start=1):
        say(f"step {step:,} ({number} of {len(weights)}): {place}")
        folder = out / f"step-{step:06d}"
        ask(args, run, step, place, folder)
        points.append(read_point(step, folder, out / "step-000000", args))
    best = choose_best(points)
    header, rows = table(points)
    verdict = verdict_line(points, best, args.threshold)
    print(format_table(header, rows))
    print(f"\n{verdict}")
    conditions = {
        name: getattr(args, name)
        for name in ("math", "squad", "protocol", "squad_template", "rule", "limit", "threshold", "max_new_tokens")
    }
    value = {"points": [asdict(point) for point in points], "best": best.step if best else None, **conditions}
    write_json(out / "sweep.json", value)
    write_text(out / "sweep.md", f"# Sweep of {run.path.name}\n\n{markdown_table(header, rows)}\n{verdict}\n")
    plot(points, best, out / "sweep.png", run.path.resolve().name, args.threshold)
    say(f"{out}/sweep.json, sweep.md, sweep.png; every row in {out}/step-…/")
    if best is None:
        raise GateNotPassed(verdict)
    return 0


def places(run: Run, base: str | None) -> list[tuple[int, str]]:
    """Return ``(step, directory of the weights)``: the base as step 0, if there is one, and every checkpoint.

    Raises:
        UsageError: the run has no checkpoints.
    """
    from backends.weights.files import ADAPTER_CONFIG
    from converters.common.reader import read_json

    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UsageError(f"{run.path}: no checkpoints there; callbacks.CheckpointMonitor in the recipe writes them")
    found = [(checkpoint.step, str(checkpoint.path)) for checkpoint in checkpoints]
    adapter = checkpoints[0].path / ADAPTER_CONFIG
    if not adapter.is_file():
        say(f"{run.path}: no frozen base under these weights, so there is no before to hold reading against")
        return found
    below = base or read_json(adapter).get("base_model_name_or_path") or run.recipe.load_checkpoint
    return [(0, str(below)), *found]


def ask(args: argparse.Namespace, run: Run, step: int, place: str, folder: Path) -> None:
    """Run both evaluations of one checkpoint; their tables go into files beside their rows."""
    from backends.generation import registry
    from eval.math import command as eval_math
    from eval.squad import command as eval_squad

    loaded: list[Generator] = []

    def load_once(files: CheckpointFiles, runtime: Runtime) -> Generator:
        # the template may differ between the two evaluations, the weights do not
        if not loaded:
            loaded.append(registry.load_generator(files, runtime))
        return loaded[0]

    common = ["--ckpt", place, "--backend", args.backend, "--device", args.device, "--dtype", args.dtype]
    common += ["--batch-tokens", args.batch_tokens]
    common += ["--overwrite"] if args.overwrite else []
    common += ["--limit", args.limit] if args.limit else []
    common += ["--base", args.base] if args.base and step else []
    # the base is asked as the run was trained: otherwise the template's effect would pass for learning
    trained = [] if step else ["--template", run.template.name, "--allow-template-mismatch"]
    form = ["--template", args.squad_template, "--allow-template-mismatch"] if args.squad_template else trained
    math = ["--data", args.math, "--rule", args.rule, "--max-new-tokens", args.max_new_tokens, *trained]
    squad = ["--protocol", args.protocol, *form, *(["--data", args.squad] if args.squad else [])]
    folder.mkdir(parents=True, exist_ok=True)
    for name, module, own in (("math", eval_math, math), ("squad", eval_squad, squad)):
        words = [str(word) for word in (*common, *own, "--out", folder / name)]
        with (
            (folder / f"{name}.txt").open("w", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            # a checkpoint below the contest's own gate is a point of the curve like the others
            contextlib.suppress(GateNotPassed),
        ):
            module.evaluate(module.options().parse_args(words), load_once)


def read_point(step: int, folder: Path, base: Path, args: argparse.Namespace) -> Point:
    """Read one checkpoint's figures from its results, and what it kept of the base's.

    Raises:
        UserError: the base was not measured alike.
    """
    from eval.math.results import contest_score
    from eval.retention import read_results, retention

    math, squad = read_results(folder / "math"), read_results(folder / "squad")
    accuracy = math.value["results"]["math"][f"{args.rule},none"]
    reading = squad.value["results"][f"squad_{args.protocol}"]
    contest = contest_score(math.value["config"].get("parameters", {}), accuracy)
    point = Point(step, accuracy, reading["f1,none"], reading["em,none"], score=contest["score"] if contest else None)
    if step == 0 or not base.is_dir():
        return point
    kept = {one.measure: one for one in retention(read_results(base / "squad"), squad)}
    passed = all(one.passed(args.threshold) for one in kept.values())
    return Point(step, accuracy, point.f1, point.em, kept["f1"].ratio, kept["em"].ratio, passed, point.score)


def choose_best(points: Sequence[Point]) -> Point | None:
    """Return the checkpoint of the highest score among those not below the gate; the earlier of equals."""
    able = [point for point in points if point.step and point.passed is not False]
    return max(able, key=lambda point: (point.score or 0.0, -point.step), default=None)


def table(points: Sequence[Point]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows, shares in percent."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    rows: list[list[Any]] = []
    for point in points:
        gate = "-" if point.passed is None else "passed" if point.passed else "NOT passed"
        figures = [share(point.accuracy), f"{point.f1:.2f}", f"{point.em:.2f}"]
        score = "-" if point.score is None else f"{point.score:.6f}"
        step = f"{point.step:,}" if point.step else "0 (base)"
        rows.append([step, *figures, share(point.f1_kept), share(point.em_kept), gate, score])
    return ["step", "accuracy %", "F1", "EM", "F1 kept %", "EM kept %", "gate", "score"], rows


def verdict_line(points: Sequence[Point], best: Point | None, threshold: float) -> str:
    """Name the best checkpoint, or say that none keeps enough."""
    if best is None:
        return f"NOT passed: no checkpoint keeps {threshold:g} of the base's F1 and EM"
    out = [f"{point.step:,}" for point in points if point.passed is False]
    left_out = f"; below the gate of {threshold:g}: {', '.join(out)}" if out else ""
    score = "" if best.score is None else f", score {best.score:.6f}"
    return f"best: step {best.step:,}, accuracy {100 * best.accuracy:.1f} %{score}{left_out}"


def plot(points: Sequence[Point], best: Point | None, path: Path, title: str, threshold: float) -> None:
    """Draw accuracy and what is kept of the base's reading over steps; without a base, F1 and EM themselves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from converters.common.files import atomic

    steps = [point.step for point in points]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(steps, [100 * point.accuracy for point in points], "o-", color="tab:blue", label="learned: accuracy")
    if any(point.f1_kept is not None for point in points):
        for measure, style in (("f1", "s-"), ("em", "^--")):
            # the base keeps all of itself
            kept = [1.0 if point.step == 0 else getattr(point, f"{measure}_kept") for point in points]
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
    axes.set(xlabel="step", ylabel="percent", title=f"{title}: learning and forgetting", ylim=(0, None))
    axes.set_xticks(steps)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    run_main(main)
