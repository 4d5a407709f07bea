"""What a model learns from each style of steps: ``python -m benchmarks.steps.study``.

An arm is one run: a style, a tokenizer, where it starts, and reading rows in its mix. Arms of one start have the same
number of training tokens, not of rows, since long steps are what a style costs; everything else is the same: model,
order, tokens a step, learning rate, and 2,000 held-out problems of the contest's mix. Every arm goes through the
project's own commands, converter, training, ``eval.math`` and ``eval.squad``, one process of one thread each, so that
two cores can work at two lists of arms. What is finished is not done again.

    python -m benchmarks.steps.study --list
    python -m benchmarks.steps.study --out runs/steps                                # every arm, one after the other
    python -m benchmarks.steps.study --out runs/steps lora-worked lora-seed          # these
    python -m benchmarks.steps.study --out runs/steps --tokens-scale 0.05 lora-raw   # a quick look
    python -m benchmarks.steps.figures --out runs/steps                              # tables and plots of what is there
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from converters.common.console import run_main, say
from converters.common.errors import UsageError
from converters.common.files import write_json, write_text
from converters.tokenizers.segments import TokenLimit

ROOT = Path(__file__).resolve().parents[2]
TOKENS = {"scratch": 5_000_000, "sums": 4_000_000, "lora": 2_000_000}
"""Training tokens of every arm of that sort, but for those that ask for a multiple."""
TOKENS_A_STEP = {"scratch": 2_500, "sums": 2_500, "lora": 5_000}
"""About; random weights gain more from more steps than from steadier ones."""
LONGEST = 512
"""Tokens of the longest training row; a model that has not ended its answer there is cut."""
HELD_OUT = 2_000
ON_THE_WAY = 200
"""Problems that the checkpoints before the last answer."""
TINY = "models/tiny"
SUM = re.compile(r"计算 \S+ [-+] \S+ 等于")
MONITOR = "{type: CheckpointMonitor, save_checkpoint_steps: -1, keep_checkpoint_max: 5}"


@dataclass(frozen=True)
class Arm:
    """One run of the study."""

    name: str
    style: str
    start: str
    """scratch: random weights, every parameter; sums: the same on sums and differences alone, which can be learned from
    nothing in minutes; lora: an adapter on the small base."""
    digits: str = "one"
    """one: every digit is a token, models/tiny's tokenizer; groups: up to three are, as with Llama 3."""
    spacing: str = "plain"
    """Of digits in columns, as ``converters.arithmetic convert --digits`` has it."""
    reading: float = 0.0
    """Reading rows, as a share of the arithmetic rows, on top of them."""
    adapter: str = "all-16"
    """Which layers the adapter is on, and its rank: a key of ``ADAPTERS``."""
    balance: str = "proportional"
    """Of the kinds in its rows, as ``converters.arithmetic convert --balance`` has it."""
    times: int = 1
    """Times the tokens of its sort."""


ADAPTERS = {
    "all-16": [],  # as yaml/demo.yaml has it
    "qv-8": [
        "model.model_config.pet_config.target_modules=.*wq|.*wv",
        "model.model_config.pet_config.lora_rank=8",
        "model.model_config.pet_config.lora_alpha=16",
    ],
}
STYLES = ("raw", "seed", "decompose", "worked")
ARMS = [
    *(Arm(f"lora-{style}", style, "lora") for style in (*STYLES, "compact")),
    Arm("lora-worked-square-root", "worked", "lora", balance="square-root"),
    Arm("lora-worked-square-root-long", "worked", "lora", balance="square-root", times=3),
    Arm("lora-worked-reading-5", "worked", "lora", reading=0.05),
    Arm("lora-worked-reading-20", "worked", "lora", reading=0.20),
    Arm("lora-worked-qv-8", "worked", "lora", adapter="qv-8"),
    *(Arm(f"sums-{style}", style, "sums") for style in ("raw", "worked")),
    *(Arm(f"sums-groups-{style}", style, "sums", "groups") for style in ("raw", "worked")),
    Arm("sums-groups-worked-spaced", "worked", "sums", "groups", spacing="spaced"),
    *(Arm(f"scratch-{style}", style, "scratch") for style in STYLES),
    *(Arm(f"groups-{style}", style, "scratch", "groups") for style in STYLES),
    Arm("scratch-worked-long", "worked", "scratch", times=3),
    Arm("scratch-worked-square-root-long", "worked", "scratch", balance="square-root", times=3),
    Arm("groups-worked-cells", "worked", "scratch", "groups", spacing="cells"),
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help="which; --list shows them (default: all)")
    parser.add_argument("--list", action="store_true", help="show the arms and stop")
    parser.add_argument("--out", type=Path, default=Path("runs/steps"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--tokens-scale", type=float, default=1.0, help="times the training tokens (default: 1)")
    parser.add_argument("--processes", type=int, default=1, help="training processes of one thread (default: 1)")
    args = parser.parse_args(argv)
    known = {arm.name: arm for arm in ARMS}
    if args.list:
        for arm in ARMS:
            print(arm.name)
        return
    if unknown := [name for name in args.arms if name not in known]:
        raise UsageError(f"{unknown[0]}: no such arm; one of {', '.join(known)}")
    prepare(args.out)
    for name in args.arms or known:
        run_arm(known[name], args.out, args.tokens_scale, args.processes)


def prepare(out: Path) -> None:
    """Raw problems, the held-out ones among them, and the tokenizer with groups of digits."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "test.jsonl").is_file():
        call("converters.arithmetic", "synthesize", "--seed", 21, "-o", out / "all.jsonl")
        call(
            *("converters.arithmetic", "convert", out / "all.jsonl", "--steps", "raw", "--format", "problems"),
            *("--holdout", HELD_OUT, "--holdout-out", out / "test.jsonl", "-o", out / "problems.jsonl"),
        )
    for name in ("problems", "test"):
        if not (out / f"sums-{name}.jsonl").is_file():
            rows = (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(out / f"sums-{name}.jsonl", "".join(row for row in rows if SUM.search(row)))
    if not (out / "groups" / "tokenizer.json").is_file():
        call("converters.tiny", "tokenizer", "--digits", "groups", "--vocab-size", 2304, "-o", out / "groups")


def run_arm(arm: Arm, out: Path, scale: float, processes: int) -> None:
    """Rows, training, accuracy along the way and at the end, reading before it is forgotten and after."""
    folder = out / arm.name
    if (folder / "arm.json").is_file():
        say(f"{arm.name}: done before")
        return
    tokenizer = TINY if arm.digits == "one" else str(out / "groups")
    files, rows, mean = training_rows(arm, out, folder, tokenizer, TOKENS[arm.start] * arm.times * scale)
    batch = max(1, round(TOKENS_A_STEP[arm.start] / mean))
    train(arm, folder, files, tokenizer, batch, processes)
    steps = sorted(folder.glob("run/checkpoints/step-*"))
    test = out / ("sums-test.jsonl" if arm.start == "sums" else "test.jsonl")
    asked = ("--data", test, "--max-new-tokens", LONGEST - 32)
    for checkpoint in steps[:-1]:
        evaluate("math", checkpoint, folder / "math" / checkpoint.name, *asked, "--limit", ON_THE_WAY)
    evaluate("math", folder / "run", folder / "math" / "last", *asked)
    if arm.start == "lora":
        evaluate("squad", folder / "run", folder / "reading")
    figures = {"rows": rows, "tokens_a_row": round(mean, 1), "batch_size": batch, "tokens_scale": scale}
    write_json(folder / "arm.json", {**asdict(arm), **figures})


def training_rows(arm: Arm, out: Path, folder: Path, tokenizer: str, tokens: float) -> tuple[list[Path], int, float]:
    """Convert as many problems as make ``tokens`` training tokens; returns files, rows and tokens a row."""
    options = ["--steps", arm.style, "--max-tokens", LONGEST, "--tokenizer", tokenizer, "--template", "bare"]
    options += ["--balance", arm.balance]
    if arm.spacing != "plain":
        options += ["--digits", arm.spacing]
    folder.mkdir(parents=True, exist_ok=True)
    probe, train_file, reading_file = (folder / name for name in ("probe.jsonl", "train.jsonl", "reading.jsonl"))
    source = out / ("sums-problems.jsonl" if arm.start == "sums" else "problems.jsonl")
    call("converters.arithmetic", "convert", source, *options, "--rows", 4_000, "--seed", 1, "-o", probe)
    mean = mean_tokens(probe, tokenizer)
    rows = round(tokens / mean)
    call("converters.arithmetic", "convert", source, *options, "--rows", rows, "--seed", 2, "-o", train_file)
    probe.unlink()
    files = [train_file]
    if arm.reading:
        extra = ("--mix", "reading", "--rows", round(rows * arm.reading), "--seed", 11)
        call("converters.tiny", "corpus", *extra, "-o", reading_file)
        files.append(reading_file)
    return files, rows, mean


def mean_tokens(file: Path, tokenizer: str) -> float:
    """Tokens of a training row of this file, on average."""
    pairs = []
    with file.open(encoding="utf-8") as handle:
        for line in handle:
            question, answer = json.loads(line)["conversations"]
            pairs.append((question["value"], answer["value"]))
    lengths = TokenLimit(LONGEST, Path(tokenizer), "bare").lengths(pairs)
    return sum(lengths) / len(lengths)


def train(arm: Arm, folder: Path, files: list[Path], tokenizer: str, batch: int, processes: int) -> None:
    """One pass over the rows through ``backends.cuda train``, with five checkpoints."""
    if (folder / "run" / "result.json").is_file():
        return
    settings = [
        f"data.train=[{','.join(map(str, files))}]",
        f"output_dir={folder / 'run'}",
        f"runner_config.batch_size={batch}",
        f"model.model_config.seq_length={LONGEST}",
        f"callbacks=[{{type: MFLossMonitor}}, {MONITOR}]",
    ]
    recipe = "yaml/demo.yaml" if arm.start == "lora" else "yaml/tiny_base.yaml"
    settings += ADAPTERS[arm.adapter]
    if arm.start != "lora":
        vocabulary = len(json.loads((Path(tokenizer) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        settings += [f"data.tokenizer={tokenizer}", f"model.model_config.vocab_size={vocabulary}"]
    resume = ["--resume"] if (folder / "run").is_dir() else []
    started = ("torch.distributed.run", "--standalone", "--nproc_per_node", processes, "-m") if processes > 1 else ()
    call(*started, "backends.cuda", "train", recipe, *settings, *resume)


def evaluate(task: str, checkpoint: Path, into: Path, *options: object) -> None:
    """``eval.math`` on held-out problems, or ``eval.squad`` on the shipped reading set."""
    if not (into / "results.json").is_file():
        call(f"eval.{task}", "--ckpt", checkpoint, "--backend", "cuda", *options, "--out", into)


def call(module: str, *options: object) -> None:
    """Run a command of this project, with one thread; a failure stops the study."""
    command = [sys.executable, "-m", module, *map(str, options)]
    say(f"$ python -m {' '.join(command[2:])}")
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    run_main(main)  # type: ignore[arg-type]
