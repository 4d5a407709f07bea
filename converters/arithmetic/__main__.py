"""Command line of the arithmetic converter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from converters.arithmetic import CONTEST_ROWS, convert, recite, report, synthesize
from converters.arithmetic.problems import KINDS
from converters.arithmetic.recitation import ENTRIES
from converters.arithmetic.records import FORMATS
from converters.arithmetic.steps import DEFAULT, DIGITS, PLAIN, style_names
from converters.arithmetic.steps.precision import PRECISIONS
from converters.common.console import run_main, say
from converters.common.errors import UsageError
from converters.pipeline.cli import add_output_arguments, converter_parser, output_options_from
from converters.text.chat_template import known_names

if TYPE_CHECKING:
    from converters.tokenizers.segments import TokenLimit

EXAMPLES = """examples:
  python -m converters.arithmetic synthesize -o raw.jsonl --rows 20000 --seed 1
  python -m converters.arithmetic convert train.json -o out.jsonl --rows 100000 --multiple-of 8 --seed 0
  python -m converters.arithmetic convert raw.jsonl -o train.jsonl --holdout 2000 --holdout-out test.jsonl
  python -m converters.arithmetic recite -o tables.jsonl --times 20
  python -m converters.arithmetic report train.json
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    description = "Turn raw arithmetic rows into deduplicated, checked, worked and sampled conversations."
    parser = converter_parser("arithmetic", description, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_synthesize(commands.add_parser("synthesize", help="write raw rows like the contest's"))
    _add_convert(commands.add_parser("convert", help="convert raw rows"))
    _add_recite(commands.add_parser("recite", help="write rows that recite the tables of function values"))
    _add_report(commands.add_parser("report", help="say what a raw file holds, by kind"))
    return parser


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write raw rows with the contest's sentences, ranges, number formats, mix and duplicates."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """examples:
  python -m converters.arithmetic synthesize -o raw.jsonl --rows 20000 --seed 1
  python -m converters.arithmetic synthesize -o sums.jsonl --rows 20000 --kinds '+,-,area computation'"""
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="JSONL file to write")
    parser.add_argument("--rows", type=int, default=CONTEST_ROWS, metavar="INT", help="rows (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="same seed, same bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--kinds",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="NAME,…",
        help="only these kinds, and no English rows; + - * / name the operators of 'direct computation' (default: all)",
    )
    parser.set_defaults(run=_synthesize)


def _add_recite(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write rows that recite the tables of logarithms and antilogarithms, which the worked steps of function values "
        "look up: training rows to add to those of convert. They have no problem in them."
    )
    parser.epilog = "example: python -m converters.arithmetic recite -o tables.jsonl --times 20 --seed 0"
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="JSONL file to write")
    parser.add_argument(
        "--times", type=int, default=20, metavar="INT", help="how often each entry occurs (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="same seed, same bytes (default: %(default)s)"
    )
    parser.set_defaults(run=_recite)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say what a raw file holds: rows, rejected, duplicates, conflicts, and the share of each kind."
    parser.epilog = "example: python -m converters.arithmetic report train.json --json report.json"
    parser.add_argument("raw", metavar="RAW", help="raw rows: JSONL or a JSON array, .gz too, - for stdin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.set_defaults(run=_report)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Convert raw rows: reject what is broken or wrong, deduplicate, sample, write the steps. OUT.report.json has "
        "the figures and hashes, OUT.rejected.jsonl the rejected rows with line number and reason."
    )
    # keeps the line breaks of the examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """examples:
  python -m converters.arithmetic convert train.json -o out.jsonl --rows 100000 --multiple-of 8 --seed 0
  python -m converters.arithmetic convert raw.jsonl -o train.jsonl --steps worked --holdout 200 --holdout-out test.jsonl
  python -m converters.arithmetic convert raw.jsonl -o train.jsonl --steps worked \\
      --max-tokens 256 --tokenizer models/tiny --template bare
  zcat raw.jsonl.gz | python -m converters.arithmetic convert - -o out.json --format array --balance uniform --rows 8000
"""
    parser.add_argument("raw", metavar="RAW", help="raw rows: JSONL or a JSON array, .gz too, - for stdin")
    parser.add_argument(
        "--steps", choices=style_names(), default=DEFAULT, help="style of the answers (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="digits of the worked answers: all digits of the solution, six significant digits, or two decimals (seven "
        "leading digits for large powers) (default: 2dp; sig6 for decompose; raw and seed have only one precision)",
    )
    parser.add_argument(
        "--digits",
        choices=DIGITS,
        default=PLAIN,
        help="for tokenizers that take several digits as one token: cells has a space between the columns of products, "
        "spaced one between any two digits (default: %(default)s)",
    )
    add_output_arguments(parser, formats=FORMATS, layout="jsonl", kind="eq solve")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="INT",
        help="most tokens of a training row: longer ones are written with the next lower precision; if still too "
        "long, they are left out and counted (default: no limit)",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="for --max-tokens: the directory or file of the tokenizer"
    )
    parser.add_argument(
        "--template", choices=known_names(), default="vicuna", help="for --max-tokens (default: %(default)s)"
    )
    parser.add_argument("--keep-english", action="store_true", help="keep English rows (default: drop and count them)")
    parser.set_defaults(run=_convert)


def _synthesize(args: argparse.Namespace) -> None:
    counts = synthesize(args.out, args.rows, args.seed, args.kinds)
    say(f"{args.out}: {counts['chinese']:,} Chinese and {counts['english']:,} English rows, seed {args.seed}")


def _recite(args: argparse.Namespace) -> None:
    rows = recite(args.out, args.times, args.seed)
    say(f"{args.out}: {rows:,} rows, {ENTRIES} entries a row; each entry occurs {args.times} times, seed {args.seed}")


def _report(args: argparse.Namespace) -> None:
    found = report(args.raw)
    if args.json:
        from converters.common.files import write_json

        write_json(args.json, found.as_json())
    print(found.table())


def _convert(args: argparse.Namespace) -> None:
    done = convert(
        args.raw,
        output_options_from(args, KINDS),
        steps=args.steps,
        precision=args.precision,
        digits=args.digits,
        limit=token_limit_from(args),
        keep_english=args.keep_english,
    )
    say(done.table())


def token_limit_from(args: argparse.Namespace) -> TokenLimit | None:
    """The longest row allowed.

    Raises:
        UsageError: half of what is needed is missing.
    """
    if (args.max_tokens is None) != (args.tokenizer is None):
        raise UsageError("--max-tokens and --tokenizer belong together: how long rows may be, and in which tokens")
    if args.max_tokens is None:
        return None
    if args.max_tokens < 1:
        raise UsageError("--max-tokens must be at least 1")
    from converters.tokenizers.segments import TokenLimit

    return TokenLimit(args.max_tokens, args.tokenizer, args.template)


def main(argv: list[str] | None = None) -> None:
    """Run one command."""
    args = build_parser().parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    run_main(main)
