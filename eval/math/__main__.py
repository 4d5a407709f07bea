"""``python -m eval.math``: accuracy on arithmetic problems, by kind and under every rule."""

from __future__ import annotations

from converters.common.console import run_main
from converters.common.errors import UsageError
from eval.cli import build_parser, check_source, print_results, results_from
from eval.math.compare import compare
from eval.math.rules import RULES
from eval.math.task import MathTask

EXAMPLES = """  python -m eval.math --ckpt RUN --data heldout.jsonl
  python -m eval.math --ckpt models/tiny --template vicuna --data heldout.jsonl --limit 200 --out before
  python -m eval.math --predictions before/predictions.jsonl
  python -m eval.math --compare before after
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser(
        "eval.math",
        "Grade a model on arithmetic problems: accuracy by kind, under every rule.",
        EXAMPLES,
        data='problems, one {"problem", "solution"} a line (.gz too)',
        out="for predictions.jsonl and results.json (default: eval/math-DATA in the run; runs/eval/… for a model)",
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="two results: files or their directories"
    )
    parser.add_argument(
        "--rule",
        choices=list(RULES),
        default="close",
        help="rule of the contest's score and of --compare (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    # before check_source(): --compare reads two results and needs neither model nor predictions
    if sum(value is not None for value in (args.ckpt, args.predictions, args.compare)) != 1:
        raise UsageError("one of --ckpt, --predictions and --compare is needed")
    if args.compare:
        before, after = args.compare
        print(compare(before, after, args.rule).text)
        return 0
    check_source(args, "problems (converters.arithmetic convert --holdout-out writes one)")
    return print_results(results_from(MathTask(args.rule), args))


if __name__ == "__main__":
    run_main(main)
