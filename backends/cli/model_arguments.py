"""Options of the commands that ask a model something, the same for every backend, and what they open."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from backends.checkpoint.resolve import open_checkpoint
from backends.generation.registry import BACKENDS, BackendName, backend_named
from backends.generation.types import BATCH_TOKENS, GREEDY, MAX_NEW_TOKENS, Runtime, Sampling
from backends.weights.dtypes import FLOATS

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, required: bool = True, template: bool = True) -> None:
    """Add the options that name a checkpoint and its base, and with ``template`` those of the form to ask in."""
    parser.add_argument(
        "--ckpt",
        metavar="PATH",
        required=required,
        help="run, checkpoint of a run, PEFT adapter or Hugging Face model directory, a .gguf file, or a .ckpt or "
        ".safetensors file of mindformers",
    )
    add_base_argument(parser)
    if template:
        add_template_arguments(parser)


def add_base_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--base``."""
    parser.add_argument(
        "--base", metavar="DIR", help="the frozen model under an adapter (default: where the adapter says)"
    )


def add_template_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the template to ask in, and leave to ask in another than that of the training."""
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="prompt template to ask in; tokenizer: the model's own chat template (default: the one the run was "
        "trained with, else the model's own)",
    )
    parser.add_argument(
        "--allow-template-mismatch",
        action="store_true",
        help="ask in --template although the run was trained in another (default: refuse)",
    )


def add_device_arguments(parser: argparse.ArgumentParser, backend: BackendName | None = None) -> None:
    """Add where and in which precision to run.

    Args:
        parser: gets the options.
        backend: the one whose command this is; None lets ``--backend`` choose.
    """
    if backend is None:
        parser.add_argument(
            "--backend",
            choices=["auto", *BACKENDS],
            default="auto",
            help="what runs the model; auto: the one whose card is here, else the one installed (default: %(default)s)",
        )
        # each device once, in the order of the backends
        devices = list(dict.fromkeys(device for name in BACKENDS for device in backend_named(name).devices))
    else:
        # runtime_from reads args.backend in both cases
        parser.set_defaults(backend=backend)
        devices = list(backend_named(backend).devices)
    parser.add_argument("--device", choices=devices, default="auto", help="auto: a card, else the CPU (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=["auto", *FLOATS],
        default="auto",
        help="type of the weights; auto: the checkpoint's on a card, float32 on the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=BATCH_TOKENS,
        metavar="N",
        help="size of a batch: its rows times its longest prompt and answer in tokens; changes memory and speed, not "
        "the answers (default: %(default)s)",
    )


def add_limit_arguments(parser: argparse.ArgumentParser, max_new_tokens: int | None = None) -> None:
    """Add how long answers may and must be; without a number here ``answer_limits`` finds one."""
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
        ("temperature", float, "0 always takes the likeliest token; higher values vary more"),
        ("top_p", float, "choose among the likeliest tokens that together have this probability"),
        ("top_k", int, "choose among this many of the likeliest tokens; 0 means all"),
        ("repetition_penalty", float, "above 1 makes tokens that already occur in prompt or answer less likely"),
        ("seed", int, "seed of the random numbers, used when temperature is above 0"),
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


def runtime_from(args: argparse.Namespace) -> Runtime:
    """Return the options of :func:`add_device_arguments` as one value."""
    return Runtime(args.backend, args.device, args.dtype, args.batch_tokens)


def checkpoint_from(args: argparse.Namespace) -> CheckpointFiles:
    """Return the files of ``--ckpt`` with the template that was asked for."""
    return open_checkpoint(
        args.ckpt, base=args.base, template=args.template, allow_mismatch=args.allow_template_mismatch
    )
