"""Rows as the model sees them, in text: the supervised tokens marked."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from converters.common.errors import UsageError
from mindrecord.file.layout import is_mindrecord

if TYPE_CHECKING:
    from converters.tokenizers.base import Tokenizer
    from mindrecord.tokens.encode import TokenRows

_GREEN, _PLAIN = "\x1b[32m", "\x1b[0m"


def show(args: Namespace) -> int:
    """Print the first rows as the model sees them, supervised tokens marked, and the audit of the whole file."""
    if args.rows < 0:
        raise UsageError(f"--rows is {args.rows}; it cannot be negative")
    if is_mindrecord(Path(args.file)):
        return _show_mindrecord(args)
    if args.template is None:
        raise UsageError("--template is needed to write conversations; a MindRecord file knows its own")
    from converters.text.conversation import read_conversations
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from mindrecord.tokens.encode import encode

    template = get_template(args.template)
    tokenizer = load_tokenizer(args.tokenizer)
    conversations = read_conversations(args.file)
    rows, audit = encode(conversations, template, tokenizer, seq_length=args.seq_length, over_length=args.over_length)
    _print_rows(rows, min(args.rows, len(rows)), tokenizer, args.ids)
    print(f"── {args.file} · template {template.name} {template.hash[:12]} · tokenizer {tokenizer.hash[:12]}")
    print("\n".join(audit.lines()))
    return 0


def _show_mindrecord(args: Namespace) -> int:
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from mindrecord.file.reader import check, read_rows, row_length
    from mindrecord.tokens.audit import Audit

    path = Path(args.file)
    tokenizer = load_tokenizer(args.tokenizer)
    wanted = get_template(args.template).hash if args.template else None
    seq_length = args.seq_length or row_length(path) - 1
    sidecar = check(
        path, seq_length=seq_length, template_hash=wanted, tokenizer_hash=tokenizer.hash, packed_allowed=True
    )
    rows = read_rows(path, 0, args.rows)
    _print_rows(rows, len(rows), tokenizer, args.ids)
    template = sidecar.get("template") or {"name": "unknown", "hash": ""}
    print(f"── {args.file} · template {template['name']} {template['hash'][:12]} · tokenizer {tokenizer.hash[:12]}")
    if "audit" in sidecar:
        print("\n".join(Audit.from_dict(sidecar["audit"]).lines()))
    return 0


def _print_rows(rows: TokenRows, count: int, tokenizer: Tokenizer, ids: bool) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    opening, closing = (_GREEN, _PLAIN) if colour else ("⟦", "⟧")
    for i in range(count):
        supervised = int((rows.row(i)[1] >= 0).sum())
        print(f"── row {rows.ids[i]}: {rows.lengths[i]} ids, {supervised} supervised")
        print("".join(opening + text + closing if marked else text for text, marked in marked_text(rows, i, tokenizer)))
        if ids:
            print(marked_ids(rows, i, opening, closing))


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
