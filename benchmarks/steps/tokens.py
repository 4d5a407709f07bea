"""Tokens of training rows by style, precision and kind: ``python benchmarks/steps/tokens.py``.

Rows are drawn like the contest's, as many of each kind; a row is prompt, answer, BOS and EOS (template ``bare``). The
line ``contest mix`` weighs the kinds as the contest's different problems do.

    python benchmarks/steps/tokens.py --tokenizer models/tiny --out benchmarks/results/step_tokens.json
    python benchmarks/steps/tokens.py --tokenizer /models/Meta-Llama-3-8B --limit 512
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from converters.arithmetic.problems import Problem, parse, problem_text, solution_text
from converters.arithmetic.steps import CELLS, SPACED, choose_style, get_style, precision_names, style_names
from converters.arithmetic.synthesis import DRAWS
from converters.common.console import format_table, run_main, say
from converters.common.errors import UsageError
from converters.common.files import write_json
from converters.tokenizers.segments import TokenLimit

MIX = {
    "direct computation": 0.666755,
    "eq solve": 0.074367,
    "sqrt computation": 0.072784,
    "power computation": 0.072747,
    "function computation": 0.037161,
    "mean computation": 0.036569,
    "area computation": 0.016078,
    "discount percentage": 0.011643,
    "sales revenue": 0.011626,
    "mass computation": 0.000186,
    "fraction simplify": 0.000083,
}
"""Share of each kind in the contest's 538,949 different Chinese problems."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        action="append",
        metavar="DIR",
        help="directory of a tokenizer; more than once for several (default: models/tiny)",
    )
    parser.add_argument("--rows", type=int, default=400, metavar="INT", help="rows of each kind")
    parser.add_argument("--limit", type=int, default=256, metavar="INT", help="count rows of at most so many tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of the rows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there as JSON")
    args = parser.parse_args(argv)
    if args.rows < 1 or args.limit < 1:
        raise UsageError("--rows and --limit must be at least 1")
    cases = draw(args.rows, args.seed)
    report: dict[str, Any] = {"rows_of_each_kind": args.rows, "seed": args.seed, "limit": args.limit, "tokenizers": {}}
    for tokenizer in args.tokenizer or [ROOT / "models/tiny"]:
        limit = TokenLimit(args.limit, tokenizer, "bare")
        report["tokenizers"][tokenizer.resolve().name] = {
            name: measure(cases, limit, *choice) for name, choice in variants().items()
        }
    if args.out:
        write_json(args.out, report)
    for name, figures in report["tokenizers"].items():
        print(f"{name}: tokens a row, median / 99 % / longest; share of rows of at most {args.limit}")
        print(table(figures), end="\n\n")


def variants() -> dict[str, tuple[str, str | None, str]]:
    """Every style in every precision, and the shortest with spaces in its columns."""
    found: dict[str, tuple[str, str | None, str]] = {}
    for style in style_names():
        for precision in reversed(precision_names(style)):
            found[f"{style} {precision}"] = (style, precision, "plain")
        if not precision_names(style):
            found[style] = (style, None, "plain")
    for style in ("compact", "worked"):
        found |= {f"{style} 2dp, {digits}": (style, "2dp", digits) for digits in (CELLS, SPACED)}
    return found


def draw(rows: int, seed: int) -> dict[str, list[Problem]]:
    """Problems by case: a kind, its operator or its exponent."""
    cases: dict[str, list[Problem]] = {}
    for kind, operands_of in DRAWS.items():
        drawn = operands_of(
            np.random.default_rng(seed), rows * {"direct computation": 4, "power computation": 6}.get(kind, 1)
        )
        for operands in drawn:
            problem = parse(problem_text(kind, operands), solution_text(kind, operands))
            assert problem is not None
            cases.setdefault(case_of(problem), []).append(problem)
    return dict(sorted(cases.items()))


def case_of(problem: Problem) -> str:
    """The kind, with the operator or the exponent that its length depends on."""
    name = problem.kind.split(" ")[0]
    if problem.kind == "direct computation":
        return f"{name} {problem.operands[1]}"
    return f"{name} ^{problem.operands[1]}" if problem.kind == "power computation" else name


def measure(cases: dict[str, list[Problem]], limit: TokenLimit, *choice: Any) -> dict[str, dict[str, float]]:
    """Lengths of the rows of each case, and of the contest's mix of them."""
    steps = get_style(choose_style(*choice))
    say(f"{limit.tokenizer}: {' '.join(map(str, choice))}")
    figures, weights = {}, {}
    for case, problems in cases.items():
        lengths = sorted(limit.lengths([(one.problem, steps[one.kind](one)) for one in problems]))
        figures[case] = summary(lengths, limit.tokens)
        weights[case] = MIX[problems[0].kind] / sum(1 for other in cases if other.split(" ")[0] == case.split(" ")[0])
    mix = {key: round(sum(weights[case] * figures[case][key] for case in cases), 4) for key in ("mean", "within_limit")}
    # the mean of the rows that can be trained on
    fitting = sum(weights[case] * figures[case]["within_limit"] * figures[case]["mean_within"] for case in cases)
    return {**figures, "contest mix": {**mix, "mean_within": round(fitting / mix["within_limit"], 1)}}


def summary(lengths: list[int], limit: int) -> dict[str, float]:
    """Figures of sorted lengths; ``mean_within`` is that of the rows within the limit."""
    within = [length for length in lengths if length <= limit]
    return {
        "median": lengths[len(lengths) // 2],
        "p99": lengths[int(0.99 * (len(lengths) - 1))],
        "max": lengths[-1],
        "mean": round(fmean(lengths), 1),
        "within_limit": round(len(within) / len(lengths), 4),
        "mean_within": round(fmean(within), 1) if within else 0.0,
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Cases down, variants across."""
    rows = []
    for case in next(iter(figures.values())):
        row = [case]
        for one in figures.values():
            of = one[case]
            lengths = f"{of['median']}/{of['p99']}/{of['max']}" if "median" in of else f"mean {of['mean']:.0f}"
            row.append(lengths if of["within_limit"] == 1 else f"{lengths} {100 * of['within_limit']:.0f} %")
        rows.append(row)
    return format_table(["", *figures], rows)


if __name__ == "__main__":
    run_main(main)  # type: ignore[arg-type]
