"""The command ``generate`` of every backend: answers to a file of conversations, or to one prompt."""

from __future__ import annotations

import argparse

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    add_limit_arguments,
    add_sampling_arguments,
    checkpoint_from,
    runtime_from,
    sampling_from,
)
from backends.generation.ask import ask, generate_file
from backends.generation.registry import BackendName
from backends.generation.types import answer_limits
from converters.common.console import say
from converters.common.errors import UsageError

EPILOG = """examples:
  python -m backends.{backend} generate --ckpt RUN --prompt "计算 1.50 + 2.25 等于多少？"
  python -m backends.{backend} generate --ckpt RUN --data heldout.jsonl --out answers.jsonl
  python -m backends.{backend} generate --ckpt models/tiny --template bare --prompt "1 + 1 =" --temperature 0.7 --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser, backend: BackendName) -> None:
    """Add the options of ``generate``."""
    parser.epilog = EPILOG.format(backend=backend)
    add_checkpoint_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="one question; the answer goes to stdout")
    source.add_argument(
        "--data",
        metavar="FILE",
        help="conversations (ShareGPT or Alpaca, JSONL or JSON); the last question of each is answered",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="with --data: JSONL file of the answers; run the command again to continue after a kill",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --data: the first N rows only (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="start --out over (default: go on with it)")
    add_limit_arguments(parser)
    add_sampling_arguments(parser)
    add_device_arguments(parser, backend)


def run(args: argparse.Namespace) -> int:
    """Answer the prompt or the file.

    Raises:
        UsageError: options that do not go together.
    """
    files = checkpoint_from(args)
    runtime, sampling = runtime_from(args), sampling_from(args)
    if args.prompt is not None:
        lengths = {"max_new_tokens": args.max_new_tokens, "min_new_tokens": args.min_new_tokens}
        [answer] = ask(files, [args.prompt], runtime=runtime, sampling=sampling, **lengths)
        print(answer)
        if answer.finish_reason == "length":
            say(f"cut after {answer.tokens} tokens; --max-new-tokens N allows more")
        return 0
    limits = answer_limits(files, args.max_new_tokens, args.min_new_tokens)
    if args.out is None:
        raise UsageError("--data needs --out FILE for its answers")
    generate_file(
        files,
        args.data,
        args.out,
        limits=limits,
        runtime=runtime,
        sampling=sampling,
        first=args.limit,
        overwrite=args.overwrite,
        about={"ckpt": args.ckpt},
    )
    return 0
