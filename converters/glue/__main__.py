"""Command line of the GLUE converter."""

from __future__ import annotations

import argparse

from converters.common.console import run_main, say
from converters.glue import rows
from converters.glue.rows import TASKS, convert, output_path
from converters.pipeline.cli import add_output_arguments, converter_parser, output_options_from

EXAMPLES = """examples:
  python -m converters.glue rte RTE/train.tsv -o rte_train.jsonl
  python -m converters.glue mnli MNLI/train.tsv -o mnli_train.jsonl --rows 40000 --multiple-of 8 --balance uniform
  python -m converters.glue cola CoLA_train.tsv -o pre_data/CoLA/ --rows 4000 --holdout 500 --holdout-out cola_test.json
  python -m converters.glue qqp QQP_dev.tsv -o QQP_dev.json --instruction "Do both ask the same? Answer 1 or 0."
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = converter_parser("glue", rows.__doc__, EXAMPLES)
    commands = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, task in TASKS.items():
        one = commands.add_parser(name, help=f"{task.name}: {' or '.join(task.kinds[:-1])}")
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        one.description = (
            f"Convert {task.name} to conversations. OUT.report.json has the figures and hashes,\n"
            f"OUT.rejected.jsonl the rejected rows with line number and reason.\n"
            f"Rows without a label come out without an answer.\n\n"
            f"asked as: {task.wording}"
        )
        one.epilog = "\n".join(line for line in EXAMPLES.splitlines() if "examples" in line or f" {name} " in line)
        one.add_argument("data", metavar="DATA", help="TSV, JSONL or a JSON array, .gz too, - for stdin")
        add_output_arguments(
            one,
            kind=task.kinds[0],
            out_help=f"file to write, or (a name without a suffix) a folder for {task.name}_train.json, "
            f"{task.name}_dev.json, …",
        )
        places = " and ".join(f"{{{place}}}" for place in range(len(task.texts)))
        one.add_argument(
            "--instruction",
            metavar="TEXT",
            default=task.wording,
            help=f"your own wording; the texts replace {places} in it, or become the input where it has none",
        )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    task = TASKS[args.task]
    args.out = output_path(task, args.data, args.out)
    report = convert(args.task, args.data, output_options_from(args, task.kinds), instruction=args.instruction)
    say(report.table())


if __name__ == "__main__":
    run_main(main)
