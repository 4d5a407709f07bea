"""Exchange weights between Hugging Face, PEFT, mindformers, Meta and GGUF: ``python -m backends.exchange``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from backends.weights.dtypes import FLOATS
from converters.common.console import run_main, say
from converters.common.errors import UsageError
from converters.common.shipped import locate_model

EPILOG = """examples:
  python -m backends.exchange to-mindformers llama3-8b/ -o llama3_8b.ckpt
  python -m backends.exchange to-mindformers RUN -o lora.safetensors
  python -m backends.exchange to-hf llama3_8b.ckpt -o llama3-8b-again
  python -m backends.exchange to-hf rank_0/llama3_lora-5_200.ckpt --config yaml/llama3_lora.yaml -o adapter
  python -m backends.exchange to-hf Meta-Llama-3-8B/original -o llama3-8b
  python -m backends.exchange from-gguf model.Q4_K_M.gguf -o model
  python -m backends.exchange to-gguf-lora RUN -o lora.gguf
  python -m backends.exchange inspect RUN
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = _parser().parse_args(argv)
    if args.command == "inspect":
        from backends.exchange.weights_report import inspect

        report = inspect(args.path)
        print(json.dumps(report.as_json(), indent=2, ensure_ascii=False) if args.json else report.as_text())
        return 0
    if args.command == "to-gguf-lora":
        from backends.exchange.to_gguf import write_gguf_lora

        say(write_gguf_lora(locate_model(args.path), args.out, base=args.base).as_text())
        return 0
    from backends.exchange.convert import to_hf, to_mindformers

    dtype = None if args.dtype == "keep" else args.dtype
    options = {"config": args.config, "tokenizer": args.tokenizer, "dtype": dtype, "base": args.base}
    if args.command == "to-mindformers":
        done = to_mindformers(args.path, args.out, **options)
    else:
        if args.command == "from-gguf" and args.path.suffix != ".gguf":
            raise UsageError(f"{args.path}: name a .gguf file; to-hf takes all else")
        size = _bytes(args.max_shard_size)
        more = {"lora_alpha": args.lora_alpha, "weights": args.weights, "check": not args.no_check}
        done = to_hf(args.path, args.out, **options, **more, max_shard_bytes=size)
    say(done.as_text())
    return 0


def _bytes(text: str) -> int:
    """Read a size such as ``5GB`` or ``500MB``.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    # the place in the text is the power of 1000; a size without a letter is in bytes
    size = float(found[1]) * 1000 ** " KMG".index(found[2].upper() or " ") if found else 0
    if size < 1:
        raise UsageError(f"--max-shard-size {text!r}: expected a size such as 5GB or 500MB")
    return int(size)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backends.exchange",
        description="Exchange weights between Hugging Face, PEFT, mindformers, Meta's layout and GGUF, with one tensor "
        "in memory; bit for bit but for what is quantised. The kind of input is recognised from its content.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    there = _command(
        commands, "to-mindformers", "Write a mindformers file from a model or an adapter of any other kind."
    )
    there.add_argument(
        "path", type=Path, metavar="PATH", help="model, PEFT adapter or run directory, a llama2.c or a GGUF file"
    )
    there.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="a .ckpt or .safetensors file")
    back = _command(commands, "to-hf", "Write a model or PEFT adapter directory from mindformers, Meta or llama2.c.")
    back.add_argument("path", type=Path, metavar="PATH", help=".ckpt or .safetensors, or Meta's directory")
    back.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="directory to create")
    gguf = _command(commands, "from-gguf", "Write a model directory from a GGUF file, and check what it predicts.")
    gguf.add_argument("path", type=Path, metavar="FILE", help="a .gguf; of a split model its first part")
    gguf.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="directory to create")
    # what a GGUF file has no use for
    gguf.set_defaults(config=None, base=None, weights=False, lora_alpha=None)
    gguf.add_argument(
        "--no-check",
        action="store_true",
        help="do not measure perplexity and token ids of what was written (default: measure, and refuse nonsense)",
    )
    back.set_defaults(no_check=False)
    for command in (back, gguf):
        command.add_argument(
            "--max-shard-size",
            default="5GB",
            metavar="SIZE",
            help="largest size of one safetensors file, such as 5GB or 500MB (default: %(default)s)",
        )
    back.add_argument(
        "--weights",
        action="store_true",
        help="convert the frozen weights of a file that also holds a LoRA (default: convert the LoRA)",
    )
    back.add_argument(
        "--lora-alpha",
        type=float,
        metavar="X",
        help="lora_alpha of a LoRA file that no recipe and no metadata describes (default: as recorded)",
    )
    for command in (there, back, gguf):
        command.add_argument(
            "--tokenizer",
            type=Path,
            metavar="PATH",
            help="directory with tokenizer files, or a llama2.c vocabulary, to write beside the model "
            "(default: the model's own)",
        )
        command.add_argument(
            "--dtype",
            choices=["keep", *FLOATS],
            default="keep",
            help="round the weights to this type; keep: leave them as they are, quantised ones in float32 "
            "(default: %(default)s)",
        )
    for command in (there, back):
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="config.json or mindformers YAML, for weights that have none beside them (default: as recorded)",
        )
        command.add_argument(
            "--base", metavar="DIR", help="model directory that an adapter was trained on (default: as recorded)"
        )
    lora = _command(commands, "to-gguf-lora", "Write a PEFT adapter as the GGUF file that llama.cpp takes as --lora.")
    lora.add_argument("path", type=Path, metavar="PATH", help="adapter or run directory")
    lora.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="a .gguf file")
    lora.add_argument(
        "--base", metavar="PATH", help="model directory or GGUF file that it was trained on (default: as recorded)"
    )
    look = _command(
        commands, "inspect", "List the tensors of a model or an adapter, their totals, and the scaling of a LoRA."
    )
    look.add_argument("path", type=Path, metavar="PATH", help="directory, .safetensors, .ckpt or .gguf")
    look.add_argument("--json", action="store_true", help="print JSON to stdout (default: a table)")
    return parser


def _command(commands: argparse._SubParsersAction, name: str, purpose: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    run_main(main)
