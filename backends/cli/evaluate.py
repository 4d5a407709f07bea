"""The command ``evaluate`` of every backend: perplexity of the answers of given conversations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    checkpoint_from,
    runtime_from,
)
from backends.generation.perplexity import perplexity
from backends.generation.registry import BackendName
from converters.common.console import format_table, say
from converters.common.errors import UsageError
from converters.common.files import write_json

EPILOG = """examples:
  python -m backends.{backend} evaluate --ckpt RUN --data heldout.jsonl
  python -m backends.{backend} evaluate --ckpt RUN --data heldout.jsonl --seq-length 256 --out perplexity.json
  python -m backends.{backend} evaluate --ckpt models/tiny --template bare --data heldout.jsonl --json
"""


def add_arguments(parser: argparse.ArgumentParser, backend: BackendName) -> None:
    """Add the options of ``evaluate``."""
    parser.epilog = EPILOG.format(backend=backend)
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--data", metavar="FILE", required=True, help="conversations (ShareGPT or Alpaca, JSONL or JSON) with answers"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only (default: all)")
    parser.add_argument(
        "--seq-length",
        type=int,
        metavar="N",
        help="leave out rows of more than N tokens, and count them (default: none)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    parser.add_argument("--out", metavar="FILE", help="write the JSON there as well")
    add_device_arguments(parser, backend)


def run(args: argparse.Namespace) -> int:
    """Measure the rows and print the figures.

    Raises:
        UsageError: ``--limit`` is not positive, the data is missing or empty, or no template is known.
    """
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1 is needed")
    files = checkpoint_from(args)
    found = perplexity(files, args.data, runtime=runtime_from(args), first=args.limit, seq_length=args.seq_length)
    value = found.as_json() | {"ckpt": str(args.ckpt), "file": str(args.data)}
    if args.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        row = [f"{found.rows:,}", f"{found.tokens:,}", f"{found.nll:.6f}", f"{found.perplexity:.6f}"]
        print(format_table(["rows", "supervised tokens", "nats a token", "perplexity"], [row], left=0))
    if args.out:
        write_json(Path(args.out), value)
        say(args.out)
    return 0
