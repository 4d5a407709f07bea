"""The command ``unshard``, which the MindSpore backend alone has."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser, backend: str) -> None:
    """Add the options of ``unshard``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="directory with rank_0, rank_1, …")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the whole weights, .ckpt or .safetensors"
    )
    parser.add_argument(
        "--strategy",
        type=Path,
        metavar="PATH",
        help="strategy file, or the directory of all of them (default: `strategy` in DIR or beside it)",
    )


def run(args: argparse.Namespace) -> int:
    """Write one file of whole weights."""
    from backends.ascend.unshard import unshard
    from converters.common.console import say

    report = unshard(args.folder, args.out, args.strategy)
    say(
        f"{args.out}: {report.weights} weights of {report.ranks} ranks joined; {report.left_behind} optimizer copies "
        "and counters left behind"
    )
    return 0
