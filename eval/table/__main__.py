"""``python -m eval.table``: grade several checkpoints on several data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from backends.cli.model_arguments import (
    add_base_argument,
    add_device_arguments,
    add_limit_arguments,
    add_template_arguments,
)
from converters.common.console import run_main
from converters.common.errors import UsageError
from eval.choice.task import MAX_NEW_TOKENS
from eval.cli import OVERWRITE, add_score_argument, add_way_argument, asking_from
from eval.table import OUT, tabulate

EPILOG = """examples:
  python -m eval.table --rows runs/rte,runs/mnli --data rte_dev.jsonl,mnli_dev.jsonl
  python -m eval.table --rows base=MODEL,rte=runs/rte,half=runs/merged --data rte=a.jsonl,mnli=b.jsonl --way loglik
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.table",
        description="Grade several checkpoints on several data sets: one table of accuracies with their means.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows",
        required=True,
        metavar="[NAME=]DIR,…",
        help="runs, adapters or models, one row each (default names: DIR's)",
    )
    parser.add_argument(
        "--data", required=True, metavar="[NAME=]FILE,…", help="conversations with a label, one column each"
    )
    parser.add_argument(
        "--choices", metavar="A,B,…", help="the possible answers of all data sets (default: each one's labels)"
    )
    add_base_argument(parser)
    add_template_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows of each data set only (default: all)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=OUT,
        help="for table.md, table.json and the cells (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    add_way_argument(parser)
    add_score_argument(parser)
    add_limit_arguments(parser, MAX_NEW_TOKENS)
    add_device_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    found = tabulate(
        named(args.rows, "--rows"),
        named(args.data, "--data"),
        choices=args.choices,
        way=args.way,
        score_002=args.score_002,
        **asking_from(args),
    )
    print(found.text)
    return 0


def named(text: str, option: str) -> dict[str, str]:
    """Parse a comma-separated list of ``NAME=PATH`` or ``PATH``.

    Args:
        text: the list.
        option: name of the option, for messages.

    Returns:
        Paths by name; a path without a name gets its last part, without endings.

    Raises:
        UsageError: the list is empty, or a name comes twice.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, path = part.partition("=")
        if not equals:
            # resolved, so that "." and "runs/a/.." have a name, too
            name, path = Path(part).resolve().name.split(".")[0], part
        # the name becomes a folder of the output: it must stay inside it and not be hidden
        if not name or not path or "/" in name or name.startswith("."):
            raise UsageError(f"{option} {part!r}: NAME=PATH is expected, the name without a slash")
        if name in found:
            raise UsageError(f"{option}: two are called {name}; name them, as in first={path}")
        found[name] = path
    if not found:
        raise UsageError(f"{option} is empty; at least one path is expected")
    return found


if __name__ == "__main__":
    run_main(main)
