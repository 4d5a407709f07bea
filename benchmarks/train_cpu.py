"""LoRA fine-tuning on the CPU, three ways, on the same rows and the same model: ``python benchmarks/train_cpu.py``.

* padded: rows padded to the recipe's ``seq_length``, transformers.Trainer and PEFT (what the contest's MindRecord
  files hold)
* dynamic: rows padded to the longest of the batch, transformers.Trainer and PEFT
* packed: this project's ``backends.cuda train``

The same rows make the same steps from the same start at the same learning rates, and the losses are compared. The ways
take turns, each in a process of its own; a figure is the best of its rounds, since other work on the machine can only
slow it down, and memory the most of them. Tokens count without padding. Needs transformers, peft and accelerate.

    python benchmarks/train_cpu.py       # a Llama of 5 million random weights, LoRA of rank 8, batches of 64 rows
    python benchmarks/train_cpu.py --model real/base --recipe yaml/smollm2_135m.yaml --style copied --rows 48
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.own_process import conditions, in_own_process, mark_steps, model_directory, use_threads

WAYS = ("padded", "dynamic", "packed")
# Relative difference that two ways may show in the loss of a step.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Work:
    """What every way trains.

    Attributes:
        recipe: its file.
        overrides: of the recipe, with model and rows among them.
        dtype: of the matrix products.
        threads: of torch; 0 leaves the number to torch.
    """

    recipe: Path
    overrides: tuple[str, ...]
    dtype: str
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="lines of the recipe to replace, as for `train`"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR_OR_GGUF",
        help="what is trained (default: a Llama of 5 million random weights)",
    )
    parser.add_argument("--recipe", type=Path, help="of all ways (default: rank 8 on q and v, batches of 64)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2048, help="rows of the packed way (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=4, help="of padded; dynamic takes 3 × as many (default: %(default)s)"
    )
    parser.add_argument("--style", default="worked", help="steps of the rows, as the converter names them")
    parser.add_argument("--template", default="bare", help="template of the rows (default: %(default)s)")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32", help="of the products (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    parser.add_argument("--note", help="kept with the conditions: what else ran on the machine")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make_rows(folder, args.rows, args.style)
        model = model_directory(args.model, folder) if args.model else make_model(folder / "model", rows)
        given = [f"load_checkpoint={model}", f"data.train={rows}", f"data.template={args.template}", *args.overrides]
        work = Work(args.recipe or write_recipe(folder), tuple(given), args.dtype, args.threads)
        figures = measure(work, args.ways, args.rounds, args.steps)
    figures["conditions"] = conditions(args.threads, args.note)
    print(table(figures))
    if args.out:
        from converters.common.files import write_json

        write_json(args.out, figures)
    if figures["largest_loss_difference"] > TOLERANCE[args.dtype]:
        sys.exit("the ways do not train alike")


def measure(work: Work, ways: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Let the ways take turns.

    Args:
        work: what they train.
        ways: of :data:`WAYS`.
        rounds: turns of each way.
        steps: of the padded way; dynamic takes three times as many, and packed all that the rows give.

    Returns:
        The figures of each way and how they compare.
    """
    calls = {
        "padded": (with_trainer, work, steps, True),
        "dynamic": (with_trainer, work, 3 * steps, False),
        "packed": (packed, work),
    }
    best: dict[str, dict[str, float]] = {}
    losses: dict[str, list[float]] = {}
    data: dict[str, Any] = {}
    for turn in range(rounds):
        for name in ways:
            (figure, losses[name], data), peak = in_own_process(*calls[name])
            figure["peak_mb"] = peak
            print(f"round {turn + 1}, {name}: {_words(figure)}", file=sys.stderr)
            before = best.get(name, figure)
            best[name] = {key: max(value, before[key]) for key, value in figure.items()}
    found: dict[str, Any] = {"ways": best, "data": data, "largest_loss_difference": largest_difference(losses)}
    compared = ("rows_per_s", "tokens_per_s", "tokens_per_processor_s", "peak_mb")
    for name in best.keys() - {"packed"} if "packed" in best else ():
        found[f"over_{name}"] = {key: best["packed"][key] / best[name][key] for key in compared}
    return found


def largest_difference(losses: dict[str, list[float]]) -> float:
    """Return the largest relative difference of two ways' losses over the steps that both took; 0 for one way."""
    steps = zip(*losses.values(), strict=False)
    return max((max(step) - min(step)) / abs(max(step)) for step in steps)


def make_rows(folder: Path, count: int, style: str) -> Path:
    """Arithmetic conversations, as the converter makes them."""
    raw, rows = folder / "raw.jsonl", folder / "rows.jsonl"
    convert = [sys.executable, "-m", "converters.arithmetic"]
    quiet = {"cwd": ROOT, "check": True, "capture_output": True}
    subprocess.run([*convert, "synthesize", "-o", str(raw), "--rows", str(3 * count)], **quiet)
    options = ["--rows", str(count), "--steps", style]
    subprocess.run([*convert, "convert", str(raw), "-o", str(rows), *options], **quiet)
    return rows


def make_tokenizer(folder: Path, rows: Path) -> None:
    """A BPE of 4,096 tokens with Llama-3's split pattern: numbers in groups of three digits, rows as long as there."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from converters.tokenizers.tiktoken_file import LLAMA3_PATTERN

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    turns = (turn for line in rows.open(encoding="utf-8") for turn in json.loads(line)["conversations"])
    tokenizer.train_from_iterator((turn["value"] for turn in turns), trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(zip(("bos_token", "eos_token", "pad_token"), names, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_model(folder: Path, rows: Path) -> Path:
    """A Llama of 5 million random parameters."""
    from backends.cuda.model import llama_config, new_model
    from backends.recipe.types import ModelConfig
    from converters.tokenizers.load import load_tokenizer

    make_tokenizer(folder, rows)
    tokenizer = load_tokenizer(folder)
    sizes = ModelConfig(
        hidden_size=256,
        num_layers=6,
        num_heads=4,
        n_kv_heads=2,
        intermediate_size=512,
        vocab_size=4096,
    )
    model = new_model(llama_config(sizes, tokenizer), 0, "sdpa")
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
    model.save_pretrained(folder)
    return folder


def write_recipe(folder: Path) -> Path:
    """The recipe where none is given; model and rows are overrides."""
    recipe = {
        "run_mode": "finetune",
        "runner_config": {"epochs": 1, "batch_size": 64},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 1e-4, "warmup_ratio": 0.03},
        "model": {
            "model_config": {
                "seq_length": 256,
                "pet_config": {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 16, "target_modules": ".*wq|.*wv"},
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def packed(work: Work) -> tuple[dict[str, float], list[float], dict[str, Any]]:
    """Ours: the function under the command; returns figures, losses, and what it trained on."""
    from backends.cuda.train.run import train
    from backends.recipe.load import load_recipe
    from backends.run.directory import read_log
    from backends.run.plan import make_plan, recipe_shape
    from backends.run.rows import load_rows

    use_threads(work.threads)
    marks = mark_steps()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        recipe = load_recipe(work.recipe, [*work.overrides, f"output_dir={folder}/run"])
        run = train(recipe, device="cpu", dtype=work.dtype)
        log = read_log(run.log)
        data = load_rows(recipe)
    plan = make_plan(recipe, recipe_shape(recipe), data=data, cpu_dtype=work.dtype)
    figures = figures_of(marks, [row["tokens"] for row in log], recipe.runner_config.batch_size)
    # beside the peak, to be compared with it
    figures["planned_mb"] = round(plan.predicted_bytes["cpu"] / 1e6)
    return figures, [row["loss"] for row in log], _described(recipe, data)


def with_trainer(work: Work, steps: int, padded: bool) -> tuple[dict[str, float], list[float], dict[str, Any]]:
    """transformers.Trainer with PEFT, from the recipe's start, with its rows, optimizer and learning rates.

    Args:
        work: what is trained.
        steps: at most, where the rows give as many.
        padded: every row to ``seq_length``; else to the longest of its batch.

    Returns:
        Figures, losses, and what it trained on.
    """
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from backends.cuda.model import add_lora
    from backends.recipe.load import load_recipe
    from backends.recipe.schedule import learning_rate, warmup_steps
    from backends.run.rows import load_rows
    from mindrecord.tokens.order import rows_of_step

    use_threads(work.threads)
    losses: list[float] = []

    class InOrder(Trainer):
        """Takes the rows as they come, and keeps the loss of each step before it is rounded for the log."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

        def training_step(self, *args: Any, **more: Any) -> Any:
            loss = super().training_step(*args, **more)
            losses.append(float(loss))
            return loss

    with contextlib.redirect_stderr(io.StringIO()):
        recipe = load_recipe(work.recipe, list(work.overrides))
        data = load_rows(recipe)
    batch, longest = recipe.runner_config.batch_size, recipe.model.model_config.seq_length
    per_epoch = len(data.rows) // batch
    total = per_epoch * recipe.runner_config.epochs
    steps = min(steps, total)
    order = [rows_of_step(len(data.rows), batch, step, recipe.seed, recipe.shuffle) for step in range(steps)]

    def collate(rows: list[tuple[Any, Any]]) -> dict[str, torch.Tensor]:
        width = longest if padded else max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), data.tokenizer.pad_id)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, (row_ids, row_labels) in enumerate(rows):
            ids[place, : len(row_ids)] = torch.from_numpy(row_ids)
            labels[place, : len(row_ids)] = torch.from_numpy(row_labels)
            mask[place, : len(row_ids)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    base = str(recipe.load_checkpoint)
    if recipe.pet is None:
        sys.exit("the recipe has no pet_config; LoRA is what is measured")
    # PEFT's own model, with the start that the recipe's seed gives
    tuned = add_lora(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), recipe.pet, recipe.seed, base)
    adam, wrapper = recipe.optimizer, recipe.runner_wrapper
    optimizer = torch.optim.AdamW(
        [p for p in tuned.parameters() if p.requires_grad],
        lr=1.0,  # times the learning rate of the step
        betas=adam.adam_betas,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        fused=True,
    )
    warmup = warmup_steps(recipe.lr_schedule, total, per_epoch)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(recipe.lr_schedule, min(step, total - 1), total, warmup)
    )
    marks = mark_steps()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=steps,
            max_grad_norm=wrapper.max_grad_norm if wrapper.use_clip_grad else 0.0,
            bf16=work.dtype == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        InOrder(
            model=tuned,
            args=arguments,
            train_dataset=[data.rows.row(int(row)) for rows in order for row in rows],
            data_collator=collate,
            optimizers=(optimizer, rates),
        ).train()
    tokens = [int(data.tokens[rows].sum()) for rows in order]
    return figures_of(marks, tokens, batch), losses, _described(recipe, data)


def figures_of(marks: list[tuple[float, float]], tokens: list[int], batch: int) -> dict[str, float]:
    """Rows and real tokens a second; the first step of a run is left out as warm-up."""
    if len(marks) < 2:
        sys.exit("a way needs two steps, of which the first is left out: more --rows, or a smaller batch")
    seconds, of_processor = (end - start for start, end in zip(marks[0], marks[-1], strict=True))
    count = sum(tokens[1:])
    return {
        "rows_per_s": batch * (len(marks) - 1) / seconds,
        "tokens_per_s": count / seconds,
        "tokens_per_processor_s": count / of_processor,
        "tokens": count,
    }


def _described(recipe: Any, data: Any) -> dict[str, Any]:
    """The rows and settings, as the result keeps them."""
    pet = recipe.pet
    return {
        "rows": len(data.rows),
        "rows_sha256": data.record["rows_sha256"],
        "tokens_per_row": round(float(data.tokens.mean()), 1),
        "batch_size": recipe.runner_config.batch_size,
        "seq_length": recipe.model.model_config.seq_length,
        "micro_batch_tokens": recipe.data.micro_batch_tokens,
        "lora": f"rank {pet.lora_rank} on {pet.target_modules}",
    }


def _words(figure: dict[str, float]) -> str:
    return (
        f"{figure['rows_per_s']:,.1f} rows/s, {figure['tokens_per_processor_s']:,.1f} tokens a processor-second, "
        f"{figure['peak_mb']:,.0f} MB"
    )


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    from converters.common.console import format_table

    names = {
        "padded": "padded to seq_length, Trainer",
        "dynamic": "padded to the longest, Trainer",
        "packed": "packed, ours",
    }
    base = next(iter(figures["ways"].values()))["tokens_per_processor_s"]
    rows = [
        [
            names[name],
            f"{way['rows_per_s']:,.1f}",
            f"{way['tokens_per_s']:,.0f}",
            f"{way['tokens_per_processor_s']:,.0f}",
            f"{way['tokens_per_processor_s'] / base:.1f} ×",
            f"{way['peak_mb']:,.0f} MB",
        ]
        for name, way in figures["ways"].items()
    ]
    text = format_table(["", "rows/s", "real tokens/s", "a processor-second", "", "peak memory"], rows)
    data, threads = figures["data"], figures["conditions"]["threads"]
    return (
        f"{text}\n{data['tokens_per_row']:.1f} tokens a row on average, {threads} threads; "
        f"losses within {figures['largest_loss_difference']:.1e}"
    )


if __name__ == "__main__":
    main()
