"""The command ``python -m eval.report``: options → :func:`eval.report.build.build_report` → a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from converters.common.console import say
from converters.common.files import write_text
from eval.cli import add_loss_gate_argument
from eval.report.build import THRESHOLD, WRONG, build_report

EPILOG = """examples:
  python -m eval.report RUN
  python -m eval.report RUN --before runs/eval/tiny --threshold 0.95
  python -m eval.report demo/run --before demo/before --after demo/after -o page.html
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description="Write one self-contained HTML page about a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    for when, where in (("after", "RUN/eval"), ("before", "where evaluations of the base go by default")):
        parser.add_argument(
            f"--{when}",
            nargs="+",
            metavar="RESULTS",
            help=f"results.json {when} training, or directories that hold some (default: {where})",
        )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="SHARE",
        help="least share of every reading measure that must be kept (float, default: %(default)s)",
    )
    add_loss_gate_argument(parser)
    parser.add_argument(
        "--wrong", type=int, default=WRONG, metavar="N", help="wrong answers to show (default: %(default)s)"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="the page (default: RUN/report.html)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    report = build_report(
        args.run,
        before=args.before,
        after=args.after,
        threshold=args.threshold,
        loss_gate=args.loss_gate,
        wrong=args.wrong,
    )
    out = Path(args.out) if args.out else Path(args.run) / "report.html"
    write_text(out, report.html)
    for note in report.notes:
        say(note)
    compared = sum(one.before is not None for one in report.evaluations)
    say(f"{out}: {report.found} evaluations, {compared} with a before")
    if report.missing:
        say(f"not on the page: {', '.join(report.missing)}")
    return 0
