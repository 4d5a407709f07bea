"""Fine-tune, plan, generate and check on PyTorch: ``python -m backends.cuda``."""

from __future__ import annotations

import argparse
import importlib
import sys

from converters.cli import UsageError, run_main

EPILOG = """examples:
  python -m backends.cuda plan yaml/llama3_lora.yaml
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  torchrun --nproc_per_node 4 -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
"""


# commands that are the same for every backend: add_arguments(parser, backend) and run(args)
SHARED = {
    "generate": ("backends.answering", "Answer the problems of a file with a run or a model."),
    "evaluate": ("backends.perplexity", "Measure the perplexity of a run or a model on conversations."),
    "chat": ("backends.chat", "Talk to a run or a model in the terminal."),
}


def main(argv: list[str] | None = None) -> int | None:
    """Choose the subcommand; each imports what it needs only when it runs."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m backends.cuda",
        description="Fine-tune and use models with PyTorch and PEFT, on CUDA or on the CPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = _command(commands, "train", "Fine-tune from a recipe into a run directory.")
    _add_recipe(train)
    train.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint (default: no)")
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    train.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="type of the matrix products; auto: the recipe's on CUDA, float32 on the CPU (default: %(default)s)",
    )
    plan = _command(commands, "plan", "Predict parameters, steps, memory and time without loading weights.")
    _add_recipe(plan)
    plan.add_argument("--rows", type=int, metavar="N", help="rows of the training data, where there is no file yet")
    plan.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    doctor = _command(commands, "doctor", "Check versions and devices, and train a tiny model for one step.")
    doctor.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    shared = {}
    for name, (module, purpose) in SHARED.items():
        own = _command(commands, name, purpose)
        if arguments[:1] == [name]:
            shared[name] = importlib.import_module(module)
            shared[name].add_arguments(own, "cuda")

    args, rest = parser.parse_known_args(arguments)
    # argparse gives settings that follow an option back as unknown
    if rest and (args.command not in ("train", "plan") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command == "train":
        from backends.cuda.train import train as run_training

        recipe, overrides = _split([*args.recipe, *rest])
        run_training(recipe, overrides, device=args.device, dtype=args.dtype, resume=args.resume)
        return 0
    if args.command == "plan":
        from backends.plan import run as run_plan

        recipe, overrides = _split([*args.recipe, *rest])
        return run_plan(recipe, overrides, rows=args.rows, as_json=args.json)
    if args.command == "doctor":
        from backends.cuda.doctor import run as run_doctor

        return run_doctor(args.device)
    return shared[args.command].run(args)


def _command(commands: argparse._SubParsersAction, name: str, purpose: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
