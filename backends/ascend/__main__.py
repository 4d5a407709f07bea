"""Fine-tune, plan, generate and check on MindSpore and mindformers: ``python -m backends.ascend``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

from backends.ascend.device import DEVICE_CHOICES
from converters.cli import UsageError, run_main

EPILOG = """examples:
  python -m backends.ascend plan yaml/llama3_lora.yaml
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --workers 4
  python -m backends.ascend train yaml/demo.yaml data.train=rows.jsonl output_dir=runs/try --device cpu
"""

# commands with a module of their own: add_arguments(parser) and run(args)
OWN_MODULES = {
    "generate": "Answer the problems of a file with a run or a model.",
    "evaluate": "Measure the perplexity of a run or a model on conversations.",
    "chat": "Talk to a run or a model in the terminal.",
    "unshard": "Join the distributed checkpoints of several cards into one.",
}


def main(argv: list[str] | None = None) -> int | None:
    """Choose the subcommand; each imports what it needs only when it runs."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m backends.ascend",
        description="Fine-tune and use models with MindSpore and mindformers, on Ascend cards or on the CPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = _command(commands, "train", "Fine-tune from a recipe into a run directory.")
    _add_recipe(train)
    train.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint (default: no)")
    _add_device(train)
    train.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one a card, by msrun (default: %(default)s)"
    )
    plan = _command(commands, "plan", "Predict parameters, steps, memory and time, and print the launch commands.")
    _add_recipe(plan)
    plan.add_argument("--rows", type=int, metavar="N", help="rows of the training data, where there is no file yet")
    plan.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    doctor = _command(commands, "doctor", "Check CANN, driver and versions, and train a tiny model for one step.")
    _add_device(doctor)
    modules = {}
    for name, purpose in OWN_MODULES.items():
        if importlib.util.find_spec(f"backends.ascend.{name}") is None:
            continue
        own = _command(commands, name, purpose)
        if arguments[:1] == [name]:
            modules[name] = importlib.import_module(f"backends.ascend.{name}")
            modules[name].add_arguments(own)

    args, rest = parser.parse_known_args(arguments)
    # argparse gives settings that follow an option back as unknown
    if rest and (args.command not in ("train", "plan") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command == "train":
        from backends.ascend.train import train as run_training

        recipe, overrides = _split([*args.recipe, *rest])
        run_training(recipe, overrides, device=args.device, resume=args.resume, workers=args.workers)
        return 0
    if args.command == "plan":
        from backends.ascend.launch import plan as run_plan

        recipe, overrides = _split([*args.recipe, *rest])
        return run_plan(recipe, overrides, rows=args.rows, as_json=args.json)
    if args.command == "doctor":
        from backends.ascend.doctor import run as run_doctor

        return run_doctor(args.device)
    return modules[args.command].run(args)


def _command(commands: argparse._SubParsersAction, name: str, purpose: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICE_CHOICES,
        default="auto",
        help="auto: a card where there is one, else the CPU for models that fit it (default: %(default)s)",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        nargs="*",
        metavar="RECIPE.yaml | key.path=value",
        help="a recipe (default: yaml/llama3_lora.yaml) and settings that replace its own",
    )


def _split(words: list[str]) -> tuple[str | None, list[str]]:
    """Tell the recipe from the overrides.

    Raises:
        UsageError: two recipes were named.
    """
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise UsageError(f"{files[1]!r}: one recipe at a time; a setting is written key.path=value")
    return (files[0] if files else None), [word for word in words if "=" in word]


if __name__ == "__main__":
    run_main(main)
