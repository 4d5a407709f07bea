"""Converting raw arithmetic rows: ``converters.arithmetic`` and the plain way, in the same run.

The plain way is one Python loop a stage, with ``json`` and ``re``: read, deduplicate, classify, check, sample, write
steps, write. Both do the same work row for row (``kinds`` and the seed style) and must give the same bytes.
Every measurement is a process of its own; ways alternate, and the best of the repeats counts. Memory is the peak of
the process plus the peaks of its workers.

    python benchmarks/convert.py                      # 809,993 rows → 100,000, then ten times the rows
    python benchmarks/convert.py --rows 50000 --repeats 1 --no-tenfold
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLED = 100_000
LIMITS = {"times faster": 5.0, "peak MB": 400, "tenfold time": 11.0, "tenfold peak MB": 1500}


def plain(raw: Path, out: Path, rows: int) -> None:
    """The plain way: lists of rows, one loop a stage. Prints the seconds of each stage as JSON."""
    from converters.arithmetic.problems import CHINESE, KINDS, StepError, check, parse
    from converters.arithmetic.steps.seed import STEPS

    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal began
        seconds[name], began = time.perf_counter() - began, time.perf_counter()

    records = []
    with raw.open(encoding="utf-8") as handle:
        for line in handle:
            record = json.loads(line)
            if isinstance(record.get("problem"), str) and isinstance(record.get("solution"), str):
                records.append(record)
    stage("read")

    seen, unique = set(), []
    for record in records:
        if record["problem"] not in seen:
            seen.add(record["problem"])
            unique.append(record)
    stage("deduplicate")

    problems = []
    for record in unique:
        problem = parse(record["problem"], record["solution"])
        if problem is not None:
            problems.append(problem)
    stage("classify")

    right = []
    for problem in problems:
        try:
            check(problem)
            right.append(problem)
        except StepError:
            pass
    stage("check")

    import numpy as np

    from converters.pipeline import sampling as sample
    from converters.pipeline.output import PROPORTIONAL

    kinds = np.array([KINDS.index(problem.kind) for problem in right], dtype=np.uint8)
    available = {kind: int((kinds == KINDS.index(kind)).sum()) for kind in CHINESE}
    keys = sample.random_keys(len(kinds), 0)
    while True:
        quota = sample.plan(available, rows, PROPORTIONAL, 8)
        (chosen,) = sample.pick(kinds, KINDS, keys, [quota])
        answers, failed = {}, []
        for position in chosen.tolist():
            problem = right[position]
            try:
                answers[position] = STEPS[problem.kind](problem)
            except StepError:
                failed.append(position)
        if not failed:
            break
        keys[failed] = np.inf
        for position in failed:
            available[right[position].kind] -= 1
    stage("sample and steps")

    order = chosen[sample.shuffled(len(chosen), 0)]
    with out.open("w", encoding="utf-8") as handle:
        for number, position in enumerate(order.tolist(), start=1):
            turns = [
                {"from": "human", "value": right[position].problem},
                {"from": "gpt", "value": answers[position]},
            ]
            handle.write(json.dumps({"id": str(number), "conversations": turns}, ensure_ascii=False) + "\n")
    stage("write")
    print(json.dumps(seconds))


def command(way: str, raw: Path, out: Path, rows: int) -> list[str]:
    """The command line of one way."""
    if way == "plain":
        return [sys.executable, __file__, "--plain", str(raw), str(out), "--sampled", str(rows)]
    options = ["--rows", str(rows), "--multiple-of", "8", "--seed", "0", "--steps", "seed"]
    return [sys.executable, "-m", "converters.arithmetic", "convert", str(raw), "-o", str(out), *options]


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run a process; its wall and CPU seconds, peak memory in MB (workers included), and what it printed."""
    began, before = time.perf_counter(), os.times()
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=printed, stderr=errors, env=environment())
        peaks: dict[int, int] = {}
        watching = threading.Event()

        def watch() -> None:
            # seldom, because watching takes time from what is watched; a peak, once reached, stays on record
            while not watching.wait(0.1):
                for pid in children(process.pid):
                    peaks[pid] = max(peaks.get(pid, 0), peak_kilobytes(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall, after = time.perf_counter() - began, os.times()
        watching.set()
        watcher.join()
        for file in (printed, errors):
            file.seek(0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(arguments)} failed:\n{errors.read()}")
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        peak = usage.ru_maxrss + sum(peaks.values())
        return {"seconds": wall, "cpu_seconds": cpu, "peak_mb": peak / 1024, "printed": printed.read()}


def environment() -> dict[str, str]:
    """The environment of a measured process: the repository can be imported."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def peak_kilobytes(pid: int) -> int:
    """The most resident memory that a process has had; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def synthesize(path: Path, rows: int) -> None:
    """Write raw rows."""
    subprocess.run(
        [sys.executable, "-m", "converters.arithmetic", "synthesize", "-o", str(path), "--rows", str(rows)],
        cwd=ROOT,
        check=True,
        env=environment(),
    )


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest run, with the times of all, and the largest of the peaks."""
    fastest = min(runs, key=lambda run: run["seconds"])
    return {
        "seconds": round(fastest["seconds"], 3),
        "cpu_seconds": round(min(run["cpu_seconds"] for run in runs), 3),
        "peak_mb": round(max(run["peak_mb"] for run in runs)),
        "all_seconds": [round(run["seconds"], 3) for run in runs],
    }


def compare(folder: Path, rows: int, repeats: int, tenfold: bool) -> dict[str, Any]:
    """Measure both ways and, with ``tenfold``, the project's on ten times the rows."""
    raw = folder / "raw.jsonl"
    synthesize(raw, rows)
    sampled = min(SAMPLED, rows // 8)
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for _ in range(repeats):
        for way, measured in runs.items():
            measured.append(measure(command(way, raw, folder / f"{way}.jsonl", sampled)))
    same = (folder / "plain.jsonl").read_bytes() == (folder / "ours.jsonl").read_bytes()
    result: dict[str, Any] = {
        "rows": rows,
        "raw_mb": round(raw.stat().st_size / 1e6, 1),
        "sampled": sampled,
        "same_bytes": same,
        "plain": {**best(runs["plain"]), "stages": json.loads(runs["plain"][-1]["printed"])},
        "ours": best(runs["ours"]),
    }
    result["times_faster"] = round(result["plain"]["seconds"] / result["ours"]["seconds"], 2)
    if tenfold:
        raw.unlink()
        synthesize(raw, 10 * rows)
        many = [measure(command("ours", raw, folder / "tenfold.jsonl", sampled)) for _ in range(max(1, repeats // 2))]
        result["tenfold"] = {"rows": 10 * rows, **best(many)}
        result["tenfold"]["times"] = round(result["tenfold"]["seconds"] / result["ours"]["seconds"], 2)
    return result


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    import polars

    load = os.getloadavg()[0]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "polars": polars.__version__,
        "load_average_at_start": round(load, 2),
    }


def markdown(result: dict[str, Any]) -> str:
    """One line for the README."""
    ours, slow = result["ours"], result["plain"]
    line = (
        f"{result['rows']:,} raw rows → {result['sampled']:,} conversations with `seed` steps: "
        f"**{ours['seconds']:.2f} s**, {ours['peak_mb']} MB; the plain way {slow['seconds']:.2f} s, "
        f"{slow['peak_mb']} MB ({result['times_faster']:.1f} × faster, the same bytes)"
    )
    if "tenfold" in result:
        more = result["tenfold"]
        line += f"; ten times the rows {more['seconds']:.1f} s ({more['times']:.1f} × the time), {more['peak_mb']} MB"
    where = result["conditions"]
    return f"{line}. {where['cores']} cores, Python {where['python']}, Polars {where['polars']}, best of the repeats."


def main() -> int:
    """Run the benchmark, or one plain conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=809_993, help="raw rows (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way (default: %(default)s)")
    parser.add_argument("--no-tenfold", action="store_true", help="leave out ten times the rows")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/convert.json", help="results as JSON")
    parser.add_argument("--plain", nargs=2, type=Path, metavar=("RAW", "OUT"), help="convert once, the plain way")
    parser.add_argument("--sampled", type=int, default=SAMPLED, help="rows to sample with --plain")
    args = parser.parse_args()
    if args.plain:
        plain(*args.plain, args.sampled)
        return 0
    where = conditions()
    with tempfile.TemporaryDirectory() as folder:
        result = {"conditions": where, **compare(Path(folder), args.rows, args.repeats, not args.no_tenfold)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(result))
    return 0 if result["same_bytes"] else 1


if __name__ == "__main__":
    sys.exit(main())
