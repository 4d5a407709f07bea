"""Answering many prompts: ``TorchGenerator`` and ``transformers.pipeline`` one at a time, in the same run.

Both are greedy, on the same model, with the same stop token and limit, and must say the same. The pipeline answers the
first rows only (``--sample``), since it takes so long; rows/s is what is compared. Ways alternate and the best of the
rounds counts.

    python benchmarks/generate.py                              # 1,000 arithmetic problems, 500 reading questions
    python benchmarks/generate.py --rounds 1 --problems 100 --questions 50
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMES_FASTER = 4.0
NEW_TOKENS = {"arithmetic": 128, "reading": 20}


def main() -> None:
    """Measure both ways on both kinds of prompts; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default=str(ROOT / "models" / "tiny"), help="model directory (default: models/tiny)")
    parser.add_argument("--template", default="bare", help="of the arithmetic problems (default: %(default)s)")
    parser.add_argument("--problems", type=int, default=1000, help="arithmetic problems (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=500, help="reading questions (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=40, help="rows the pipeline answers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    args = parser.parse_args()
    # the package mindrecord, not the benchmark of that name beside this file
    sys.path.insert(0, str(ROOT))
    result = measure(args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    slow = [name for name, one in result["prompts"].items() if one["times_faster"] < TIMES_FASTER]
    if slow:
        sys.exit(f"less than {TIMES_FASTER} times faster on: {', '.join(slow)}")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run both ways in turn; returns rows/s by kind of prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
    from transformers.utils import logging

    from backends.cuda.generate.generator import TorchGenerator
    from backends.generation.types import Limits
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from eval.results import environment, git_hash
    from mindrecord.tokens.encode import encode_prompts

    logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.ckpt)
    plain = AutoModelForCausalLM.from_pretrained(args.ckpt, dtype=torch.float32).eval()
    pipe = pipeline("text-generation", plain, tokenizer=AutoTokenizer.from_pretrained(args.ckpt), device="cpu")
    model = AutoModelForCausalLM.from_pretrained(args.ckpt, dtype=torch.float32).eval()
    generator = TorchGenerator(model, tokenizer.pad_id)

    asked = {
        "arithmetic": encode_prompts(arithmetic(args.problems), get_template(args.template), tokenizer),
        "reading": encode_prompts(reading(args.questions), get_template("squad"), tokenizer),
    }
    prompts: dict[str, Any] = {}
    for name, rows in asked.items():
        limits = Limits(NEW_TOKENS[name])
        texts = [tokenizer.decode(row, skip_special=False) for row in rows[: args.sample]]
        options = {"max_new_tokens": limits.max_new, "do_sample": False, "return_full_text": False}
        ours: dict[int, Any] = {}
        theirs: list[str] = []

        def batched(rows: list[list[int]] = rows, limits: Limits = limits, ours: dict[int, Any] = ours) -> int:
            ours.update(generator.generate(dict(enumerate(rows)), [tokenizer.eos_id], limits))
            return len(ours)

        def one_by_one(texts: list[str] = texts, options: dict[str, Any] = options, theirs: list[str] = theirs) -> int:
            theirs[:] = [pipe(text, add_special_tokens=False, **options)[0]["generated_text"] for text in texts]
            return len(theirs)

        best = {"ours": 0.0, "pipeline": 0.0}
        ways: dict[str, Callable[[], int]] = {"ours": batched, "pipeline": one_by_one}
        for turn in range(args.rounds):
            for way, answer in ways.items():
                began = time.perf_counter()
                speed = answer() / (time.perf_counter() - began)
                print(f"{name}, round {turn + 1}, {way}: {speed:.1f} rows/s", file=sys.stderr)
                best[way] = max(best[way], speed)
        said = [tokenizer.decode(ours[index].ids) for index in range(len(theirs))]
        prompts[name] = {
            "rows": len(rows),
            "pipeline_rows": len(theirs),
            "prompt_tokens": sum(map(len, rows)) / len(rows),
            "new_tokens": sum(len(answer.ids) for answer in ours.values()) / len(ours),
            "rows_per_s": best["ours"],
            "pipeline_rows_per_s": best["pipeline"],
            "times_faster": best["ours"] / best["pipeline"],
            "same_answers": sum(a.strip() == b.strip() for a, b in zip(said, theirs, strict=True)),
        }
    return {
        "prompts": prompts,
        "conditions": {
            "command": " ".join(["python", *sys.argv]),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "environment": environment(),
            "code": git_hash(),
        },
    }


def arithmetic(count: int) -> list[Any]:
    """Synthesised problems, each a conversation that waits for its answer."""
    from converters.text.conversation import Turn

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.jsonl"
        command = [sys.executable, "-m", "converters.arithmetic", "synthesize", "-o", str(raw), "--rows", str(count)]
        subprocess.run([*command, "--seed", "11"], cwd=ROOT, check=True, capture_output=True)
        return [[Turn("user", json.loads(line)["problem"])] for line in raw.open(encoding="utf-8")]


def reading(count: int) -> list[Any]:
    """Questions of the shipped reading set, in the form of the ``squad`` template."""
    from converters.text.conversation import Turn
    from eval.squad.data import read_questions

    questions = read_questions(ROOT / "eval" / "data" / "reading.json")[:count]
    return [[Turn("user", f"{question.context}\n\n{question.text}")] for question in questions]


if __name__ == "__main__":
    main()
