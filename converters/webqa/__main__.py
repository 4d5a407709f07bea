"""Command line of the WebQA converter."""

from __future__ import annotations

import argparse

from converters.common.console import run_main, say
from converters.pipeline.cli import add_output_arguments, converter_parser, output_options_from
from converters.webqa import rows
from converters.webqa.rows import convert

EXAMPLES = """examples:
  python -m converters.webqa me_train.json -o webqa_train.jsonl --refusal-share 0.3 --multiple-of 8
  python -m converters.webqa me_test.ann.json -o train.jsonl --make-unanswerable --refusal-share 0.3 \\
      --holdout 500 --holdout-out test.jsonl
  python -m converters.webqa me_test.ir.json -o test.jsonl --evidences voted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = converter_parser("webqa", rows.__doc__, EXAMPLES)
    parser.add_argument(
        "data", metavar="DATA", help="WebQA's JSON (me_train.json, me_*.ann.json, me_*.ir.json), .gz too"
    )
    add_output_arguments(parser)
    parser.add_argument(
        "--refusal-share", type=float, metavar="FLOAT", help="share of refusals, 0 to 1 (default: as in the data)"
    )
    parser.add_argument(
        "--evidences",
        choices=["separate", "voted"],
        default="separate",
        help="separate: one row an evidence; voted: one row a question, with the answer that most of its evidences "
        "give and the first of these (default: %(default)s)",
    )
    parser.add_argument(
        "--make-unanswerable",
        action="store_true",
        help="for each answered row, make a refused one of the same question with another question's evidence",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    report = convert(
        args.data,
        output_options_from(args),
        refusal_share=args.refusal_share,
        evidences=args.evidences,
        make_unanswerable=args.make_unanswerable,
    )
    say(report.table())


if __name__ == "__main__":
    run_main(main)
