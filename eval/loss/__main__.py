"""``python -m eval.loss``: the loss of held-out text, before or after tuning."""

from __future__ import annotations

from converters.common.console import run_main
from eval.cli import build_parser, check_source, print_results, results_from
from eval.loss.task import MAX_TOKENS, LossTask

EXAMPLES = """  python -m eval.loss --ckpt RUN
  python -m eval.loss --ckpt RUN --data dev-v1.1.json --limit 200
  python -m eval.loss --ckpt MODEL --data book.txt --out before
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser(
        "eval.loss",
        "Measure the loss of held-out text in nats a token; eval.retention compares it before and after.",
        EXAMPLES,
        data="SQuAD v1.1's JSON, for its passages; a .txt of passages between empty lines; or JSON rows with 'text' "
        "(default: the shipped reading set)",
        predictions="compute the figures of these rows again",
        limit="only N passages, evenly spread over the file (default: all)",
        out="for predictions, table and results (default: eval/loss-… in the run; runs/eval/… for a model)",
        asks=False,
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help="a passage is measured up to N tokens (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    check_source(args)
    return print_results(results_from(LossTask(args.max_tokens), args))


if __name__ == "__main__":
    run_main(main)
