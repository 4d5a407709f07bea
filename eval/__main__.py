"""``python -m eval TASK``: run any task by its name or file, with the options that all tasks share."""

from __future__ import annotations

from converters.common.console import run_main
from eval.cli import build_parser, check_source, print_results, results_from
from eval.task import get_task

EXAMPLES = """  python -m eval my_task.py --ckpt RUN --data questions.jsonl
  python -m eval my_task.py --predictions predictions.jsonl
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser(
        "eval",
        "Grade a model on a task of your own: a file with a class that says what is asked and what is right.",
        EXAMPLES,
        data="what the task asks",
        out="for predictions, table and results (default: eval/TASK-… in the run; runs/eval/… for a model)",
    )
    parser.add_argument("task", metavar="TASK", help="FILE.py, or the name of a task of this project")
    args = parser.parse_args(argv)
    task = get_task(args.task)
    check_source(args, "questions" if task.default_data is None else None)
    return print_results(results_from(task, args))


if __name__ == "__main__":
    run_main(main)
