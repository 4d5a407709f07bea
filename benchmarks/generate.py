"""Answering many prompts: our decoder, transformers' batched ``generate``, and ``transformers.pipeline``, in turn.

All are greedy, on the same float32 model, with the same stop tokens and limit, and should say the same.

* ours: ``TorchGenerator``
* static, dynamic: ``model.generate`` on the same batches as ours, padded on the left, with that cache implementation
* pipeline: one row at a time, the first rows only (``--sample``), since it takes so long; rows/s is what is compared

Ways alternate, each in a process of its own, whose processor time and memory are measured. The best of the rounds
counts, since other work on the machine can only slow one down.

    python benchmarks/generate.py                              # 1,000 arithmetic problems, 500 reading questions
    python benchmarks/generate.py --rounds 1 --problems 100 --questions 50 --ways static
    python benchmarks/generate.py --model real/run --problems 24 --questions 0 --ways static dynamic --rounds 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.own_process import clocks, conditions, in_own_process, model_directory, use_threads

NEW_TOKENS = {"arithmetic": 128, "reading": 20}
WAYS = ("static", "dynamic", "pipeline")
SPEEDS = ("rows_per_s", "rows_per_processor_s", "tokens_per_processor_s")


@dataclass(frozen=True)
class Asked:
    """What every way answers.

    Attributes:
        model: directory of a model, a run or an adapter.
        rows: ids of each prompt.
        limit: most tokens of an answer.
        threads: of torch; 0 leaves the number to torch.
    """

    model: Path
    rows: list[list[int]]
    limit: int
    threads: int


def main() -> None:
    """Measure all ways on both kinds of prompts; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        type=Path,
        default=ROOT / "models" / "tiny",
        metavar="DIR_OR_GGUF",
        help="a model, a run or an adapter (default: models/tiny)",
    )
    parser.add_argument("--template", help="of the arithmetic problems (default: the one of the model)")
    parser.add_argument("--problems", type=int, default=1000, help="arithmetic problems (default: %(default)s)")
    parser.add_argument(
        "--kinds", help="of the problems, as `converters.arithmetic synthesize` takes them (default: all)"
    )
    parser.add_argument("--questions", type=int, default=500, help="reading questions (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, help="of an answer (default: arithmetic 128, reading 20)")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="besides ours (default: all)")
    parser.add_argument("--sample", type=int, default=40, help="rows the pipeline answers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    parser.add_argument("--note", help="kept with the conditions: what else ran on the machine")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    args = parser.parse_args()
    # as the package backends.cuda does: threads that spin while they wait take the cores of a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        model = model_directory(args.model, Path(folder))
        prompts = make_prompts(model, args.template, args.problems, args.kinds, args.questions)
        found = {}
        for name, rows in prompts.items():
            asked = Asked(model, rows, args.max_new_tokens or NEW_TOKENS[name], args.threads)
            found[name] = compare(name, asked, args.ways, args.rounds, args.sample)
    text = json.dumps({"prompts": found, "conditions": conditions(args.threads, args.note)}, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


def make_prompts(
    model: Path, template: str | None, problems: int, kinds: str | None, questions: int
) -> dict[str, list[list[int]]]:
    """Return the ids of the prompts of each kind of which any are asked for.

    Args:
        model: whose tokenizer they are for.
        template: of the arithmetic problems; None takes the model's.
        problems: arithmetic problems.
        kinds: of the problems; None takes all.
        questions: reading questions.
    """
    from backends.checkpoint.resolve import open_checkpoint
    from converters.text.template import get_template
    from mindrecord.tokens.encode import encode_prompts

    files = open_checkpoint(model, template=template, allow_mismatch=True, default_template="bare")
    prompts = {}
    if problems:
        prompts["arithmetic"] = encode_prompts(arithmetic(problems, kinds), files.template, files.tokenizer)
    if questions:
        prompts["reading"] = encode_prompts(reading(questions), get_template("squad"), files.tokenizer)
    return prompts


def compare(name: str, asked: Asked, others: Sequence[str], rounds: int, sample: int) -> dict[str, Any]:
    """Let the ways answer the rows in turn; returns what each reached, and how often it says what ours says.

    Args:
        name: of the kind of prompts.
        asked: the prompts.
        others: ways besides ours.
        rounds: turns of each way.
        sample: rows that the pipeline answers.
    """
    calls = {
        "ours": (ours, asked),
        "static": (batched, asked, "static"),
        "dynamic": (batched, asked, "dynamic"),
        "pipeline": (one_by_one, asked, sample),
    }
    ways = ["ours", *others]
    best: dict[str, dict[str, float]] = {}
    said: dict[str, list[str]] = {}
    for turn in range(rounds):
        for way in ways:
            (said[way], figure), peak = in_own_process(*calls[way])
            figure["peak_mb"] = peak
            speeds = ", ".join(f"{key} {figure[key]:.2f}" for key in SPEEDS)
            print(f"{name}, round {turn + 1}, {way}: {speeds}, {peak:,.0f} MB", file=sys.stderr)
            before = best.get(way, figure)
            best[way] = {key: max(value, before[key]) for key, value in figure.items()}
    found: dict[str, Any] = {
        "rows": len(asked.rows),
        "prompt_tokens": sum(map(len, asked.rows)) / len(asked.rows),
        "max_new_tokens": asked.limit,
        "ways": best,
    }
    for way in others:
        pairs = list(zip(said["ours"], said[way], strict=False))
        found[f"against_{way}"] = {
            **{key: best["ours"][key] / best[way][key] for key in (*SPEEDS, "peak_mb")},
            "rows": len(pairs),
            "same_answers": sum(a.strip() == b.strip() for a, b in pairs),
        }
    return found


def figures_of(began: tuple[float, float], ended: tuple[float, float], rows: int, new_tokens: int) -> dict[str, float]:
    """Return the speeds of answering ``rows`` with ``new_tokens`` tokens between two readings of the clocks."""
    seconds, of_processor = (end - start for start, end in zip(began, ended, strict=True))
    return {
        "rows_per_s": rows / seconds,
        "rows_per_processor_s": rows / of_processor,
        "tokens_per_processor_s": new_tokens / of_processor,
        "new_tokens": new_tokens,
    }


def ours(asked: Asked) -> tuple[list[str], dict[str, float]]:
    """This project's decoder, loaded as its commands load it."""
    from backends.checkpoint.resolve import open_checkpoint
    from backends.cuda.backend import BACKEND
    from backends.generation.types import Limits

    use_threads(asked.threads)
    files = open_checkpoint(asked.model, default_template="bare")
    generator = BACKEND.load_generator(files, device="cpu", dtype="float32")
    began = clocks()
    answers = dict(generator.generate(dict(enumerate(asked.rows)), files.stop_ids, Limits(asked.limit)))
    ended = clocks()
    ids = [answers[index].ids for index in range(len(asked.rows))]
    return [files.tokenizer.decode(one) for one in ids], figures_of(began, ended, len(ids), sum(map(len, ids)))


def plain_model(model: Path) -> Any:
    """Load a model with transformers, and merge an adapter into it with PEFT."""
    import torch
    from transformers import AutoModelForCausalLM

    from backends.checkpoint.resolve import open_checkpoint

    files = open_checkpoint(model, default_template="bare")
    plain = AutoModelForCausalLM.from_pretrained(files.base or files.path, dtype=torch.float32)
    if files.base:
        from peft import PeftModel

        plain = PeftModel.from_pretrained(plain, str(files.path)).merge_and_unload()
    return plain.eval()


def batched(asked: Asked, cache: str) -> tuple[list[str], dict[str, float]]:
    """The ``generate`` of transformers on our batches, with one of its caches."""
    import torch
    from transformers.utils import logging

    from backends.checkpoint.resolve import open_checkpoint
    from backends.generation.batching import plan_batches
    from backends.generation.types import BATCH_TOKENS

    use_threads(asked.threads)
    logging.set_verbosity_error()
    files, plain = open_checkpoint(asked.model, default_template="bare"), plain_model(asked.model)
    pad, stop = files.tokenizer.pad_id, set(files.stop_ids)
    answers: dict[int, list[int]] = {}
    began = clocks()
    for batch in plan_batches(dict(enumerate(map(len, asked.rows))), asked.limit, BATCH_TOKENS):
        longest = max(len(asked.rows[index]) for index in batch)
        ids = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(ids)
        for line, seen, index in zip(ids, mask, batch, strict=True):
            line[longest - len(asked.rows[index]) :] = torch.tensor(asked.rows[index])
            seen[longest - len(asked.rows[index]) :] = 1
        whole = plain.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=asked.limit,
            do_sample=False,
            eos_token_id=sorted(stop),
            pad_token_id=pad,
            cache_implementation=cache,
        )
        for index, new in zip(batch, whole[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(new) if token in stop), len(new))
            answers[index] = new[:end]
    ended = clocks()
    ordered = [answers[index] for index in range(len(asked.rows))]
    texts = [files.tokenizer.decode(one) for one in ordered]
    return texts, figures_of(began, ended, len(ordered), sum(map(len, ordered)))


def one_by_one(asked: Asked, sample: int) -> tuple[list[str], dict[str, float]]:
    """transformers.pipeline, a row at a time."""
    from transformers import AutoTokenizer, pipeline
    from transformers.utils import logging

    from backends.checkpoint.resolve import open_checkpoint

    use_threads(asked.threads)
    logging.set_verbosity_error()
    files = open_checkpoint(asked.model, default_template="bare")
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    pipe = pipeline("text-generation", plain_model(asked.model), tokenizer=tokenizer, device="cpu")
    texts = [files.tokenizer.decode(row, skip_special=False) for row in asked.rows[:sample]]
    options = {"max_new_tokens": asked.limit, "do_sample": False, "return_full_text": False}
    began = clocks()
    said = [
        pipe(text, add_special_tokens=False, eos_token_id=files.stop_ids, **options)[0]["generated_text"]
        for text in texts
    ]
    ended = clocks()
    # it returns text alone
    new_tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said)
    return said, figures_of(began, ended, len(said), new_tokens)


def arithmetic(count: int, kinds: str | None) -> list[Any]:
    """Synthesised problems, each a conversation that waits for its answer."""
    from converters.text.conversation import Turn

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.jsonl"
        command = [sys.executable, "-m", "converters.arithmetic", "synthesize", "-o", str(raw), "--rows", str(count)]
        chosen = ["--kinds", kinds] if kinds else []
        subprocess.run([*command, *chosen, "--seed", "11"], cwd=ROOT, check=True, capture_output=True)
        return [[Turn("user", json.loads(line)["problem"])] for line in raw.open(encoding="utf-8")]


def reading(count: int) -> list[Any]:
    """Questions of the shipped reading set, in the form of the ``squad`` template."""
    from converters.text.conversation import Turn
    from eval.squad.data import read_questions

    questions = read_questions(ROOT / "eval" / "data" / "reading.json")[:count]
    return [[Turn("user", f"{question.context}\n\n{question.text}")] for question in questions]


if __name__ == "__main__":
    main()
