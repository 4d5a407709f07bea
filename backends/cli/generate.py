"""The command ``generate`` of every backend: answers to a file of conversations, or to one prompt."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.cli.model_arguments import (
    add_checkpoint_arguments,
    add_device_arguments,
    add_limit_arguments,
    add_sampling_arguments,
    checkpoint_from,
    runtime_from,
    sampling_from,
)
from backends.generation.predictions_log import AnswerLog, answer_missing
from backends.generation.registry import BackendName, conditions, load_generator
from backends.generation.types import Answer, Limits, Sampling, answer_limits
from converters.common.console import say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from converters.text.conversation import Conversation

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
        "--out", metavar="FILE", help="with --data: JSONL of the answers; the same command again goes on after a kill"
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
    sampling = sampling_from(args)
    limits = answer_limits(files, args.max_new_tokens, args.min_new_tokens)
    if args.prompt is not None:
        return _answer_one(files, args, sampling, limits)
    if args.out is None:
        raise UsageError("--data needs --out FILE for its answers")
    return _answer_file(files, args, sampling, limits)


def _answer_one(files: CheckpointFiles, args: argparse.Namespace, sampling: Sampling, limits: Limits) -> int:
    from converters.text.conversation import Turn
    from mindrecord.tokens.encode import encode_prompts

    prompts = encode_prompts([[Turn("user", args.prompt)]], files.template, files.tokenizer)
    generator = load_generator(files, runtime_from(args), sampling)
    for _, answer in generator.generate(dict(enumerate(prompts)), files.stop_ids, limits):
        print(files.tokenizer.decode(answer.ids).strip())
        if answer.finish_reason == "length":
            say(f"cut after {limits.max_new} tokens; --max-new-tokens N allows more")
    return 0


def _answer_file(files: CheckpointFiles, args: argparse.Namespace, sampling: Sampling, limits: Limits) -> int:
    from converters.common.files import sha256_file
    from converters.text.conversation import read_conversations
    from mindrecord.tokens.encode import encode_prompts

    conversations = read_conversations(args.data)[: args.limit]
    asked = [_question(conversation) for conversation in conversations]
    prompts = encode_prompts([conversation.turns for conversation, _ in asked], files.template, files.tokenizer)
    identity = {
        **files.identity,
        "data": sha256_file(args.data)[:16],
        "rows": len(prompts),
        "max_new_tokens": limits.max_new,
        "min_new_tokens": limits.min_new,
        "sampling": asdict(sampling),
        **conditions(runtime_from(args)),
    }
    log = AnswerLog(Path(args.out), identity, {"ckpt": args.ckpt, "data": args.data}, overwrite=args.overwrite)

    def to_row(index: int, answer: Answer) -> dict[str, Any]:
        conversation, label = asked[index]
        return {
            "idx": index,
            "id": conversation.id,
            "prompt": files.tokenizer.decode(prompts[index], skip_special=False),
            "predict": files.tokenizer.decode(answer.ids).strip(),
            "label": label,
            "finish_reason": answer.finish_reason,
            "n_tokens": len(answer.ids),
        }

    load = partial(load_generator, files, runtime_from(args), sampling)
    rows = answer_missing(log, dict(enumerate(prompts)), load, files.stop_ids, limits, to_row)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    say(f"{args.out}: {len(rows)} answers, {cut} cut after {limits.max_new} tokens")
    return 0


def _question(conversation: Conversation) -> tuple[Conversation, str | None]:
    """Part a conversation into what is asked and the answer it has, if any."""
    from converters.text.conversation import Conversation

    turns = conversation.turns
    if turns[-1].role == "assistant":
        return Conversation(conversation.id, turns[:-1]), turns[-1].text
    return conversation, None
