"""What every converter is asked for: the output and its layout, how many rows, which, and what is held out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.common.console import say
from converters.common.errors import UsageError
from converters.common.files import sha256_file
from converters.pipeline.row_writer import FORMATS

PROPORTIONAL, UNIFORM, SQUARE_ROOT = BALANCES = ("proportional", "uniform", "square-root")
"""Rows of each kind: as in the input, as many of each, or between the two, in proportion to the square roots."""
LEVELLING = (UNIFORM, SQUARE_ROOT)


@dataclass(frozen=True)
class OutputOptions:
    """How a converter's rows are chosen and written."""

    out: Path
    layout: str = "jsonl"
    rows: int | None = None
    multiple_of: int = 1
    balance: str | dict[str, int] = PROPORTIONAL
    seed: int = 0
    holdout: int = 0
    holdout_out: Path | None = None
    max_rejected: float = 0.01

    @property
    def rejected_out(self) -> Path:
        """Where the rejected rows go."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl")

    @property
    def report_out(self) -> Path:
        """Where the report goes."""
        return self.out.with_name(f"{self.out.name}.report.json")

    def as_json(self) -> dict[str, Any]:
        """The options for a report, under the names of the command line."""
        return {
            "format": self.layout,
            "rows": self.rows,
            "multiple_of": self.multiple_of,
            "balance": self.balance,
            "seed": self.seed,
            "holdout": self.holdout,
            "max_rejected": self.max_rejected,
        }


def add_output_arguments(
    parser: argparse.ArgumentParser,
    *,
    formats: Sequence[str] = FORMATS,
    layout: str | None = "jsonl",
    kind: str | None = None,
    out_help: str = "file to write",
    out_required: bool = True,
    max_rejected: float = 0.01,
) -> None:
    """Add the arguments that end in OutputOptions.

    Args:
        parser: the command's.
        formats: layouts to choose from.
        layout: the default one; None: by the name, ``alpaca-array`` for OUT.json, else ``jsonl``.
        kind: one of the kinds that ``--balance`` can name; None leaves ``--balance`` out.
        out_help: what OUT may be.
        out_required: False where the command can also write nothing.
        max_rejected: the default share.
    """
    shown = "%(default)s" if layout else "alpaca-array where OUT ends in .json, else jsonl"
    parser.add_argument("-o", "--out", type=Path, required=out_required, metavar="OUT", help=out_help)
    parser.add_argument("--format", choices=formats, default=layout, help=f"layout of OUT (default: {shown})")
    parser.add_argument("--rows", type=int, metavar="INT", help="rows to sample (default: all, in input order)")
    parser.add_argument(
        "--multiple-of", type=int, default=1, metavar="INT", help="round rows down (default: %(default)s)"
    )
    if kind:
        parser.add_argument(
            "--balance",
            default=PROPORTIONAL,
            metavar="TEXT",
            help="proportional; uniform; square-root (between the two: in proportion to the square roots of the kinds' "
            f"rows); or rows by kind: '{kind}=12000,…' (default: %(default)s)",
        )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="same seed, same bytes (default: %(default)s)"
    )
    parser.add_argument(
        "--holdout", type=int, default=0, metavar="INT", help="input rows to hold out (default: %(default)s)"
    )
    parser.add_argument("--holdout-out", type=Path, metavar="FILE", help="where held-out rows go")
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=max_rejected,
        metavar="FLOAT",
        help="share of rows that may be rejected before the command fails (default: %(default)s)",
    )


def check_output_arguments(args: argparse.Namespace, source: str) -> None:
    """Find what cannot be meant, ``source`` being the input; say what is rounded down.

    Raises:
        UsageError: something is.
    """
    for name in ("rows", "holdout"):
        if getattr(args, name) is not None and getattr(args, name) < 0:
            raise UsageError(f"--{name} must not be negative")
    if args.multiple_of < 1 or args.seed < 0 or not 0 <= args.max_rejected <= 1:
        raise UsageError("--multiple-of must be at least 1, --seed at least 0, --max-rejected between 0 and 1")
    for name in ("rows", "holdout"):
        wanted = getattr(args, name)
        if wanted and wanted % args.multiple_of:
            rounded = wanted - wanted % args.multiple_of
            say(f"--{name} {wanted} rounded down to {rounded}, a multiple of {args.multiple_of}")
    if bool(args.holdout) != bool(args.holdout_out):
        raise UsageError("--holdout and --holdout-out belong together: how many rows, and where they go")
    files = [Path(source).resolve(), args.out.resolve(), *([args.holdout_out.resolve()] if args.holdout_out else [])]
    if len(set(files)) < len(files):
        raise UsageError("the input, OUT and --holdout-out must be different files")


def output_options(args: argparse.Namespace, names: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of OutputOptions from the arguments; ``names`` are the kinds that ``--balance`` may name."""
    from converters.pipeline.sampling import parse_balance

    return {
        "out": args.out,
        "layout": args.format or ("alpaca-array" if args.out.suffix == ".json" else "jsonl"),
        "rows": args.rows,
        "multiple_of": args.multiple_of,
        "balance": parse_balance(args.balance, names) if "balance" in args else PROPORTIONAL,
        "seed": args.seed,
        "holdout": args.holdout,
        "holdout_out": args.holdout_out,
        "max_rejected": args.max_rejected,
    }


def file_facts(path: Path, rows: int) -> dict[str, Any]:
    """What a report says of a file that was written."""
    return {"file": str(path), "rows": rows, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
