"""Answering many prompts: our decoder, transformers' batched ``generate``, and ``transformers.pipeline``, in turn.

All are greedy, on the same float32 model, with the same stop token and limit, and should say the same.

* ours: ``TorchGenerator``
* static, dynamic: ``model.generate`` on the same batches as ours, padded on the left, with that cache implementation
* pipeline: one row at a time, the first rows only (``--sample``), since it takes so long; rows/s is what is compared

Ways alternate and the best of the rounds counts, since other work on the machine can only slow one down.

    python benchmarks/generate.py                              # 1,000 arithmetic problems, 500 reading questions
    python benchmarks/generate.py --rounds 1 --problems 100 --questions 50 --ways static
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Answering = Callable[[list[list[int]], int], list[str]]
NEW_TOKENS = {"arithmetic": 128, "reading": 20}
WAYS = ("static", "dynamic", "pipeline")


def main() -> None:
    """Measure all ways on both kinds of prompts; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default=str(ROOT / "models" / "tiny"), help="model directory (default: models/tiny)")
    parser.add_argument("--template", default="bare", help="of the arithmetic problems (default: %(default)s)")
    parser.add_argument("--problems", type=int, default=1000, help="arithmetic problems (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=500, help="reading questions (default: %(default)s)")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="besides ours (default: all)")
    parser.add_argument("--sample", type=int, default=40, help="rows the pipeline answers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    parser.add_argument("--note", help="kept with the conditions: what else ran on the machine")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    args = parser.parse_args()
    # as the package backends.cuda does: threads that spin while they wait take the cores of a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # the package mindrecord, not the benchmark of that name beside this file
    sys.path.insert(0, str(ROOT))
    result = measure(args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turn; returns rows/s by kind of prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
    from transformers.utils import logging

    from backends.cuda.generate.generator import TorchGenerator
    from backends.generation.batching import plan_batches
    from backends.generation.types import BATCH_TOKENS, Limits
    from backends.run.environment import code_version
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from eval.results import environment
    from mindrecord.tokens.encode import encode_prompts

    logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.ckpt)
    # ours changes how a model attends: the others have one of their own
    plain = AutoModelForCausalLM.from_pretrained(args.ckpt, dtype=torch.float32).eval()
    pipe = pipeline("text-generation", plain, tokenizer=AutoTokenizer.from_pretrained(args.ckpt), device="cpu")
    generator = TorchGenerator(
        AutoModelForCausalLM.from_pretrained(args.ckpt, dtype=torch.float32).eval(), tokenizer.pad_id
    )

    def ours(rows: list[list[int]], limit: int) -> list[str]:
        answers = dict(generator.generate(dict(enumerate(rows)), [tokenizer.eos_id], Limits(limit)))
        return [tokenizer.decode(answers[index].ids) for index in range(len(rows))]

    def batched(rows: list[list[int]], limit: int, cache: str) -> list[str]:
        said: dict[int, str] = {}
        for batch in plan_batches(dict(enumerate(map(len, rows))), limit, BATCH_TOKENS):
            longest = max(len(rows[index]) for index in batch)
            ids = torch.full((len(batch), longest), tokenizer.pad_id)
            for line, index in zip(ids, batch, strict=True):
                line[longest - len(rows[index]) :] = torch.tensor(rows[index])
            mask = torch.ones_like(ids)
            for line, index in zip(mask, batch, strict=True):
                line[: longest - len(rows[index])] = 0
            whole = plain.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=tokenizer.eos_id,
                pad_token_id=tokenizer.pad_id,
                cache_implementation=cache,
            )
            for index, new in zip(batch, whole[:, longest:].tolist(), strict=True):
                end = new.index(tokenizer.eos_id) if tokenizer.eos_id in new else len(new)
                said[index] = tokenizer.decode(new[:end])
        return [said[index] for index in range(len(rows))]

    def one_by_one(rows: list[list[int]], limit: int) -> list[str]:
        texts = [tokenizer.decode(row, skip_special=False) for row in rows[: args.sample]]
        options = {"max_new_tokens": limit, "do_sample": False, "return_full_text": False}
        return [pipe(text, add_special_tokens=False, **options)[0]["generated_text"] for text in texts]

    others: dict[str, Answering] = {
        "static": partial(batched, cache="static"),
        "dynamic": partial(batched, cache="dynamic"),
        "pipeline": one_by_one,
    }
    asked = {
        "arithmetic": encode_prompts(arithmetic(args.problems), get_template(args.template), tokenizer),
        "reading": encode_prompts(reading(args.questions), get_template("squad"), tokenizer),
    }
    ways = {"ours": ours, **{way: others[way] for way in args.ways}}
    prompts = {
        name: {
            "rows": len(rows),
            "prompt_tokens": sum(map(len, rows)) / len(rows),
            **compare(name, rows, NEW_TOKENS[name], ways, args.rounds),
        }
        for name, rows in asked.items()
    }
    return {
        "prompts": prompts,
        "conditions": {
            "command": " ".join(["python", *sys.argv]),
            "note": args.note,
            "load": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in plain.parameters()),
            "environment": environment(),
            "code": code_version(),
        },
    }


def compare(name: str, rows: list[list[int]], limit: int, ways: dict[str, Answering], rounds: int) -> dict[str, Any]:
    """Let the ways answer the rows in turn; returns what each reached, and how often it says what ours says."""
    best, said = dict.fromkeys(ways, 0.0), dict[str, list[str]]()
    for turn in range(rounds):
        for way, answer in ways.items():
            began = time.perf_counter()
            said[way] = answer(rows, limit)
            speed = len(said[way]) / (time.perf_counter() - began)
            print(f"{name}, round {turn + 1}, {way}: {speed:.1f} rows/s", file=sys.stderr)
            best[way] = max(best[way], speed)
    found: dict[str, Any] = {"rows_per_s": best}
    for way in list(ways)[1:]:
        pairs = list(zip(said["ours"], said[way], strict=False))
        found[f"against_{way}"] = {
            "times_faster": best["ours"] / best[way],
            "rows": len(pairs),
            "same_answers": sum(a.strip() == b.strip() for a, b in pairs),
        }
    return found


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
