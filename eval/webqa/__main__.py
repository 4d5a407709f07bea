"""``python -m eval.webqa``: answers from a given text, and refusals where it has none."""

from __future__ import annotations

from converters.common.console import run_main
from eval.cli import build_parser, check_source, print_results, results_from
from eval.webqa.task import MAX_NEW_TOKENS, WebqaTask

EXAMPLES = """  python -m eval.webqa --ckpt RUN --data webqa_test.jsonl
  python -m eval.webqa --ckpt RUN --data webqa_test.jsonl --limit 200 --max-new-tokens 32
  python -m eval.webqa --predictions predictions.jsonl --out results
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = build_parser(
        "eval.webqa",
        "Grade a model on answering from a text or refusing: confusion of both, right answers among them.",
        EXAMPLES,
        data="conversations as converters.webqa writes them; the last answer is the label",
        out="for predictions, table and results (default: eval/webqa-… in the run; runs/eval/… for a model)",
        max_new_tokens=MAX_NEW_TOKENS,
    ).parse_args(argv)
    check_source(args, "conversations")
    return print_results(results_from(WebqaTask(), args))


if __name__ == "__main__":
    run_main(main)
