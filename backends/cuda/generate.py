"""The command ``python -m backends.cuda generate``: answers to a file of conversations, or to one prompt.

torch is imported when a model is loaded, not before: the options below are shared with ``chat`` and the evaluations.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import checkpoint
from backends.answer_log import AnswerLog, answer_missing
from backends.generation import BATCH_TOKENS, GREEDY, MAX_NEW_TOKENS, Answer, Limits, Sampling
from converters.cli import UsageError, say

if TYPE_CHECKING:
    from backends.checkpoint import CheckpointFiles
    from backends.cuda.decode import TorchGenerator
    from converters.conversation import Conversation

EPILOG = """examples:
  python -m backends.cuda generate --ckpt RUN --prompt "计算 1.50 + 2.25 等于多少？"
  python -m backends.cuda generate --ckpt RUN --data heldout.jsonl --out answers.jsonl
  python -m backends.cuda generate --ckpt models/tiny --template bare --prompt "1 + 1 =" --temperature 0.7 --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``generate``."""
    parser.epilog = EPILOG
    checkpoint.add_arguments(parser)
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
    add_device_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where and in which precision to run."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="type of the weights; auto: the checkpoint's on CUDA, float32 on the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=BATCH_TOKENS,
        metavar="N",
        help="rows of a batch times its longest prompt and answer: memory and speed, never the answers "
        "(default: %(default)s)",
    )


def add_limit_arguments(parser: argparse.ArgumentParser, max_new_tokens: int | None = None) -> None:
    """Add how long answers may and must be; without a number here :func:`limits_from` finds one."""
    default = f"the longest row the run was trained on, at least {MAX_NEW_TOKENS}; {MAX_NEW_TOKENS} for a model"
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help=f"an answer is cut after N tokens (default: {max_new_tokens or default})",
    )
    parser.add_argument(
        "--min-new-tokens",
        type=int,
        default=0,
        metavar="N",
        help="no answer ends before N tokens; 1 forbids empty answers (default: %(default)s)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the next token is chosen."""
    for name, kind, purpose in (
        ("temperature", float, "0 takes the likeliest token, more is freer"),
        ("top_p", float, "keep the likeliest tokens up to this probability"),
        ("top_k", int, "keep this many likeliest tokens; 0 keeps all"),
        ("repetition_penalty", float, "above 1: what was said already is less likely"),
        ("seed", int, "of the random numbers when temperature is above 0"),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(GREEDY, name),
            metavar="N" if kind is int else "X",
            help=f"{purpose} (default: %(default)s)",
        )


def sampling_from(args: argparse.Namespace) -> Sampling:
    """Return the options of :func:`add_sampling_arguments` as one value."""
    return Sampling(args.temperature, args.top_p, args.top_k, args.repetition_penalty, args.seed)


def limits_from(args: argparse.Namespace, files: CheckpointFiles) -> Limits:
    """Return the options of :func:`add_limit_arguments`; answers may be as long as what the run was trained on."""
    longest = args.max_new_tokens
    if longest is None:
        longest = max(MAX_NEW_TOKENS, files.longest_row or 0)
        say(f"answers may have {longest} tokens (--max-new-tokens)")
    return Limits(longest, args.min_new_tokens)


def open_from(args: argparse.Namespace) -> CheckpointFiles:
    """Return the files of ``--ckpt`` with the template that was asked for."""
    return checkpoint.open_checkpoint(
        args.ckpt, base=args.base, template=args.template, allow_mismatch=args.allow_template_mismatch
    )


def load_generator(files: CheckpointFiles, args: argparse.Namespace, sampling: Sampling = GREEDY) -> TorchGenerator:
    """Load the weights and return what answers prompts.

    In float32 an adapter is first added to its base: the same answers, without a second pass through every adapted
    layer. In a shorter type that sum would be rounded, so there the adapter stays beside it.
    """
    import torch

    from backends.cuda.decode import TorchGenerator
    from backends.cuda.model import choose_device, choose_dtype, load_model, read_config

    device = choose_device(args.device)
    config = read_config(files.base or files.path)
    stored = str(getattr(config, "dtype", None) or torch.bfloat16).removeprefix("torch.")
    dtype = choose_dtype(args.dtype, stored, device)
    below = f" on {files.base}" if files.base else ""
    say(f"loading {files.path}{below} ({str(dtype).removeprefix('torch.')}, {device})")
    model, _ = load_model(files.path, device, dtype, files.base)
    if dtype == torch.float32 and hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return TorchGenerator(model, files.tokenizer.pad_id, batch_tokens=args.batch_tokens, sampling=sampling)


def run(args: argparse.Namespace) -> int:
    """Answer the prompt or the file.

    Raises:
        UsageError: options that do not go together.
    """
    files = open_from(args)
    sampling = sampling_from(args)
    limits = limits_from(args, files)
    if args.prompt is not None:
        return _answer_one(files, args, sampling, limits)
    if args.out is None:
        raise UsageError("--data needs --out FILE for its answers")
    return _answer_file(files, args, sampling, limits)


def _answer_one(files: CheckpointFiles, args: argparse.Namespace, sampling: Sampling, limits: Limits) -> int:
    from converters.conversation import Turn
    from mindrecord.encode import encode_prompts

    prompts = encode_prompts([[Turn("user", args.prompt)]], files.template, files.tokenizer)
    generator = load_generator(files, args, sampling)
    for _, answer in generator.generate(dict(enumerate(prompts)), files.stop_ids, limits):
        print(files.tokenizer.decode(answer.ids).strip())
        if answer.finish_reason == "length":
            say(f"cut after {limits.max_new} tokens; --max-new-tokens N allows more")
    return 0


def _answer_file(files: CheckpointFiles, args: argparse.Namespace, sampling: Sampling, limits: Limits) -> int:
    from converters.conversation import read_conversations
    from converters.files import sha256_file
    from mindrecord.encode import encode_prompts

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
        "dtype": args.dtype,
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

    load = partial(load_generator, files, args, sampling)
    rows = answer_missing(log, dict(enumerate(prompts)), load, files.stop_ids, limits, to_row)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    say(f"{args.out}: {len(rows)} answers, {cut} cut after {limits.max_new} tokens")
    return 0


def _question(conversation: Conversation) -> tuple[Conversation, str | None]:
    """Part a conversation into what is asked and the answer it has, if any."""
    from converters.conversation import Conversation

    turns = conversation.turns
    if turns[-1].role == "assistant":
        return Conversation(conversation.id, turns[:-1]), turns[-1].text
    return conversation, None
