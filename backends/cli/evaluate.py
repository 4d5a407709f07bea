"""The command ``evaluate`` of every backend: how well a model predicts the answers of conversations it is shown.

Perplexity is exp of the mean −log p over supervised tokens, each token counting the same however its rows were batched.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    checkpoint_from,
    runtime_from,
)
from backends.generation import registry
from backends.generation.registry import BackendName
from converters.common.console import format_table, progress, say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from mindrecord.tokens.encode import TokenRows

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
        UsageError: the data is missing or empty, or no template is known.
        UserError: no row has a supervised token, or a loss is not a number.
    """
    import json

    from converters.common.files import write_json

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: at least 1 is needed")
    files = checkpoint_from(args)
    value = evaluate(files, args)
    figures = value["results"]["perplexity"]
    if args.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        row = [f"{figures[key]:,}" for key in ("rows", "tokens")] + [
            f"{figures[key]:.6f}" for key in ("nll", "perplexity")
        ]
        print(format_table(["rows", "supervised tokens", "nats a token", "perplexity"], [row], left=0))
    if args.out:
        write_json(Path(args.out), value)
        say(args.out)
    return 0


def evaluate(files: CheckpointFiles, args: argparse.Namespace) -> dict[str, Any]:
    """Return ``results`` (nll, perplexity, tokens, rows) and what they depend on."""
    from converters.common.files import sha256_file

    rows, dropped = _read(files, args)
    supervised = dict(enumerate(rows.supervised.tolist()))
    asked = {i: rows.row(i) for i, count in supervised.items() if count}
    if not asked:
        raise UserError(f"{args.data}: no row has a supervised token (the answers are empty, or there is no row left)")
    if without := len(rows) - len(asked):
        say(f"{args.data}: {without} of {len(rows)} rows have no supervised token and are not measured")
    conditions = registry.conditions(runtime_from(args))
    generator = registry.load_generator(files, runtime_from(args))
    losses: dict[int, float] = {}
    with progress(total=len(asked), desc="rows") as bar:
        for index, loss in generator.losses(asked):
            if not math.isfinite(loss):
                raise UserError(f"row {rows.ids[index]}: its loss is {loss}; try another --dtype")
            losses[index] = loss
            bar.update()
    tokens = sum(supervised.values())
    nll = math.fsum(losses.values()) / tokens
    figures = {"nll": nll, "perplexity": math.exp(nll), "tokens": tokens, "rows": len(asked), "dropped": dropped}
    hashes = {**files.identity, "data": sha256_file(args.data)[:16], "rows": rows.sha256[:16], **conditions}
    return {"results": {"perplexity": figures}, "hashes": hashes, "ckpt": str(args.ckpt), "file": str(args.data)}


def _read(files: CheckpointFiles, args: argparse.Namespace) -> tuple[TokenRows, int]:
    """Return the rows in the template of the run, and how many were too long."""
    from converters.text.conversation import read_conversations
    from mindrecord.tokens.encode import encode

    conversations = read_conversations(args.data)[: args.limit]
    for number, conversation in enumerate(conversations, start=1):
        if conversation.turns[-1].role != "assistant":
            raise UserError(
                f"{args.data}: row {number} ({conversation.id}) ends with a question; an answer is expected"
            )
    rows, audit = encode(conversations, files.template, files.tokenizer, seq_length=args.seq_length)
    for line in audit.lines():
        say(line)
    return rows, len(conversations) - len(rows)
