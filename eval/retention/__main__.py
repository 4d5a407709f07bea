"""``python -m eval.retention``: compare results before and after tuning."""

from __future__ import annotations

import argparse

from converters.common.console import run_main, say
from converters.common.errors import GateNotPassed
from eval.cli import add_loss_gate_argument
from eval.retention import THRESHOLD, retention

EPILOG = """examples:
  python -m eval.retention --before runs/eval/tiny/squad-reading --after RUN/eval/squad-reading
  python -m eval.retention --before before/results.json --after after/results.json --threshold 0.95 --out RUN/eval
  python -m eval.retention --before reading-before loss-before --after reading-after loss-after --loss-gate 0.05
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Raises:
        GateNotPassed: a measure kept less than the threshold, or a loss rose past its gate.
    """
    parser = argparse.ArgumentParser(
        prog="python -m eval.retention",
        description="Compare results before and after tuning; exit 3 when too much was lost.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for when, model in (("before", "base"), ("after", "tuned")):
        parser.add_argument(
            f"--{when}",
            nargs="+",
            required=True,
            metavar="RESULTS",
            help=f"results.json of the {model} model, or its directory; several are paired by their tasks",
        )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="SHARE",
        help="least share of every measure that must be left (float, default: %(default)s)",
    )
    add_loss_gate_argument(parser)
    parser.add_argument("--out", metavar="DIR", help="write retention.json and retention.md there (default: nowhere)")
    args = parser.parse_args(argv)
    found = retention(args.before, args.after, args.threshold, loss_gate=args.loss_gate, out=args.out)
    for line in found.doubts:
        say(line)
    print(found.text)
    if not found.passed:
        raise GateNotPassed(found.lines[-1])
    return 0


if __name__ == "__main__":
    run_main(main)
