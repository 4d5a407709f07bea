"""Command line of the converter of Alpaca and ShareGPT files."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.alpaca import rows
from converters.alpaca.rows import INFO, KINDS, convert, entries
from converters.common.console import format_table, run_main, say
from converters.common.errors import UsageError
from converters.pipeline.cli import add_output_arguments, converter_parser, output_options_from

EXAMPLES = """examples:
  python -m converters.alpaca alpaca_zh_demo --dataset-dir data -o train.jsonl
  python -m converters.alpaca my_data.jsonl -o train.jsonl --rows 4000 --holdout 200 --holdout-out test.jsonl
  python -m converters.alpaca --list --dataset-dir data
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = converter_parser("alpaca", rows.__doc__, EXAMPLES)
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help=f"a name in {INFO}, or a JSON or JSONL file")
    parser.add_argument(
        "--dataset-dir", type=Path, default=Path("data"), metavar="DIR", help=f"where {INFO} is (default: %(default)s)"
    )
    parser.add_argument(
        "--formatting",
        choices=["alpaca", "sharegpt"],
        help="format of a file given by its path (default: detected from its first row)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help=f"list the entries of {INFO} and whether they can be converted; convert nothing",
    )
    add_output_arguments(parser, kind=KINDS[0], out_required=False)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.list:
        found = entries(args.dataset_dir)
        table = [[one.name, one.formatting, "no: " + one.unsupported if one.unsupported else "yes"] for one in found]
        print(format_table(["data set", "formatting", "converts"], table, left=3))
        return
    if not args.dataset or not args.out:
        raise UsageError("DATASET and -o OUT are needed (or --list)")
    output = output_options_from(args, KINDS)
    say(convert(args.dataset, output, folder=args.dataset_dir, formatting=args.formatting).table())


if __name__ == "__main__":
    run_main(main)
