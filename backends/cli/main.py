"""The command line of a backend: subcommands, a recipe, and settings that replace the recipe's own.

Which options a command has follows from what the backend offers (:class:`backends.generation.registry.Backend`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from backends.generation.registry import Backend, BackendName, backend_named
from converters.common.errors import UsageError

WITH_RECIPE = ("train", "plan")
"""Commands that take a recipe."""

ASKING = {
    "generate": ("backends.cli.generate", "Answer the problems of a file with a run or a model."),
    "evaluate": ("backends.cli.evaluate", "Measure the perplexity of a run or a model on conversations."),
    "chat": ("backends.cli.chat", "Talk to a run or a model in the terminal."),
}
"""Commands with a module of their own: ``add_arguments(parser, backend)`` and ``run(args)``."""


def main(name: BackendName, argv: Sequence[str] | None = None) -> int | None:
    """Run the subcommand; each imports what it needs only when it runs.

    Args:
        name: of the backend.
        argv: the command line; None takes this process's.

    Raises:
        UsageError: the command line cannot be meant.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    backend = backend_named(name)
    parser = argparse.ArgumentParser(
        prog=f"python -m backends.{name}",
        description=backend.description,
        epilog=backend.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(_add_command(commands, "train", "Fine-tune from a recipe into a run directory.", backend), backend)
    plan = _add_command(commands, "plan", backend.plan_purpose, backend)
    plan.add_argument("--rows", type=int, metavar="N", help="rows of the training data, where there is no file yet")
    plan.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    _add_device(_add_command(commands, "doctor", backend.doctor_purpose, backend), backend)
    modules = {}
    for command, (module, purpose) in {**ASKING, **backend.extra_commands}.items():
        own = _add_command(commands, command, purpose, backend)
        # only the command that runs is imported, so that --help stays fast
        if words[:1] == [command]:
            modules[command] = importlib.import_module(module)
            modules[command].add_arguments(own, name)
    args = _parse(parser, words)
    if args.command == "train":
        return _train(args, backend)
    if args.command == "plan":
        return _plan(args, backend)
    if args.command == "doctor":
        backend.doctor(args.device, print)
        return 0
    return modules[args.command].run(args)


def _train(args: argparse.Namespace, backend: Backend) -> int:
    from backends.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    backend.train(recipe, device=args.device, dtype=args.dtype, resume=args.resume, workers=args.workers)
    return 0


def _plan(args: argparse.Namespace, backend: Backend) -> int:
    from backends.recipe.load import load_recipe
    from backends.run.plan import plan

    recipe = load_recipe(args.recipe, args.overrides)
    figures = plan(recipe, args.rows)
    if args.json:
        print(json.dumps(figures.as_json(), indent=2))
        return 0
    print(figures.as_text())
    if launch := backend.launch_commands(recipe, args.recipe, args.overrides):
        print(f"\nlaunch\n{launch}")
    return 0


def _add_command(
    commands: argparse._SubParsersAction, name: str, purpose: str, backend: Backend
) -> argparse.ArgumentParser:
    """Add a subcommand with its purpose as help, and the backend's examples below."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=backend.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name in WITH_RECIPE:
        parser.add_argument(
            "recipe",
            nargs="*",
            metavar="RECIPE.yaml | key.path=value",
            help="a recipe (default: yaml/llama3_lora.yaml) and settings that replace its own",
        )
    return parser


def _add_train(parser: argparse.ArgumentParser, backend: Backend) -> None:
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint (default: no)")
    _add_device(parser, backend)
    # so that _train finds both, whether or not this backend has the options
    parser.set_defaults(dtype="auto", workers=1)
    if backend.train_dtypes:
        parser.add_argument(
            "--dtype",
            choices=["auto", *backend.train_dtypes],
            help="type of the matrix products; auto: the recipe's on a card and on a CPU with units for bfloat16, else "
            "float32 (default: %(default)s)",
        )
    if backend.has_workers:
        parser.add_argument(
            "--workers", type=int, metavar="N", help="processes, one a card, by msrun (default: %(default)s)"
        )


def _add_device(parser: argparse.ArgumentParser, backend: Backend) -> None:
    parser.add_argument(
        "--device",
        choices=backend.devices,
        default="auto",
        help="auto: a card where there is one, else the CPU (default: %(default)s)",
    )


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse a command line.

    For a command with a recipe, ``recipe`` becomes the file or None, and ``overrides`` the settings ``key.path=value``.

    Raises:
        UsageError: two recipes were named.
    """
    args, rest = parser.parse_known_args(words)
    # argparse returns settings behind an option (`--resume seed=1`) as unknown words
    if rest and (args.command not in WITH_RECIPE or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command in WITH_RECIPE:
        words = [*args.recipe, *rest]
        files = [word for word in words if "=" not in word]
        if len(files) > 1:
            raise UsageError(f"{files[1]!r}: one recipe at a time; a setting is written key.path=value")
        args.recipe = files[0] if files else None
        args.overrides = [word for word in words if "=" in word]
    return args
