"""``python -m eval.squad``: reading comprehension under a named protocol, and a gate."""

from __future__ import annotations

from converters.common.console import run_main
from eval.cli import build_parser, check_source, print_results, results_from
from eval.squad.gate import MAX_NEW_TOKENS
from eval.squad.prompts import CONTEST, PROMPTS
from eval.squad.rules import PROTOCOLS
from eval.squad.task import BOTH, SquadTask

EXAMPLES = """  python -m eval.squad --ckpt RUN
  python -m eval.squad --ckpt RUN --data dev-v1.1.json --template squad
  python -m eval.squad --ckpt RUN --data dev-v1.1.json --protocol both --limit 500 --out after
  python -m eval.squad --ckpt MODEL --data dev-v1.1.json --protocol both --prompt short
  python -m eval.squad --predictions answers.json --data dev-v1.1.json --protocol official
  python -m eval.squad --predictions contest-log.jsonl --gate 53.88321397598089 39.75326560232221
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser(
        "eval.squad",
        "Measure reading comprehension: F1 and exact match under a named protocol, and a gate.",
        EXAMPLES,
        data="SQuAD v1.1's JSON (.gz too; default: the shipped reading set)",
        predictions="score these instead of asking a model: {id: text}, this command's predictions.jsonl, or rows of "
        "pred and label",
        out="for predictions.jsonl, answers.json, results.json and table.md (default: eval/squad-… in the run; "
        "runs/eval/… for a model)",
        max_new_tokens=MAX_NEW_TOKENS,
    )
    parser.add_argument(
        "--protocol",
        choices=[*PROTOCOLS, BOTH],
        default="mindformers",
        help="mindformers: the contest's; official: SQuAD v1.1's own (default: %(default)s)",
    )
    parser.add_argument(
        "--first-only",
        action="store_true",
        help="the official protocol, too, counts the first question of each passage only: a fifth of the questions",
    )
    parser.add_argument(
        "--prompt",
        choices=list(PROMPTS),
        default=CONTEST,
        help="; ".join(f"{one.name}: {one.description}" for one in PROMPTS.values()) + " (default: %(default)s)",
    )
    parser.add_argument(
        "--gate",
        nargs=2,
        type=float,
        metavar=("F1", "EM"),
        help="least figures in percent, exit 3 below (default: the contest's for Llama-3-8B in --template squad)",
    )
    args = parser.parse_args(argv)
    check_source(args)
    return print_results(results_from(SquadTask(args.protocol, args.gate, args.prompt, args.first_only), args))


if __name__ == "__main__":
    run_main(main)
