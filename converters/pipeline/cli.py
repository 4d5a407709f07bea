"""What the converters' command lines share: the parser, and the arguments that end in OutputOptions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from converters.pipeline.output import FORMATS, PROPORTIONAL, OutputOptions
from converters.pipeline.sampling import parse_balance


def converter_parser(name: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """A converter's parser.

    Args:
        name: of the converter's package.
        description: what it does, as it is to be shown.
        examples: shown at the end.
    """
    return argparse.ArgumentParser(
        prog=f"python -m converters.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_output_arguments(
    parser: argparse.ArgumentParser,
    *,
    formats: Sequence[str] = FORMATS,
    layout: str | None = None,
    kind: str | None = None,
    out_help: str = "file to write",
    out_required: bool = True,
) -> None:
    """Add the arguments that end in OutputOptions.

    Args:
        parser: the command's.
        formats: layouts to choose from.
        layout: the default one; None: by the name, ``alpaca-array`` for OUT.json, else ``jsonl``.
        kind: one of the kinds that ``--balance`` can name; None leaves ``--balance`` out.
        out_help: what OUT may be.
        out_required: False where the command can also write nothing.
    """
    shown = "%(default)s" if layout else "alpaca-array where OUT ends in .json, else jsonl"

    def integer(option: str, default: int | None, meaning: str) -> None:
        parser.add_argument(option, type=int, default=default, metavar="INT", help=meaning)

    parser.add_argument("-o", "--out", type=Path, required=out_required, metavar="OUT", help=out_help)
    parser.add_argument("--format", choices=formats, default=layout, help=f"layout of OUT (default: {shown})")
    integer("--rows", None, "rows to sample (default: all, in input order)")
    integer("--multiple-of", 1, "round the number of rows down to a multiple of this (default: %(default)s)")
    if kind:
        parser.add_argument(
            "--balance",
            default=PROPORTIONAL,
            metavar="TEXT",
            help="rows per kind: proportional (as in the input), uniform (the same number of each), square-root (in "
            f"proportion to the square root of each kind's rows), or explicit: '{kind}=12000,…' (default: %(default)s)",
        )
    integer("--seed", 0, "random seed; the same seed gives the same file (default: %(default)s)")
    integer("--holdout", 0, "number of input rows to keep out of OUT, for testing (default: %(default)s)")
    parser.add_argument("--holdout-out", type=Path, metavar="FILE", help="file for the held-out rows")
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=0.01,
        metavar="FLOAT",
        help="share of rows that may be rejected before the command fails (default: %(default)s)",
    )


def output_options_from(args: argparse.Namespace, kinds: Sequence[str] = ()) -> OutputOptions:
    """The output options from the arguments; ``kinds`` are those that ``--balance`` may name.

    Raises:
        UsageError: the options contradict themselves.
    """
    return OutputOptions(
        out=args.out,
        layout=args.format,
        rows=args.rows,
        multiple_of=args.multiple_of,
        # converters that offer no --balance have no such attribute
        balance=parse_balance(args.balance, kinds) if "balance" in args else PROPORTIONAL,
        seed=args.seed,
        holdout=args.holdout,
        holdout_out=args.holdout_out,
        max_rejected=args.max_rejected,
    )
