"""Fine-tune, plan, generate and check on MindSpore and mindformers: ``python -m backends.ascend``."""

from __future__ import annotations

import argparse
import importlib
import sys

from backends.ascend.device import DEVICE_CHOICES
from backends.cli.recipe_arguments import add_command, parse
from converters.common.console import run_main

EPILOG = """examples:
  python -m backends.ascend plan yaml/llama3_lora.yaml
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --workers 4
  python -m backends.ascend train yaml/demo.yaml data.train=rows.jsonl output_dir=runs/try --device cpu
"""

# commands that are the same for every backend: add_arguments(parser, backend) and run(args)
SHARED = {
    "generate": ("backends.cli.generate", "Answer the problems of a file with a run or a model."),
    "evaluate": ("backends.cli.evaluate", "Measure the perplexity of a run or a model on conversations."),
    "chat": ("backends.cli.chat", "Talk to a run or a model in the terminal."),
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
    train = add_command(commands, "train", "Fine-tune from a recipe into a run directory.", EPILOG)
    train.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint (default: no)")
    _add_device(train)
    train.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one a card, by msrun (default: %(default)s)"
    )
    plan = add_command(
        commands, "plan", "Predict parameters, steps, memory and time, and print the launch commands.", EPILOG
    )
    plan.add_argument("--rows", type=int, metavar="N", help="rows of the training data, where there is no file yet")
    plan.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    doctor = add_command(
        commands, "doctor", "Check CANN, driver and versions, and train a tiny model for one step.", EPILOG
    )
    _add_device(doctor)
    modules = {}
    for name, (module, purpose) in SHARED.items():
        own = add_command(commands, name, purpose, EPILOG)
        if arguments[:1] == [name]:
            modules[name] = importlib.import_module(module)
            modules[name].add_arguments(own, "ascend")
    purpose = "Join the distributed checkpoints of several cards into one."
    own = add_command(commands, "unshard", purpose, EPILOG)
    if arguments[:1] == ["unshard"]:
        modules["unshard"] = importlib.import_module("backends.ascend.unshard")
        modules["unshard"].add_arguments(own)

    args = parse(parser, arguments)
    if args.command == "train":
        from backends.ascend.train.run import train as run_training

        run_training(args.recipe, args.overrides, device=args.device, resume=args.resume, workers=args.workers)
        return 0
    if args.command == "plan":
        from backends.ascend.train.launch import plan as run_plan

        return run_plan(args.recipe, args.overrides, rows=args.rows, as_json=args.json)
    if args.command == "doctor":
        from backends.ascend.doctor import run as run_doctor

        return run_doctor(args.device)
    return modules[args.command].run(args)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICE_CHOICES,
        default="auto",
        help="auto: a card where there is one, else the CPU for models that fit it (default: %(default)s)",
    )


if __name__ == "__main__":
    run_main(main)
