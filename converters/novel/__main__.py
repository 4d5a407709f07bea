"""Command line of the novel converter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from converters.common.console import run_main, say
from converters.common.errors import UsageError
from converters.novel import rows
from converters.novel.passages import Bounds
from converters.novel.rows import DEFAULT_BOUNDS, INSTRUCTION, convert
from converters.pipeline.cli import add_output_arguments, converter_parser, output_options_from

if TYPE_CHECKING:
    from converters.novel.model_pairs import Writer

EXAMPLES = """examples:
  python -m converters.novel novel.txt -o novel_train.jsonl --context 100,400 --continuation 100,400
  python -m converters.novel novel.txt -o train.jsonl --stride 800 --holdout 50 --holdout-out test.jsonl
  python -m converters.novel novel.txt -o written.jsonl --generator-model qwen2.5-14b \\
      --generator http://localhost:8000/v1 --judge https://api.example.com/v1 --judge-model big --threshold 8
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = converter_parser("novel", rows.__doc__, EXAMPLES)
    parser.add_argument("novel", metavar="NOVEL", help="text file, UTF-8 or GB18030 (GBK), .gz too, - for stdin")
    add_output_arguments(parser)
    parser.add_argument(
        "--encoding", choices=["auto", "utf-8", "gb18030"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--instruction", default=INSTRUCTION, metavar="TEXT", help="(default: %(default)s)")
    for name, meaning in (("--context", "the given text"), ("--continuation", "the text to write")):
        parser.add_argument(
            name,
            type=_bounds,
            metavar="MIN,MAX",
            default=DEFAULT_BOUNDS,
            help=f"fewest and most characters of {meaning} (default: %(default)s)",
        )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="INT",
        help="characters from the start of one pair to the start of the next (default: a context starts where the "
        "previous pair's continuation starts)",
    )
    _add_model_arguments(parser.add_argument_group("pairs written by a model"))
    return parser


def _add_model_arguments(models: argparse._ArgumentGroup) -> None:
    models.add_argument(
        "--generator", metavar="URL", help="API of the model that writes, such as http://localhost:8000/v1"
    )
    models.add_argument("--judge", metavar="URL", help="API of the model that scores")
    models.add_argument("--generator-model", metavar="NAME", help="name of the model that writes")
    models.add_argument(
        "--judge-model", metavar="NAME", help="name of the model that scores (default: as --generator-model)"
    )
    models.add_argument(
        "--writes",
        choices=["pair", "continuation"],
        default="pair",
        help="pair: the generator writes context and continuation, as JSON; continuation: it continues the passage "
        "(default: %(default)s)",
    )
    models.add_argument(
        "--generator-prompt",
        type=Path,
        metavar="FILE",
        help="prompt file with {passage} in it (default: converters/novel/prompts/generate_*.txt)",
    )
    models.add_argument(
        "--judge-prompt",
        type=Path,
        metavar="FILE",
        help="prompt file with {prompt} and {completion} in it (default: prompts/judge.txt)",
    )
    for name, default, unit, meaning in (
        ("--threshold", 7.0, "FLOAT", "lowest score to keep, 0 to 10"),
        ("--concurrency", 4, "INT", "requests sent at the same time"),
        ("--tries", 6, "INT", "attempts per request"),
        ("--backoff", 1.0, "SECONDS", "wait before the second attempt; it doubles before each later one"),
        ("--timeout", 120.0, "SECONDS", "give up a request when the server sends nothing for this long"),
        ("--max-tokens", 1024, "INT", "most tokens of an answer"),
        ("--temperature", 0.8, "FLOAT", "sampling temperature of the generator; the judge's is 0"),
    ):
        shown = f"{meaning} (default: %(default)s)"
        models.add_argument(name, type=type(default), default=default, metavar=unit, help=shown)
    models.add_argument(
        "--overwrite",
        action="store_true",
        help="ask all passages again (default: keep the answers in OUT.pairs.jsonl and ask the rest)",
    )


def _bounds(text: str) -> Bounds:
    try:
        return Bounds.of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,MAX, such as 100,400") from None


def writer_from(args: argparse.Namespace) -> Writer | None:
    """Both models with their prompts, if any is named.

    Raises:
        UsageError: an option is missing or invalid.
    """
    if not any((args.generator, args.judge, args.generator_model, args.judge_model)):
        return None
    from converters.novel.endpoint import Endpoint
    from converters.novel.model_pairs import PROMPTS, Writer, read_prompt

    if not (args.generator and args.judge and args.generator_model):
        raise UsageError("--generator, --judge and --generator-model belong together")
    if args.concurrency < 1 or args.tries < 1 or args.max_tokens < 1:
        raise UsageError("--concurrency, --tries and --max-tokens must be at least 1")
    if args.backoff < 0 or args.timeout <= 0 or args.temperature < 0:
        raise UsageError("--backoff and --temperature must not be negative, --timeout must be more than 0")

    def endpoint(url: str, model: str, key: str, temperature: float) -> Endpoint:
        return Endpoint(
            url,
            model,
            (key, "OPENAI_API_KEY"),
            max_tokens=args.max_tokens,
            temperature=temperature,
            tries=args.tries,
            backoff=args.backoff,
            timeout=args.timeout,
        )

    return Writer(
        endpoint(args.generator, args.generator_model, "GENERATOR_API_KEY", args.temperature),
        # the judge is greedy, so that the same pair gets the same score
        endpoint(args.judge, args.judge_model or args.generator_model, "JUDGE_API_KEY", 0.0),
        args.writes,
        read_prompt(args.generator_prompt or PROMPTS / f"generate_{args.writes}.txt", ["passage"]),
        read_prompt(args.judge_prompt or PROMPTS / "judge.txt", ["completion"]),
        threshold=args.threshold,
        concurrency=args.concurrency,
        overwrite=args.overwrite,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = build_parser().parse_args(argv)
    report = convert(
        args.novel,
        output_options_from(args),
        context=args.context,
        continuation=args.continuation,
        stride=args.stride,
        instruction=args.instruction,
        encoding=args.encoding,
        writer=writer_from(args),
    )
    say(report.table())


if __name__ == "__main__":
    run_main(main)
