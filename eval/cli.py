"""Shared by the commands of all tasks: their options, and the steps from options to printed results."""

from __future__ import annotations

import argparse
from typing import Any

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    add_limit_arguments,
    runtime_from,
)
from converters.common.errors import GateNotPassed, UsageError
from eval.choice.task import POINTS, WAYS
from eval.run import Results, evaluate, grade_predictions
from eval.task import Task

LIMIT = "the first N rows only (default: all)"
# options whose names are also parameters of evaluate() and tabulate()
ASKING = (
    *("base", "template", "allow_template_mismatch"),
    *("limit", "out", "overwrite", "max_new_tokens", "min_new_tokens"),
)
OVERWRITE = "start over (default: go on with the predictions there)"


def build_parser(
    prog: str,
    description: str,
    examples: str,
    *,
    data: str,
    out: str,
    predictions: str = "grade these again instead of asking a model",
    limit: str = LIMIT,
    max_new_tokens: int | None = None,
    asks: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser with the options that every task's command has.

    Args:
        prog: how the command is called.
        description: what it does.
        examples: lines for the end of its help.
        data: help of ``--data``.
        out: help of ``--out``.
        predictions: help of ``--predictions``.
        limit: help of ``--limit``.
        max_new_tokens: the task's default for ``--max-new-tokens``; None names the run's longest row in the help.
        asks: the model writes or chooses answers: with the template to ask in and the limits of an answer.

    Returns:
        The parser; a command adds its own options to it.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # not required: --predictions grades a file without any checkpoint
    add_checkpoint_arguments(parser, required=False, template=asks)
    parser.add_argument("--data", metavar="FILE", help=data)
    parser.add_argument("--predictions", metavar="FILE", help=predictions)
    parser.add_argument("--limit", type=int, metavar="N", help=limit)
    parser.add_argument("--out", metavar="DIR", help=out)
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    if asks:
        add_limit_arguments(parser, max_new_tokens)
    add_device_arguments(parser)
    return parser


def add_way_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--way``: how the choice that a model takes is found."""
    parser.add_argument(
        "--way",
        choices=list(WAYS),
        default="generate",
        help="generate: the first choice that the model writes; loglik: the choice of the highest summed "
        "log-probability (default: %(default)s)",
    )


def add_score_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--score-002``: the score of the QQP and CoLA contest."""
    parser.add_argument(
        "--score-002",
        action="store_true",
        help=f"add the score of the QQP and CoLA contest: {POINTS} points times the accuracy",
    )


def add_loss_gate_argument(
    parser: argparse.ArgumentParser, what: str = "the loss of eval.loss may rise, in nats a token"
) -> None:
    """Add ``--loss-gate``; ``what`` says how far what may rise above what."""
    parser.add_argument(
        "--loss-gate", type=float, metavar="NATS", help=f"how far {what} (float, default: no gate on it)"
    )


def check_source(args: argparse.Namespace, data: str | None = None) -> None:
    """Check that exactly one of ``--ckpt`` and ``--predictions`` is given, and ``--data`` where it is needed.

    Args:
        args: options of :func:`build_parser`.
        data: what the file of ``--data`` holds, for a task without default data; None if the task has some.

    Raises:
        UsageError: options that do not go together.
    """
    if (args.ckpt is None) == (args.predictions is None):
        raise UsageError("one of --ckpt and --predictions is needed")
    if args.ckpt is not None and data is not None and not args.data:
        raise UsageError(f"--ckpt needs --data FILE of {data}")


def asking_from(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`build_parser` as keyword arguments of :func:`eval.run.evaluate`."""
    # a command that asks nothing lacks some of them
    return {name: getattr(args, name) for name in ASKING if name in args} | {"runtime": runtime_from(args)}


def results_from(task: Task, args: argparse.Namespace) -> Results:
    """Evaluate the checkpoint of ``--ckpt``, or grade the file of ``--predictions``.

    Args:
        task: the task to run.
        args: options of :func:`build_parser`, checked by :func:`check_source`.

    Raises:
        UsageError: a file is missing or empty, or no template is known.
        UserError: a file has another shape.
    """
    if args.predictions:
        return grade_predictions(task, args.predictions, args.data, limit=args.limit, out=args.out)
    return evaluate(task, args.ckpt, args.data, **asking_from(args))


def print_results(results: Results) -> int:
    """Print the table and its lines, if any row was graded.

    Returns:
        0, the exit code of a command whose gate, if there is one, was passed.

    Raises:
        GateNotPassed: a figure is below the task's gate.
    """
    if results.text:
        print(results.text)
    # None means that the task has no gate, which is not a failure
    if results.passed is False:
        raise GateNotPassed(results.verdict)
    return 0
