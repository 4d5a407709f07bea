"""Adapters × data sets: the accuracy of every checkpoint on every task with few answers, and its mean, as one table.

Each cell is an evaluation of :mod:`eval.choice`, with predictions, table and results of its own in ``OUT/ROW/DATA``; a
model is loaded once for all its cells, and not at all where every answer is there already.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.common.console import format_table, run_main, say
from converters.common.errors import UsageError
from eval.results import percent, wilson

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from eval.choice.files import Task
    from eval.choice.rules import Scores

EPILOG = """examples:
  python -m eval.table --rows runs/rte,runs/mnli --data rte_dev.jsonl,mnli_dev.jsonl
  python -m eval.table --rows base=MODEL,rte=runs/rte,half=runs/merged --data rte=a.jsonl,mnli=b.jsonl --way loglik
"""


def _parser() -> argparse.ArgumentParser:
    from backends.cli.model_arguments import add_device_arguments, add_template_arguments
    from eval.choice.command import add_way_arguments

    parser = argparse.ArgumentParser(
        prog="python -m eval.table",
        description="Grade several checkpoints on several data sets: one table of accuracies with their means.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows",
        required=True,
        metavar="[NAME=]DIR,…",
        help="runs, adapters or models, one row each (default names: DIR's)",
    )
    parser.add_argument(
        "--data", required=True, metavar="[NAME=]FILE,…", help="conversations with a label, one column each"
    )
    parser.add_argument(
        "--choices", metavar="A,B,…", help="the possible answers of all data sets (default: each one's labels)"
    )
    add_template_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows of each data set only (default: all)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="runs/eval/table",
        help="for table.md, table.json and the cells (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over (default: go on with the predictions there)"
    )
    add_way_arguments(parser)
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Raises:
        UsageError: a name comes twice, a file or a checkpoint is missing, or a data set has no labels.
        UserError: a template is not the trained one, or predictions there were made with something else.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from converters.common.files import write_json, write_text
    from eval.choice.files import read_task

    args = _parser().parse_args(argv)
    rows, data = named(args.rows, "--rows"), named(args.data, "--data")
    tasks = {name: read_task(path, args.choices, args.limit) for name, path in data.items()}
    for name, task in tasks.items():
        if all(question.label is None for question in task.questions):
            raise UsageError(f"--data {name}: {task.path} has no labels to grade by")
    # all of them before the first is asked anything: a wrong name should not cost an hour
    asking = {"base": args.base, "template": args.template, "allow_mismatch": args.allow_template_mismatch}
    checkpoints = {name: open_checkpoint(path, **asking) for name, path in rows.items()}
    found = {name: evaluate_row(name, files, tasks, args) for name, files in checkpoints.items()}
    header, lines = table(found)
    notes = note_lines(found)
    print(format_table(header, lines))
    print("\n".join(["", *notes]))
    out = Path(args.out)
    write_text(out / "table.md", markdown(header, lines, notes))
    write_json(out / "table.json", to_json(found, rows, data))
    say(f"{out}/table.md, table.json; every cell in {out}/ROW/DATA")
    return 0


def named(text: str, option: str) -> dict[str, str]:
    """Take a list of ``NAME=PATH`` or ``PATH`` apart; a path's own name is its last part, without endings.

    Raises:
        UsageError: the list is empty, or a name comes twice.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, path = part.partition("=")
        if not equals:
            name, path = Path(part).resolve().name.split(".")[0], part
        if not name or not path or "/" in name or name.startswith("."):
            raise UsageError(f"{option} {part!r}: NAME=PATH is expected, the name without a slash")
        if name in found:
            raise UsageError(f"{option}: two are called {name}; name them, as in first={path}")
        found[name] = path
    if not found:
        raise UsageError(f"{option} is empty; at least one path is expected")
    return found


def evaluate_row(
    name: str, files: CheckpointFiles, tasks: Mapping[str, Task], args: argparse.Namespace
) -> dict[str, Scores]:
    """Ask one checkpoint every data set; return the counts by data set.

    Raises:
        UserError: predictions there were made with something else.
    """
    from backends.cli import model_arguments as asking
    from backends.generation import registry
    from eval.choice.command import ask, report

    say(f"{name}: {files.path}")
    load = functools.cache(functools.partial(registry.load_generator, files, asking.runtime_from(args)))
    found = {}
    for data, task in tasks.items():
        folder = Path(args.out) / name / data
        _, scores = report(ask(task, files, args, folder, load), folder, task.choices, quiet=True)
        assert scores is not None  # main has seen the labels
        found[data] = scores
    return found


def mean(accuracies: Mapping[str, float]) -> float:
    """Mean over data sets, each counting the same whatever its size, as report 000 has it."""
    return sum(accuracies.values()) / len(accuracies)


def table(found: Mapping[str, Mapping[str, Scores]]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: accuracies in percent with half their 95 % interval, and the mean last."""
    data = list(next(iter(found.values())))
    lines = [
        [name, *(_cell(cells[one]) for one in data), f"{100 * mean({one: cells[one].accuracy for one in data}):.2f}"]
        for name, cells in found.items()
    ]
    return ["accuracy %", *data, "mean"], lines


def _cell(scores: Scores) -> str:
    low, high = wilson(scores.right, scores.n)
    return f"{percent(scores.accuracy)} ±{percent((high - low) / 2)}"


def note_lines(found: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """Say how many rows each data set has, what always giving its commonest label is, and what was unparsed."""
    notes = []
    for data, scores in next(iter(found.values())).items():
        label, share = scores.commonest
        lost = {name: cells[data].unparsed for name, cells in found.items() if cells[data].unparsed}
        unparsed = (
            "; unparsed, counted as wrong: " + ", ".join(f"{name} {n}" for name, n in lost.items()) if lost else ""
        )
        notes.append(f"{data}: {scores.n} rows, always {label!r} would be {percent(share)} %{unparsed}")
    return notes


def markdown(header: list[str], lines: list[list[str]], notes: list[str]) -> str:
    """Return table and notes as Markdown."""
    from eval.markdown import markdown_table

    return "\n".join([markdown_table(header, lines), *(f"- {note}" for note in notes)]) + "\n"


def to_json(
    found: Mapping[str, Mapping[str, Scores]], rows: Mapping[str, str], data: Mapping[str, str]
) -> dict[str, Any]:
    """Return what ``table.json`` holds: accuracies, means and where everything came from."""
    accuracy = {name: {one: scores.accuracy for one, scores in cells.items()} for name, cells in found.items()}
    return {
        "rows": dict(rows),
        "data": dict(data),
        "accuracy": accuracy,
        "mean": {name: mean(cells) for name, cells in accuracy.items()},
        "n": {name: {one: scores.n for one, scores in cells.items()} for name, cells in found.items()},
    }


if __name__ == "__main__":
    run_main(main)
