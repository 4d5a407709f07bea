"""LoRA fine-tuning on the CPU, three ways, on the same rows and the same model: ``python benchmarks/train_cpu.py``.

* padded: rows padded to 256 tokens, transformers.Trainer and PEFT (what the contest's MindRecord files hold)
* dynamic: rows padded to the longest of the batch, transformers.Trainer and PEFT
* packed: this project's ``backends.cuda train``

A Llama of about 5 million parameters with random weights, LoRA of rank 8 on q and v, float32, batches of 64 arithmetic
rows. The ways take turns; a way's figure is that of its fastest round, since other work on the machine can only slow
it down. Needs transformers, peft and accelerate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH = 64
SEQ_LENGTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2048, help="rows of the packed way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of the padded way (default: %(default)s)")
    parser.add_argument("--template", default="bare", help="template of the rows (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args)
    print(table(figures))
    if args.out:
        from converters.common.files import write_json

        write_json(args.out, figures)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prepare rows and model, let the ways take turns, return the figures."""
    import torch

    from backends.run.environment import code_version, package_versions

    rows_file = make_rows(folder, args.rows)
    model = make_model(folder / "model", rows_file)
    recipe = write_recipe(folder, rows_file, model, args.template)
    with contextlib.redirect_stderr(io.StringIO()):
        from backends.recipe.load import load_recipe
        from backends.run.rows import load_rows

        data = load_rows(load_recipe(recipe))
    ways = {
        "padded": lambda turn: with_trainer(model, data, args.steps, longest=SEQ_LENGTH),
        "dynamic": lambda turn: with_trainer(model, data, 3 * args.steps, longest=None),
        "packed": lambda turn: packed(recipe, folder / f"run-{turn}"),
    }
    best: dict[str, dict[str, float]] = {}
    for turn in range(args.rounds):
        for name, way in ways.items():
            figure = way(turn)
            print(f"round {turn + 1}, {name}: {figure['rows_per_s']:,.1f} rows/s", file=sys.stderr)
            if name not in best or figure["rows_per_s"] > best[name]["rows_per_s"]:
                best[name] = figure
    return {
        "ways": best,
        "speedup_over_padded": best["packed"]["rows_per_s"] / best["padded"]["rows_per_s"],
        "speedup_over_dynamic": best["packed"]["rows_per_s"] / best["dynamic"]["rows_per_s"],
        "tokens_per_row": float(data.tokens.mean()),
        "conditions": {
            "command": " ".join(["python", *sys.argv]),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "packages": package_versions(["torch", "transformers", "peft", "accelerate"]),
            "code": code_version(),
        },
    }


def make_rows(folder: Path, count: int) -> Path:
    """Arithmetic conversations, as the converter makes them."""
    raw, rows = folder / "raw.jsonl", folder / "rows.jsonl"
    convert = [sys.executable, "-m", "converters.arithmetic"]
    quiet = {"cwd": ROOT, "check": True, "capture_output": True}
    subprocess.run([*convert, "synthesize", "-o", str(raw), "--rows", str(3 * count)], **quiet)
    subprocess.run([*convert, "convert", str(raw), "-o", str(rows), "--rows", str(count)], **quiet)
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


def write_recipe(folder: Path, rows: Path, model: Path, template: str) -> Path:
    """The recipe that all three ways follow."""
    recipe = {
        "run_mode": "finetune",
        "load_checkpoint": str(model),
        "runner_config": {"epochs": 1, "batch_size": BATCH},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 1e-4, "warmup_ratio": 0.03},
        "model": {
            "model_config": {
                "seq_length": SEQ_LENGTH,
                "pet_config": {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 16, "target_modules": ".*wq|.*wv"},
            }
        },
        "data": {"train": str(rows), "template": template},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def packed(recipe: Path, run: Path) -> dict[str, float]:
    """Ours: the command itself; its log has the seconds of each step."""
    from backends.cuda.train.run import train
    from backends.recipe.load import load_recipe
    from backends.run.directory import read_log

    with contextlib.redirect_stderr(io.StringIO()):
        train(load_recipe(recipe, [f"output_dir={run}"]), device="cpu")
    log = read_log(run / "train_log.jsonl")[1:]
    return figures_of([row["seconds"] for row in log], [row["tokens"] for row in log])


def with_trainer(model: Path, data: Any, steps: int, longest: int | None) -> dict[str, float]:
    """transformers.Trainer with PEFT; rows padded to ``longest``, or to the longest of their batch."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        """Seconds of each optimizer step."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    order = torch.randperm(len(data.rows), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [data.rows.row(row) for row in order[: steps * BATCH]]

    def collate(batch: list[tuple[Any, Any]]) -> dict[str, torch.Tensor]:
        width = longest or max(len(ids) for ids, _ in batch)
        ids = torch.full((len(batch), width), data.tokenizer.pad_id)
        labels = torch.full((len(batch), width), -100)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for place, (row_ids, row_labels) in enumerate(batch):
            ids[place, : len(row_ids)] = torch.from_numpy(row_ids)
            labels[place, : len(row_ids)] = torch.from_numpy(row_labels)
            mask[place, : len(row_ids)] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model),
        LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=1e-4,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model=tuned, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.train()
    mean = float(data.tokens.mean()) * BATCH
    return figures_of(clock.seconds[1:], [mean] * (steps - 1))


def figures_of(seconds: list[float], tokens: list[float]) -> dict[str, float]:
    """Rows and real tokens a second; the first step of a run was left out as warm-up."""
    return {"rows_per_s": BATCH * len(seconds) / sum(seconds), "tokens_per_s": sum(tokens) / sum(seconds)}


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    from converters.common.console import format_table

    names = {"padded": "padded to 256, Trainer", "dynamic": "padded to the longest, Trainer", "packed": "packed, ours"}
    base = figures["ways"]["padded"]["rows_per_s"]
    rows = [
        [names[name], f"{way['rows_per_s']:,.1f}", f"{way['tokens_per_s']:,.0f}", f"{way['rows_per_s'] / base:.1f} ×"]
        for name, way in figures["ways"].items()
    ]
    text = format_table(["", "rows/s", "real tokens/s", ""], rows)
    threads = figures["conditions"]["threads"]
    return f"{text}\n{figures['tokens_per_row']:.1f} tokens a row on average, {threads} threads"


if __name__ == "__main__":
    main()
