"""Look at what a model would be trained on, and write it for Ascend: ``python -m mindrecord``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
from dataclasses import asdict

from converters.common.console import run_main, say
from converters.common.errors import UsageError


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = _parser().parse_args(argv)
    {"write": _write, "info": _info, "read": _read, "show": _show}[args.command](args)


def _write(args: argparse.Namespace) -> None:
    # commands are imported where they run: numpy and tokenizers would slow --help
    from mindrecord.commands import write_mindrecord

    written = write_mindrecord(
        args.conversations,
        args.out,
        tokenizer=args.tokenizer,
        template=args.template,
        seq_length=args.seq_length,
        over_length=args.over_length,
        max_unsupervised=args.max_unsupervised,
        pack=args.pack,
    )
    if written.packed:
        say(f"packed into {written.rows:,} rows, {written.fill:.1%} full")
    held = f"{written.rows:,} rows of {written.row_length} ids"
    say(f"{written.path}: {held}, {written.size:,} bytes, {written.seconds:.1f} s")


def _info(args: argparse.Namespace) -> None:
    from mindrecord.commands import info

    found = info(args.file)
    print(json.dumps(asdict(found), ensure_ascii=False, indent=2) if args.json else "\n".join(found.lines()))


def _read(args: argparse.Namespace) -> None:
    from mindrecord.commands import read

    for row in read(args.file, *row_range(args.rows), tokenizer=args.tokenizer, ids=args.ids):
        print(json.dumps(row, ensure_ascii=False))


def _show(args: argparse.Namespace) -> None:
    from mindrecord.commands import marked_text, show

    if args.rows < 0:
        raise UsageError(f"--rows is {args.rows}; it cannot be negative")
    shown = show(
        args.file,
        tokenizer=args.tokenizer,
        template=args.template,
        rows=args.rows,
        seq_length=args.seq_length,
        over_length=args.over_length,
    )
    rows, (name, digest) = shown.rows, shown.template
    # NO_COLOR: the convention of no-color.org
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    opening, closing = ("\x1b[32m", "\x1b[0m") if colour else ("⟦", "⟧")
    supervised = rows.supervised
    # of conversations, all rows are here, because the audit counts them
    for i in range(min(args.rows, len(rows))):
        print(f"── row {rows.ids[i]}: {rows.lengths[i]} ids, {supervised[i]} supervised")
        pieces = marked_text(rows, i, shown.tokenizer)
        print("".join(opening + text + closing if marked else text for text, marked in pieces))
        if args.ids:
            pairs = zip(*(column.tolist() for column in rows.row(i)), strict=True)
            print(" ".join(f"{opening}{token}{closing}" if label >= 0 else str(token) for token, label in pairs))
    print(f"── {args.file} · template {name} {digest[:12]} · tokenizer {shown.tokenizer.hash[:12]}")
    if shown.audit:
        print("\n".join(shown.audit.lines()))


def row_range(text: str | None) -> tuple[int, int | None]:
    """Read ``--rows`` of the command ``read``.

    Args:
        text: ``a:b``, where either may be left out, or one row's number; rows count from 0. None means all.

    Returns:
        The first row, and one after the last; None for the end of the file.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return 0, None
    match = re.fullmatch(r"(\d*):(\d*)|(\d+)", text)
    if match is None:
        raise UsageError(f"--rows {text}: a range a:b, counted from 0, or one row's number is expected")
    if match[3]:
        return int(match[3]), int(match[3]) + 1
    start, end = int(match[1] or 0), int(match[2]) if match[2] else None
    if end is not None and end < start:
        raise UsageError(f"--rows {text}: it ends before it begins")
    return start, end


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindrecord",
        description="Show the token rows made from conversations, write them as MindRecord, and read them back.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_show(commands)
    _add_write(commands)
    command = _command(
        commands,
        "info",
        "print what a MindRecord file holds and where its rows come from",
        "  python -m mindrecord info train.mindrecord\n  python -m mindrecord info train.mindrecord --json",
    )
    command.add_argument("file", metavar="FILE", help="a MindRecord file")
    command.add_argument("--json", action="store_true", help="print JSON (default: text)")
    command = _command(
        commands,
        "read",
        "print the rows of a MindRecord file as JSON lines: text and trained text, or integers",
        "  python -m mindrecord read train.mindrecord --rows 0:3\n"
        "  python -m mindrecord read train.mindrecord --rows 17 --tokenizer models/tiny\n"
        "  python -m mindrecord read train.mindrecord --ids > rows.jsonl",
    )
    command.add_argument("file", metavar="FILE", help="a MindRecord file")
    command.add_argument(
        "--rows",
        metavar="A:B",
        help="rows A up to, not including, B, counted from 0; or one row's number (default: all)",
    )
    command.add_argument(
        "--ids", action="store_true", help="print input_ids and labels as integers, without padding (default: text)"
    )
    command.add_argument(
        "--tokenizer", metavar="DIR", help="tokenizer of the rows (default: the one that FILE.json names)"
    )
    return parser


def _add_show(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands,
        "show",
        "print rows as the model sees them, with the supervised tokens marked, and the audit",
        "  python -m mindrecord show train.jsonl --tokenizer models/tiny --template vicuna\n"
        "  python -m mindrecord show train.json --tokenizer llama3/tokenizer.model --template llama3 --ids --rows 1\n"
        "  python -m mindrecord show train.jsonl --tokenizer DIR --template bare --seq-length 256 --rows 0\n"
        "  python -m mindrecord show train.mindrecord --tokenizer models/tiny",
        "Print rows as the model sees them, with the supervised tokens marked (green on a terminal, ⟦brackets⟧ "
        "otherwise), and the audit of the whole file.",
    )
    command.add_argument(
        "file", metavar="FILE", help="conversations (ShareGPT or Alpaca, JSONL or JSON array), or a MindRecord file"
    )
    command.add_argument("--tokenizer", metavar="DIR", required=True, help="directory or file of the tokenizer")
    command.add_argument(
        "--template",
        metavar="NAME",
        help="bare, alpaca, vicuna, llama3, chatml, …; tokenizer: its own chat template; for a MindRecord file it is "
        "only compared with the file's own",
    )
    command.add_argument(
        "--rows", metavar="N", type=int, default=3, help="number of rows to print (default: %(default)s)"
    )
    command.add_argument("--ids", action="store_true", help="print the token ids as well")
    command.add_argument(
        "--seq-length", metavar="N", type=int, help="longest model input, in tokens (default: no limit)"
    )
    _add_over_length(command)


def _add_write(commands: argparse._SubParsersAction) -> None:
    command = _command(
        commands,
        "write",
        "write conversations as a MindRecord file for mindformers",
        "  python -m mindrecord write train.jsonl -o train.mindrecord --tokenizer models/tiny --template bare\n"
        "  python -m mindrecord write a.jsonl b.jsonl -o train.mindrecord --tokenizer llama3/tokenizer.model "
        "--template vicuna --seq-length 256\n"
        "  python -m mindrecord write train.jsonl -o packed.mindrecord --tokenizer DIR --template llama3 --pack",
        "Write conversations as a MindRecord file for mindformers: input_ids and labels, int32, seq_length + 1 long, "
        "padded with the tokenizer's pad and -100. FILE.db (the index) and FILE.json (template, tokenizer, audit, "
        "hashes) are written beside it; keep the three together. MindSpore is not needed.",
    )
    command.add_argument(
        "conversations", metavar="CONV", nargs="+", help="conversations: ShareGPT or Alpaca, JSONL or JSON array"
    )
    command.add_argument("-o", "--out", metavar="FILE", required=True, help="file to write, named *.mindrecord")
    command.add_argument("--tokenizer", metavar="DIR", required=True, help="directory or file of the tokenizer")
    command.add_argument(
        "--template",
        metavar="NAME",
        required=True,
        help="bare, alpaca, vicuna, llama3, chatml, …, or tokenizer: its own chat template",
    )
    command.add_argument(
        "--seq-length", metavar="N", type=int, default=256, help="longest model input, in tokens (default: %(default)s)"
    )
    _add_over_length(command)
    command.add_argument(
        "--max-unsupervised",
        metavar="SHARE",
        type=float,
        default=0.01,
        help="largest share of rows, 0 to 1, that may have nothing to train on (default: %(default)s)",
    )
    command.add_argument(
        "--pack",
        action="store_true",
        help="put several conversations into one row (default: one each, padded); batch sizes then count packed rows",
    )


def _command(
    commands: argparse._SubParsersAction, name: str, purpose: str, examples: str, description: str | None = None
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=textwrap.fill(description or f"{purpose[0].upper()}{purpose[1:]}.", 100),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_over_length(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--over-length",
        choices=["drop", "truncate", "error"],
        default="drop",
        help="what to do with rows that are longer (default: %(default)s)",
    )


if __name__ == "__main__":
    run_main(main)
