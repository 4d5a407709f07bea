"""Add LoRA adapters to their base, or several adapters to one: ``python -m backends.merge``."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from converters.common.console import run_main
from converters.common.errors import UsageError

DESCRIPTION = """Add LoRA adapters up. With --base: into the base, W' = round(W + sum of w*s*B*A), a whole model
that needs no peft. Without: into one adapter that is the exact weighted sum."""

EPILOG = """examples:
  python -m backends.merge --base models/tiny --adapter demo/run --out merged
  python -m backends.merge --base /models/Llama-2-7b-hf --adapter runs/webqa --out merged --dtype float16 --format pth
  python -m backends.merge --adapter runs/rte:0.5 --adapter runs/mnli:0.5 --out mixed
  python -m backends.merge --adapter runs/rte:0.7 --adapter runs/mnli:0.3 --rank 8 --out mixed-8
"""


def main(argv: list[str] | None = None) -> int | None:
    """Read the options and merge."""
    parser = argparse.ArgumentParser(
        prog="python -m backends.merge",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--adapter",
        metavar="PATH[:WEIGHT]",
        action="append",
        required=True,
        help="run, PEFT adapter directory or mindformers LoRA file, and its weight (default: 1); may be repeated",
    )
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="Hugging Face model directory or mindformers weights to merge into (default: make an adapter)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="directory to write; into a mindformers base a .ckpt or .safetensors",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out (default: refuse)")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="type of the written weights; auto: the base's own, float32 for an adapter (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["safetensors", "bin", "pth"],
        default="safetensors",
        help="of a merged model: safetensors, Hugging Face's pickled .bin, or Meta's .pth (default: %(default)s)",
    )
    parser.add_argument(
        "--max-shard-size", type=float, default=5.0, metavar="GB", help="of one weights file (default: %(default)s)"
    )
    parser.add_argument("--rank", type=int, metavar="R", help="without --base: cut the sum to rank R by SVD")
    parser.add_argument("--lora-alpha", type=float, metavar="X", help="of a mindformers LoRA file without its recipe")
    parser.add_argument("--template", metavar="NAME", help="how to ask the result (default: as the runs were trained)")
    parser.add_argument(
        "--allow-template-mismatch", action="store_true", help="add runs of different templates (default: refuse)"
    )
    parser.add_argument(
        "--allow-base-mismatch", action="store_true", help="the base is not the recorded one (default: refuse)"
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="skip comparing logits with peft's, which needs the base in float32 in memory (default: compare)",
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="for that comparison (default: %(default)s)"
    )
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    _check(args)

    from backends.merge.command import merge_adapters, merge_into_base

    chosen = [split_weight(text) for text in args.adapter]
    return merge_into_base(args, chosen) if args.base else merge_adapters(args, chosen)


def split_weight(text: str) -> tuple[str, float | None]:
    """Part ``PATH:WEIGHT``; a path without a weight, even one with a colon in it, stays whole.

    Raises:
        UsageError: the weight is not a finite number.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(r"[-+.0-9eEinfan]+", number):
        return text, None
    try:
        weight = float(number)
    except ValueError:
        return text, None
    if not math.isfinite(weight):
        raise UsageError(f"--adapter {text}: the weight is {number}; a finite number is expected")
    return path, weight


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: always with the option and what to do.
    """
    if args.base and args.rank is not None:
        raise UsageError("--rank is for a sum of adapters; into --base the exact sum is merged")
    if args.rank is not None and args.rank < 1:
        raise UsageError(f"--rank is {args.rank}; 1 or more is expected")
    if not args.base and args.format != "safetensors":
        raise UsageError(f"--format {args.format} is for whole models: name the --base, or leave it out")
    if not args.max_shard_size > 0:
        raise UsageError(f"--max-shard-size is {args.max_shard_size}; GB above 0 are expected")
    if not args.base and len(args.adapter) == 1 and args.rank is None and split_weight(args.adapter[0])[1] is None:
        raise UsageError("one adapter alone is nothing to merge; --base DIR adds it to its base, PATH:WEIGHT scales it")
    out = Path(args.out)
    for path in [args.base, *(split_weight(text)[0] for text in args.adapter)]:
        if path and (out.resolve() == Path(path).resolve() or out.resolve() in Path(path).resolve().parents):
            raise UsageError(f"--out {out} holds {path}, which is read; write elsewhere")
    if out.exists() and not args.overwrite:
        raise UsageError(f"{out}: exists; --overwrite replaces it, --out DIR writes elsewhere")


if __name__ == "__main__":
    run_main(main)
