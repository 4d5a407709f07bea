"""Tables and plots of the study of steps: ``python -m benchmarks.steps.figures``; see ``benchmarks.steps.study``.

With ``--json`` and no ``--out`` the committed figures are read instead of a study's folders.

python -m benchmarks.steps.figures --out runs/steps                          # tables in Markdown
python -m benchmarks.steps.figures --out runs/steps --json study.json --plots docs
python -m benchmarks.steps.figures --json benchmarks/results/steps_study.json    # the committed figures again
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.steps.study import ARMS, Arm
from converters.common.console import run_main
from converters.common.errors import UsageError
from converters.common.files import write_json
from converters.common.reader import read_json
from eval.results import wilson

RULES = ("close", "exact", "sig4")
CASES = {
    "direct +": "+",
    "direct -": "−",
    "direct *": "×",
    "direct /": "÷",
    "eq solve": "equation",
    "mean computation": "mean",
    "sqrt computation": "root",
    "power computation": "power",
    "function computation": "function",
    "area computation": "area",
    "discount percentage": "discount",
    "sales revenue": "sales",
    "mass computation": "mass",
    "fraction simplify": "fraction",
}
GROUPS = {
    "LoRA on the small base, single digits": "lora-",
    "sums and differences from scratch": "sums-",
    "from scratch, single digits": "scratch-",
    "from scratch, groups of up to three digits": "groups-",
}
COLORS = {"raw": "0.55", "seed": "tab:brown", "decompose": "tab:orange", "worked": "tab:blue", "compact": "tab:green"}
OPERATOR = re.compile(r" ([-+*/]) ")

Figures = dict[str, dict[str, Any]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the study wrote its arms")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there; without --out, read them")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="for steps_accuracy.png and steps_reading.png")
    args = parser.parse_args(argv)
    if args.out is None and args.json is None:
        raise UsageError("--out DIR or --json FILE: where are the figures?")
    figures: Figures = collect(args.out) if args.out else read_json(args.json)["arms"]
    if args.out and args.json:
        write_json(args.json, {"command": "python -m benchmarks.steps.study", "arms": figures})
    if args.plots:
        plot_accuracy(figures, args.plots / "steps_accuracy.png")
        plot_reading(figures, args.plots / "steps_reading.png")
    print("\n\n".join([*accuracy_tables(figures), cost_table(figures), reading_table(figures)]))


def collect(out: Path) -> Figures:
    """The figures of every finished arm, from its log and its predictions.

    Raises:
        UsageError: no arm is finished.
    """
    done = [arm for arm in ARMS if (out / arm.name / "arm.json").is_file()]
    if not done:
        raise UsageError(f"{out}: no finished arm; run python -m benchmarks.steps.study --out {out} first")
    return {arm.name: figures_of(arm, out / arm.name) for arm in done}


def figures_of(arm: Arm, folder: Path) -> dict[str, Any]:
    """Settings, the curve of accuracy, the last checkpoint's accuracy by case and rule, reading, and what it took."""
    log = [json.loads(line) for line in (folder / "run/train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens_at = {}
    total = 0
    for row in log:
        total += row["tokens"]
        tokens_at[row["step"]] = total
    curve = []
    for point in sorted(folder.glob("math/step-*")):
        counts = read_json(point / "results.json")["counts"]["total"]
        step = int(point.name.removeprefix("step-"))
        curve.append({"tokens": tokens_at[step], "n": counts["n"], "close": counts["correct"]["close"]})
    cases = by_case(folder / "math/last/predictions.jsonl")
    whole = {key: sum(one[key] for one in cases.values()) for key in ("n", "tokens", *RULES)}
    curve.append({"tokens": total, "n": whole["n"], "close": whole["close"]})
    seconds = median(row["seconds"] for row in log)
    figures = {
        **asdict(arm),
        **read_json(folder / "arm.json"),
        "steps": len(log),
        "tokens": total,
        "last_loss": round(fmean(row["loss"] for row in log[-20:]), 4),
        "tokens_a_second": round(median(row["tokens_per_s"] for row in log)),
        "rows_a_second": round(read_json(folder / "arm.json")["batch_size"] / seconds, 1),
        "answer_tokens": round(whole["tokens"] / whole["n"], 1),
        "curve": curve,
        "cases": {name: {key: one[key] for key in ("n", *RULES)} for name, one in cases.items()},
        "total": {key: whole[key] for key in ("n", *RULES)},
    }
    if (folder / "reading/results.json").is_file():
        reading = read_json(folder / "reading/results.json")["results"]["squad_mindformers"]
        figures["read"] = {key: reading[f"{key},none"] for key in ("f1", "em", "f1_95", "em_95")}
    return figures


def by_case(predictions: Path) -> dict[str, dict[str, int]]:
    """Problems, right answers by rule and answer tokens of each case: a kind, direct computation by its operator."""
    cases: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("n", "tokens", *RULES), 0))
    with predictions.open(encoding="utf-8") as handle:
        for row in map(json.loads, handle):
            name = row["kind"]
            if name == "direct computation":
                name = f"direct {OPERATOR.search(row['label']).group(1)}"  # type: ignore[union-attr]
            cases[name]["n"] += 1
            cases[name]["tokens"] += row["n_tokens"]
            for rule in RULES:
                cases[name][rule] += row["correct"][rule]
    return {name: cases[name] for name in CASES if name in cases}


def accuracy_tables(figures: Figures) -> list[str]:
    """Per cent right under ``close`` by case, one table a start; below it all problems under each rule."""
    tables = []
    for title, prefix in GROUPS.items():
        arms = {name.removeprefix(prefix): one for name, one in figures.items() if name.startswith(prefix)}
        arms = {name: one for name, one in arms.items() if not one["reading"] and one["adapter"] == "all-16"}
        if not arms:
            continue
        lines = [f"**{title}**", "", f"| | problems | {' | '.join(arms)} |", f"| --- | ---: |{' ---: |' * len(arms)}"]
        first = next(iter(arms.values()))
        for case, label in CASES.items():
            if case in first["cases"]:
                cells = [percent(one["cases"][case]["close"], one["cases"][case]["n"]) for one in arms.values()]
                lines.append(f"| {label} | {first['cases'][case]['n']} | {' | '.join(cells)} |")
        for rule in RULES:
            cells = [f"**{percent(one['total'][rule], one['total']['n'])}**" for one in arms.values()]
            lines.append(f"| all, `{rule}` | {first['total']['n']} | {' | '.join(cells)} |")
        intervals = [wilson(one["total"]["close"], one["total"]["n"]) for one in arms.values()]
        cells = [f"{100 * low:.1f}–{100 * high:.1f}" for low, high in intervals]
        lines.append(f"| 95 % of `close` | | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return tables


def percent(right: int, n: int) -> str:
    """Right answers in per cent, one decimal."""
    return f"{100 * right / n:.1f}"


def cost_table(figures: Figures) -> str:
    """What each arm's tokens bought."""
    lines = [
        "| arm | tokens a row | rows | M tokens | tokens/s | rows/s | tokens an answer | `close` | points a M tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in figures.items():
        right, millions = 100 * one["total"]["close"] / one["total"]["n"], one["tokens"] / 1e6
        lines.append(
            f"| `{name}` | {one['tokens_a_row']:.0f} | {one['rows']:,} | {millions:.2f} | {one['tokens_a_second']:,} | "
            f"{one['rows_a_second']:.0f} | {one['answer_tokens']:.0f} | {right:.1f} | {right / millions:.1f} |"
        )
    return "\n".join(lines)


def reading_table(figures: Figures) -> str:
    """Accuracy and reading of the arms that started from the small base."""
    lines = ["| arm | reading rows | `close` | reading F1 | EM |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, one in figures.items():
        if "read" in one:
            read = one["read"]
            right = percent(one["total"]["close"], one["total"]["n"])
            lines.append(f"| `{name}` | {100 * one['reading']:.0f} % | {right} | {read['f1']:.1f} | {read['em']:.1f} |")
    return "\n".join(lines)


def plot_accuracy(figures: Figures, path: Path) -> None:
    """Accuracy over training tokens, one line a style; one panel a start that has several."""
    plt = pyplot()
    shown = {title: prefix for title, prefix in GROUPS.items() if sum(name.startswith(prefix) for name in figures) > 1}
    figure, panels = plt.subplots(1, len(shown), sharey=True, figsize=(4.2 * len(shown), 3.6), layout="constrained")
    for panel, (title, prefix) in zip([panels] if len(shown) == 1 else panels, shown.items(), strict=True):
        for name, one in figures.items():
            if name.startswith(prefix) and not one["reading"] and one["adapter"] == "all-16":
                tokens = [point["tokens"] / 1e6 for point in one["curve"]]
                right = [100 * point["close"] / point["n"] for point in one["curve"]]
                style = "--" if one["digits"] == "groups" or one["balance"] != "proportional" else "-"
                style = ":" if one["spacing"] != "plain" or one["times"] > 1 else style
                label = name.removeprefix(prefix).replace("-", " ", 1)
                panel.plot(tokens, right, style, marker="o", markersize=3, color=COLORS[one["style"]], label=label)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("training tokens (millions)")
        panel.set_ylim(0, 100)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=8)
    figure.supylabel("problems right, close (%)", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_reading(figures: Figures, path: Path) -> None:
    """Left: reading after tuning, by style. Right: accuracy and reading of worked steps by their share of reading."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    plain = [f"lora-{style}" for style in COLORS if f"lora-{style}" in figures]
    f1 = [figures[name]["read"]["f1"] for name in plain]
    left.bar([name.removeprefix("lora-") for name in plain], f1, color=[COLORS[figures[n]["style"]] for n in plain])
    left.set_ylabel("reading F1 after tuning")
    left.set_title("no reading rows in the mix", fontsize=9)
    mixed = [name for name in ("lora-worked", "lora-worked-reading-5", "lora-worked-reading-20") if name in figures]
    shares = [100 * figures[name]["reading"] for name in mixed]
    right.plot(shares, [figures[name]["read"]["f1"] for name in mixed], marker="o", label="reading F1")
    close = [100 * figures[name]["total"]["close"] / figures[name]["total"]["n"] for name in mixed]
    right.plot(shares, close, marker="s", label="arithmetic, close (%)")
    right.set_xlabel("reading rows, % of the arithmetic rows")
    right.set_title("worked steps", fontsize=9)
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.set_ylim(0, 100)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pyplot() -> Any:
    """Matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


if __name__ == "__main__":
    run_main(main)  # type: ignore[arg-type]
