"""Add LoRA adapters to their base, or several adapters to one: ``python -m backends.merge``."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from backends.weights.dtypes import FLOATS
from backends.weights.files import GGUF_TYPES
from converters.common.console import run_main, say
from converters.common.errors import UsageError

DESCRIPTION = """Add LoRA adapters up. With --base: into the base, W' = round(W + sum of w*s*B*A), a whole model
that needs no peft. Without: into one adapter that is the exact weighted sum."""

EPILOG = """examples:
  python -m backends.merge --base models/tiny --adapter demo/run --out merged
  python -m backends.merge --base /models/Llama-2-7b-hf --adapter runs/webqa --out merged --dtype float16 --format pth
  python -m backends.merge --base models/tiny --adapter demo/run --out served --format gguf --gguf-type Q8_0
  python -m backends.merge --adapter runs/rte:0.5 --adapter runs/mnli:0.5 --out mixed
  python -m backends.merge --adapter runs/rte:0.7 --adapter runs/mnli:0.3 --rank 8 --out mixed-8
"""


def main(argv: list[str] | None = None) -> int | None:
    """Run the command line."""
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
        help="model directory, GGUF file or mindformers weights to merge into (default: make an adapter)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="directory to write; with a mindformers base, a .ckpt or .safetensors file",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out (default: refuse)")
    parser.add_argument(
        "--dtype",
        choices=["auto", *FLOATS],
        default="auto",
        help="type of the written weights; auto: the base's own, float32 for an adapter (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["safetensors", "bin", "pth", "gguf"],
        default="safetensors",
        help="file format of a merged model: safetensors, Hugging Face's pickled .bin, Meta's .pth, or one GGUF file "
        "with tokenizer and template (default: %(default)s)",
    )
    parser.add_argument(
        "--gguf-type",
        choices=GGUF_TYPES,
        metavar="TYPE",
        help=f"with --format gguf: type of the matrices, {', '.join(GGUF_TYPES)} (default: F16)",
    )
    parser.add_argument(
        "--max-shard-size",
        type=float,
        default=5.0,
        metavar="GB",
        help="largest size of one weights file, in GB (default: %(default)s)",
    )
    parser.add_argument(
        "--rank", type=int, metavar="R", help="without --base: cut the sum to rank R by SVD (default: exact)"
    )
    parser.add_argument(
        "--lora-alpha", type=float, metavar="X", help="lora_alpha of a mindformers LoRA file whose recipe is missing"
    )
    parser.add_argument(
        "--template", metavar="NAME", help="template to store with the result (default: that of the runs)"
    )
    parser.add_argument(
        "--allow-template-mismatch",
        action="store_true",
        help="merge runs that were trained in different templates (default: refuse)",
    )
    parser.add_argument(
        "--allow-base-mismatch",
        action="store_true",
        help="accept a base other than the one recorded in training (default: refuse)",
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not compare the logits with peft's; comparing needs the base in float32 in memory (default: compare)",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where the logits are compared (default: %(default)s)",
    )
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    # "not >" refuses a NaN as well
    if not args.max_shard_size > 0:
        raise UsageError(f"--max-shard-size is {args.max_shard_size}; GB above 0 are expected")
    if args.gguf_type and args.format != "gguf":
        raise UsageError(f"--gguf-type {args.gguf_type} is for --format gguf")
    chosen = [split_weight(text) for text in args.adapter]
    weighted = any(weight is not None for _, weight in chosen)

    # here, so that --help and wrong options do not wait for numpy
    from backends.merge.run import merge

    report = merge(
        [path for path, _ in chosen],
        args.out,
        base=args.base,
        weights=[1.0 if weight is None else weight for _, weight in chosen] if weighted else None,
        dtype=None if args.dtype == "auto" else args.dtype,
        format=args.format,
        gguf_type=args.gguf_type or "F16",
        rank=args.rank,
        max_shard_bytes=int(args.max_shard_size * 10**9),
        lora_alpha=args.lora_alpha,
        template=args.template,
        allow_template_mismatch=args.allow_template_mismatch,
        allow_base_mismatch=args.allow_base_mismatch,
        overwrite=args.overwrite,
        verify=not args.no_verify,
        device=args.device,
    )
    say(report.as_text())
    return 0


def split_weight(text: str) -> tuple[str, float | None]:
    """Split ``PATH:WEIGHT``; a path without a weight stays whole, even if it holds a colon.

    Raises:
        UsageError: the weight is not a finite number.
    """
    path, colon, number = text.rpartition(":")
    # the letters of nan and inf are let through here, to be refused by name below
    if not colon or Path(text).exists() or not re.fullmatch(r"[-+.0-9eEinfan]+", number):
        return text, None
    try:
        weight = float(number)
    except ValueError:
        return text, None
    if not math.isfinite(weight):
        raise UsageError(f"--adapter {text}: the weight is {number}; a finite number is expected")
    return path, weight


if __name__ == "__main__":
    run_main(main)
