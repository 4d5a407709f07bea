"""One page about a run: what it learned, what it kept, how it was trained, and which answers are wrong.

The page is a single HTML file without scripts that needs no network: it can be mailed, and opens on a phone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.common.console import say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.run.directory import Run
    from eval.report.data import Evaluation

WRONG = 20
THRESHOLD = 0.9  # share of a measure that must be kept
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
    parser.add_argument(
        "--wrong", type=int, default=WRONG, metavar="N", help="wrong answers to show (default: %(default)s)"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="the page (default: RUN/report.html)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Raises:
        UsageError: there is no run, or no results where some were named.
        UserError: a file that was named is not one of an evaluation.
    """
    from backends.run.directory import Run
    from converters.common.files import write_text
    from eval.report.data import compare, find_evaluations
    from eval.report.sections import build

    args = _parser().parse_args(argv)
    if args.wrong < 0 or not args.threshold > 0:
        raise UsageError(f"--wrong {args.wrong}, --threshold {args.threshold:g}: not below 0, and more than 0")
    run = Run.open(args.run)
    after = find_evaluations(args.after) if args.after else _own_evaluations(run)
    before = find_evaluations(args.before) if args.before else _evaluations_of_base(run, after)
    compared = compare(after, before)
    unused = len(before) - len({id(one.before) for one in compared if one.before})
    if args.before and unused:
        say(f"{unused} of {len(before)} results before training have no counterpart of the same rows after it")
    out = Path(args.out) if args.out else run.path / "report.html"
    write_text(out, build(run, compared, threshold=args.threshold, wrong=args.wrong))
    say(f"{out}: {len(after)} evaluations, {sum(one.before is not None for one in compared)} with a before")
    return 0


def _own_evaluations(run: Run) -> list[Evaluation]:
    """Find evaluations of the run's final weights in the run; those of its checkpoints are another matter."""
    from backends.checkpoint.fingerprint import fingerprint, weight_files
    from backends.weights.files import ADAPTER_WEIGHTS
    from eval.report.data import find_readable

    found = find_readable(run.path / "eval")
    if not found:
        return []
    files = [run.path / ADAPTER_WEIGHTS] if run.is_adapter else weight_files(run.path)
    if not all(file.is_file() for file in files):
        return []
    final = fingerprint(files)
    own = [one for one in found if one.hashes.get("checkpoint") == final]
    if len(own) < len(found):
        say(f"{len(found) - len(own)} of {len(found)} results under {run.path}/eval are of other weights; left out")
    return own


def _evaluations_of_base(run: Run, after: Sequence[Evaluation]) -> list[Evaluation]:
    """Find evaluations of the base where they go by default (it may be a run itself), and in a sweep of this run."""
    from eval.report.data import find_readable

    bases = {one.hashes.get("base") for one in after} - {None}
    if run.base is None or not bases:
        return []
    base = Path(run.base)
    places = [Path("runs") / "eval" / base.resolve().name, base / "eval", run.path / "eval" / "sweep" / "step-000000"]
    found = [one for place in places for one in find_readable(place)]
    return [one for one in found if one.hashes.get("checkpoint") in bases]
