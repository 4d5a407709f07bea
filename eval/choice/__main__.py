"""``python -m eval.choice``: tasks with few possible answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.common.console import run_main, say
from converters.common.errors import UsageError
from eval.choice.rules import UNPARSED
from eval.choice.task import MAX_NEW_TOKENS, ChoiceTask, write_labels
from eval.cli import add_score_argument, add_way_argument, build_parser, check_source, print_results, results_from

EXAMPLES = """  python -m eval.choice --ckpt RUN --data rte_dev.jsonl --choices yes,no
  python -m eval.choice --ckpt RUN --data mnli_dev.jsonl --choices yes,no,maybe --way loglik
  python -m eval.choice --ckpt RUN --data QQP_dev.json --choices 0,1 --limit 150 --out result_QQP.txt
  python -m eval.choice --predictions result_QQP.txt --answers QQP_answers.txt --choices 0,1 --score-002
"""


def _parser() -> argparse.ArgumentParser:
    parser = build_parser(
        "eval.choice",
        "Grade a model on questions with few possible answers: accuracy, F1, Matthews correlation.",
        EXAMPLES,
        data="conversations (ShareGPT or Alpaca); the last answer is the label, if there is one",
        predictions="grade these again instead of asking a model (.txt: one a line)",
        out="directory for predictions, table and results (default: eval/choice-… in the run; runs/eval/… for a "
        "model); a name ending in .txt gets the answers, one a line",
        max_new_tokens=MAX_NEW_TOKENS,
    )
    parser.add_argument("--answers", metavar="FILE", help="with --predictions: the labels, one a line")
    parser.add_argument("--choices", metavar="A,B,…", help="the possible answers (default: the labels of the data)")
    parser.add_argument(
        "--positive", metavar="CHOICE", help="report the F1 of this class (default: 1, yes or true if it is a choice)"
    )
    add_score_argument(parser)
    add_way_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    check_source(args, "conversations")
    if args.ckpt and args.answers:
        raise UsageError("--answers goes with --predictions: grade the file that this writes")
    # the contest's own file of answers has such a name; rows and results then go to the default directory
    labels = Path(args.out) if args.out and args.out.endswith(".txt") else None
    if labels is not None:
        if args.predictions:
            raise UsageError(
                "--out FILE.txt goes with --ckpt; with --predictions name a directory for table and results"
            )
        args.out = None
    task = ChoiceTask(args.choices, args.positive, args.way, args.answers, args.score_002)
    results = results_from(task, args)
    code = print_results(results)
    if labels is not None:
        write_labels(labels, results.rows)
        lost = sum(row["parsed"] is None for row in results.rows)
        say(f"{labels}: {len(results.rows)} labels, {lost} of them {UNPARSED!r}")
    return code


if __name__ == "__main__":
    run_main(main)
