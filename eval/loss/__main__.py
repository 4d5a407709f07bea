"""``python -m eval.loss``: the loss of held-out text, before or after tuning."""

from __future__ import annotations

import argparse

from backends.cli.model_arguments import add_device_arguments, runtime_from
from converters.common.console import run_main
from eval.cli import OVERWRITE, check_source, print_results
from eval.loss.task import MAX_TOKENS, LossTask
from eval.run import evaluate, grade_predictions

EPILOG = """examples:
  python -m eval.loss --ckpt RUN
  python -m eval.loss --ckpt RUN --data dev-v1.1.json --limit 200
  python -m eval.loss --ckpt MODEL --data book.txt --out before
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.loss",
        description="Measure the loss of held-out text in nats a token; eval.retention compares it before and after.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", metavar="PATH", help="run, checkpoint of a run, adapter or model directory")
    parser.add_argument(
        "--base", metavar="DIR", help="the frozen model under an adapter (default: where the adapter says)"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="SQuAD v1.1's JSON, for its passages; a .txt of passages between empty lines; or JSON rows with 'text' "
        "(default: the shipped reading set)",
    )
    parser.add_argument("--predictions", metavar="FILE", help="compute the figures of these rows again")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N passages, evenly spread over the file (default: all)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help="a passage is measured up to N tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="for predictions, table and results (default: eval/loss-… in the run; runs/eval/… for a model)",
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    add_device_arguments(parser)
    args = parser.parse_args(argv)
    check_source(args)
    task = LossTask(args.max_tokens)
    if args.predictions:
        return print_results(grade_predictions(task, args.predictions, args.data, limit=args.limit, out=args.out))
    return print_results(
        evaluate(
            task,
            args.ckpt,
            args.data,
            limit=args.limit,
            out=args.out,
            overwrite=args.overwrite,
            base=args.base,
            runtime=runtime_from(args),
        )
    )


if __name__ == "__main__":
    run_main(main)
