"""Make the small base's training text, its tokenizer and the reading set."""

from __future__ import annotations

import argparse

from converters.common.console import format_table, run_main, say
from converters.pipeline.cli import converter_parser
from converters.tiny.corpus import MIXES, write_corpus, write_reading, write_tokenizer
from converters.tiny.tokenizer import DIGITS

EXAMPLES = """examples:
  python -m converters.tiny corpus -o runs/tiny/base.jsonl
  python -m converters.tiny tokenizer -o models/tiny
  python -m converters.tiny reading --paragraphs 300 -o runs/reading.json
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = converter_parser("tiny", __doc__, EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    corpus = commands.add_parser("corpus", help="drills and reading as conversations")
    corpus.add_argument("--rows", type=int, default=200_000, help="rows to write (int, default %(default)s)")
    corpus.add_argument("--mix", choices=list(MIXES), default="base", help="shares of the skills (default %(default)s)")
    corpus.set_defaults(run=_corpus)
    tokenizer = commands.add_parser("tokenizer", help="byte-level BPE with digits alone")
    tokenizer.add_argument("--vocab-size", type=int, default=1024, help="tokens (int, default %(default)s)")
    tokenizer.add_argument(
        "--digits",
        choices=tuple(DIGITS),
        default="one",
        help="a number's digits: each one a token, or groups of up to three, as Llama 3 has them (default %(default)s)",
    )
    tokenizer.set_defaults(run=_tokenizer)
    reading = commands.add_parser("reading", help="passages and questions in SQuAD's shape")
    reading.add_argument("--paragraphs", type=int, default=300, help="passages (int, default %(default)s)")
    reading.add_argument("--questions", type=int, default=2, help="questions a passage (int, default %(default)s)")
    reading.set_defaults(run=_reading)
    for command in (corpus, tokenizer, reading):
        command.add_argument("--seed", type=int, default=0, help="same seed, same bytes (int, default %(default)s)")
        command.add_argument("-o", "--out", required=True, help="file or directory to write")
    return parser


def _corpus(args: argparse.Namespace) -> None:
    counts = write_corpus(args.out, args.rows, args.seed, args.mix)
    say(format_table(["skill", "rows"], sorted(counts.items())))


def _tokenizer(args: argparse.Namespace) -> None:
    size = write_tokenizer(args.out, args.vocab_size, args.seed, args.digits)
    say(f"{args.out}: {size} tokens")


def _reading(args: argparse.Namespace) -> None:
    write_reading(args.out, args.paragraphs, args.questions, args.seed)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one subcommand."""
    args = build_parser().parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    run_main(main)
