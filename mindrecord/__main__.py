"""Look at what a model would be trained on: ``python -m mindrecord show``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from converters.cli import UsageError, run_main

if TYPE_CHECKING:
    from mindrecord.encode import TokenRows
    from mindrecord.tokenizer import Tokenizer

_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = _parser().parse_args(argv)
    return show(args)


def show(args: argparse.Namespace) -> int:
    """Print the first rows as the model sees them, supervised tokens marked, and the audit of the whole file."""
    if args.rows < 0:
        raise UsageError(f"--rows is {args.rows}; it cannot be negative")
    from converters.conversation import read_conversations
    from converters.template import get_template
    from mindrecord.encode import encode
    from mindrecord.tokenizer import load_tokenizer

    template = get_template(args.template)
    tokenizer = load_tokenizer(args.tokenizer)
    conversations = read_conversations(args.file)
    rows, audit = encode(conversations, template, tokenizer, seq_length=args.seq_length, over_length=args.over_length)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    opening, closing = (_GREEN, _PLAIN) if colour else ("⟦", "⟧")
    for i in range(min(args.rows, len(rows))):
        supervised = int((rows.row(i)[1] >= 0).sum())
        print(f"── row {rows.ids[i]}: {rows.lengths[i]} ids, {supervised} supervised")
        print("".join(opening + text + closing if marked else text for text, marked in marked_text(rows, i, tokenizer)))
        if args.ids:
            print(marked_ids(rows, i, opening, closing))
    print(f"── {args.file} · template {template.name} {template.hash[:12]} · tokenizer {tokenizer.hash[:12]}")
    print("\n".join(audit.lines()))
    return 0


def marked_text(rows: TokenRows, i: int, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """Return a row's text, special tokens by name, cut into pieces ``(text, supervised)``."""
    ids, labels = rows.row(i)
    marks = (labels >= 0).tolist()
    cuts = [j for j in range(1, len(ids)) if marks[j] != marks[j - 1]]
    pieces = []
    before = ""
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        # decoders may drop the space of a first word: a piece is what it adds to the text before it
        until = tokenizer.decode(ids[:end], skip_special=False)
        pieces.append((until[len(before) :], marks[start]))
        before = until
    return pieces


def marked_ids(rows: TokenRows, i: int, opening: str, closing: str) -> str:
    """Return a row's ids on one line, the supervised ones marked."""
    ids, labels = rows.row(i)
    return " ".join(
        f"{opening}{token}{closing}" if label >= 0 else str(token)
        for token, label in zip(ids.tolist(), labels.tolist(), strict=True)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mindrecord", description="Token rows made from conversations.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "show",
        help="print rows as the model sees them, with the supervised tokens marked, and the audit",
        description="Print rows as the model sees them, with the supervised tokens marked (green on a terminal, "
        "⟦brackets⟧ otherwise), and the audit of the whole file.",
        epilog="examples:\n"
        "  python -m mindrecord show train.jsonl --tokenizer models/tiny --template vicuna\n"
        "  python -m mindrecord show train.json --tokenizer llama3/tokenizer.model --template llama3 --ids --rows 1\n"
        "  python -m mindrecord show train.jsonl --tokenizer DIR --template bare --seq-length 256 --rows 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", metavar="FILE", help="conversations: ShareGPT or Alpaca, JSONL or JSON array")
    command.add_argument("--tokenizer", metavar="DIR", required=True, help="directory or file of the tokenizer")
    command.add_argument("--template", metavar="NAME", required=True, help="bare, alpaca, vicuna, llama3, chatml, …")
    command.add_argument("--rows", metavar="N", type=int, default=3, help="int: rows to print (default 3)")
    command.add_argument("--ids", action="store_true", help="print the ids as well")
    command.add_argument("--seq-length", metavar="N", type=int, help="int: longest model input (default: no limit)")
    command.add_argument(
        "--over-length",
        choices=["drop", "truncate", "error"],
        default="drop",
        help="what to do with longer rows (default drop)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
