"""Fine-tune, plan, generate and check on PyTorch: ``python -m backends.cuda``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from backends.cli.recipe_arguments import add_command, parse
from converters.common.console import run_main

EPILOG = """examples:
  python -m backends.cuda plan yaml/llama3_lora.yaml
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  torchrun --nproc_per_node 4 -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
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
        prog="python -m backends.cuda",
        description="Fine-tune and use models with PyTorch and PEFT, on CUDA or on the CPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = add_command(commands, "train", "Fine-tune from a recipe into a run directory.", EPILOG)
    train.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint (default: no)")
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    train.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="type of the matrix products; auto: the recipe's on CUDA, float32 on the CPU (default: %(default)s)",
    )
    plan = add_command(commands, "plan", "Predict parameters, steps, memory and time without loading weights.", EPILOG)
    plan.add_argument("--rows", type=int, metavar="N", help="rows of the training data, where there is no file yet")
    plan.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    doctor = add_command(commands, "doctor", "Check versions and devices, and train a tiny model for one step.", EPILOG)
    doctor.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    shared = {}
    for name, (module, purpose) in SHARED.items():
        own = add_command(commands, name, purpose, EPILOG)
        if arguments[:1] == [name]:
            shared[name] = importlib.import_module(module)
            shared[name].add_arguments(own, "cuda")

    args = parse(parser, arguments)
    if args.command == "train":
        from backends.cuda.train.run import train as run_training

        run_training(args.recipe, args.overrides, device=args.device, dtype=args.dtype, resume=args.resume)
        return 0
    if args.command == "plan":
        from backends.recipe.load import load_recipe
        from backends.run.plan import plan as plan_recipe

        figures = plan_recipe(load_recipe(args.recipe, args.overrides), args.rows)
        print(json.dumps(figures.as_json(), indent=2) if args.json else figures.as_text())
        return 0
    if args.command == "doctor":
        from backends.cuda.doctor import run as run_doctor

        return run_doctor(args.device)
    return shared[args.command].run(args)


if __name__ == "__main__":
    run_main(main)
