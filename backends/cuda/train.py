"""Training: ``python -m backends.cuda train``. Reads top to bottom; no trainer class.

A loop of its own and not transformers' Trainer, because four promises need the step itself:

* the loss is Σ nll / Σ supervised tokens of the whole step, over micro-batches and processes, exactly;
* a step takes the recipe's rows and packing only lays them out, so packed ≡ padded ≡ accumulated;
* learning rate, AdamW, decay groups and clipping are mindformers', to the step index;
* a resumed run has the bits of an uninterrupted one: rows, learning rate and dropout of a step depend on
  (seed, step) alone, so that weights and moments are all the state there is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.checkpoint import fingerprint, weight_files
from backends.cuda import attention
from backends.cuda.batches import rows_of_step
from backends.cuda.inputs import check_inputs
from backends.cuda.model import (
    add_lora,
    base_differences,
    choose_device,
    choose_dtype,
    llama_config,
    new_model,
    read_config,
    read_model,
)
from backends.cuda.optimizer import Optimizer
from backends.cuda.processes import Processes, joined, speak
from backends.cuda.product import load_weights, save_product, save_weights
from backends.cuda.record import TrainLog, environment, plot_loss
from backends.cuda.step import Stepper, row_names
from backends.recipe import Recipe, load_recipe
from backends.rows import TrainingRows, load_rows
from backends.run import Checkpoint, Run, changed_settings, read_log, write_recipe
from backends.schedule import learning_rate, warmup_steps
from converters.cli import UserError
from converters.files import read_json, write_json


def train(path: str | None, overrides: list[str], *, device: str, dtype: str, resume: bool) -> Path:
    """Train a recipe into its run directory and return that directory.

    Args:
        path: the recipe, or None for the default one.
        overrides: ``key.path=value`` texts.
        device: auto, cpu or cuda.
        dtype: auto or the type of the matrix products.
        resume: go on from the last whole checkpoint of the run directory.

    Raises:
        UsageError: weights, data or recipe are missing.
        UserError: the run cannot be started, resumed or finished as asked.
    """
    recipe = load_recipe(path, overrides)
    resume = resume or recipe.resume_training
    run = Run(Path(recipe.output_dir))
    if (run.path / "recipe.yaml").is_file():
        if not resume:
            raise UserError(
                f"{run.path}: a run of {len(read_log(run.log))} steps is there already; --resume goes on with it, "
                "output_dir=DIR starts another"
            )
        _refuse(run, changed_settings(run.recipe, recipe))
        if run.result is not None:
            speak(f"{run.path}: this run is finished ({run.result['steps']:,} steps); nothing to resume")
            return run.path
    check_inputs(recipe)
    target = choose_device(device)
    with joined(target.type) as processes:
        _train(recipe, run, target, dtype, resume, processes)
    return run.path


def _train(recipe: Recipe, run: Run, device: torch.device, dtype_name: str, resume: bool, processes: Processes) -> None:
    data = load_rows(recipe, quiet=not processes.first)
    count, batch = len(data.rows), recipe.runner_config.batch_size
    steps_per_epoch = count // batch
    if steps_per_epoch == 0:
        raise UserError(f"{count} rows are not one step of runner_config.batch_size {batch}; set it to {count} or less")
    total = steps_per_epoch * recipe.runner_config.epochs
    left_out = count - steps_per_epoch * batch
    speak(
        f"rows: {count:,}; {steps_per_epoch:,} steps of {batch} an epoch, {total:,} in all"
        + (f"; {left_out} rows are left over in each epoch (drop_remainder)" if left_out else "")
    )
    dtype = choose_dtype(dtype_name, recipe.model.model_config.compute_dtype, device)
    if dtype == torch.float16:
        raise UserError("compute_dtype: float16 gradients overflow; set model.model_config.compute_dtype=bfloat16")

    checkpoint = _enter(run, recipe, data, dtype, resume, processes)
    model, packed = build_model(recipe, data, device, dtype)
    optimizer = Optimizer(model, recipe)
    start = 0
    if checkpoint is not None:
        load_weights(model, checkpoint.path)
        optimizer.load(checkpoint.path / "optimizer.safetensors")
        start = checkpoint.step
        speak(f"resumed from {checkpoint.path}: {start:,} steps done, {total - start:,} to go")
        before, now = checkpoint.state["layout"], layout(recipe, processes)
        if before != now:
            speak(f"layout: {before} before, {now} now: the same run to rounding, not to the bit")
    if processes.first:
        _write_environment(run, environment(device, dtype, processes.count), start)

    log = TrainLog(run.log, read_log(run.log)[:start], total) if processes.first else None
    saving = checkpoint_steps(recipe, total)
    warmup = warmup_steps(recipe.lr_schedule, total, steps_per_epoch)
    span = recipe.lr_schedule.total_steps if recipe.lr_schedule.total_steps > 0 else total
    stepper = Stepper(model, recipe, data, device, dtype, packed, processes)
    model.train()
    for step in range(start, total):
        began = time.perf_counter()
        rate = learning_rate(recipe.lr_schedule, step, span, warmup)
        rows = rows_of_step(count, batch, step, recipe.seed, recipe.shuffle)
        loss = stepper.gradients(rows, step, optimizer)
        norm = float(optimizer.gradient_norm())
        if not np.isfinite(norm):
            raise UserError(f"step {step + 1}: the gradient is not finite (loss {loss:.4g}); {row_names(data, rows)}")
        optimizer.step(rate)
        if log is not None:
            tokens = int(data.tokens[rows].sum())
            seconds = time.perf_counter() - began
            log.add(
                {
                    "step": step + 1,
                    "total": total,
                    "epoch": round((step + 1) / steps_per_epoch, 4),
                    "loss": loss,
                    "lr": rate,
                    "grad_norm": norm,
                    "tokens": tokens,
                    "supervised_tokens": int(data.supervised[rows].sum()),
                    "tokens_per_s": round(tokens / seconds, 1),
                    "seconds": round(seconds, 4),
                },
                total,
            )
        if step + 1 in saving and log is not None:
            log.sync()
            _save_checkpoint(run, recipe, model, optimizer, data, dtype, processes, step + 1, total)
    if log is not None:
        log.close()
        _finish(run, recipe, model, log.rows)
    processes.wait()


def _enter(
    run: Run,
    recipe: Recipe,
    data: TrainingRows,
    dtype: torch.dtype,
    resume: bool,
    processes: Processes,
) -> Checkpoint | None:
    """Prepare the run directory; return the checkpoint to go on from, or None to start."""
    checkpoint = None
    base = fingerprint(weight_files(Path(recipe.load_checkpoint))) if recipe.load_checkpoint else None
    if (run.path / "recipe.yaml").is_file():
        before, whole = read_json(run.path / "data.json"), run.checkpoints()
        changes = []
        if before["rows_sha256"] != data.record["rows_sha256"]:
            changes.append(
                f"data: the run has rows {before['rows_sha256'][:12]} of {before['files'][0]['path']}, "
                f"these are {data.record['rows_sha256'][:12]} of {data.record['files'][0]['path']}"
            )
        if before["base"] != base:
            changes.append(f"load_checkpoint: the run is on weights {before['base']}, these are {base}")
        if whole and whole[-1].state["dtype"] != str(dtype):
            changes.append(f"dtype: the run has {whole[-1].state['dtype']}, now it is {dtype}")
        _refuse(run, changes)
        if whole:
            checkpoint = whole[-1]
        else:
            speak(f"{run.path}: no whole checkpoint yet, starting from the beginning")
    elif resume:
        speak(f"{run.path}: nothing to resume there, starting from the beginning")
    processes.wait()
    if processes.first:
        run.path.mkdir(parents=True, exist_ok=True)
        run.remove_unfinished()
        if checkpoint is None:
            write_json(run.path / "data.json", data.record | {"base": base})
            write_json(run.path / "template.json", data.template.to_json())
            data.tokenizer.save(run.path)
            write_recipe(recipe, run.path / "recipe.yaml")
    return checkpoint


def _write_environment(run: Run, now: dict[str, Any], start: int) -> None:
    """Store where the run began, and under ``resumed`` where it went on."""
    file = run.path / "environment.json"
    if start:
        first = read_json(file)
        now = first | {"resumed": [*first.get("resumed", []), {"after_step": start} | now]}
    write_json(file, now)


def build_model(recipe: Recipe, data: TrainingRows, device: torch.device, dtype: torch.dtype) -> tuple[Any, bool]:
    """Load or make the model and attach LoRA; returns it and whether its rows are packed."""
    config = recipe.model.model_config
    longest = int(data.tokens.max())
    hf_config = read_config(recipe.load_checkpoint) if recipe.load_checkpoint else llama_config(config, data.tokenizer)
    highest = int(data.rows.input_ids.max())
    if highest >= hf_config.vocab_size:
        raise UserError(
            f"token id {highest} is outside the model's vocabulary of {hf_config.vocab_size}: "
            f"{data.tokenizer.source} is not this model's tokenizer"
        )
    obstacle = attention.obstacle_to_packing(hf_config, longest) if recipe.data.packing else "data.packing is False"
    if obstacle:
        speak(f"packing: off, rows are padded to the longest of a micro-batch ({obstacle})")
    kind = attention.register() if obstacle is None else "sdpa"
    if getattr(hf_config, "attn_logit_softcapping", None):
        kind = "eager"  # torch's fused attention cannot cap scores
    pet = recipe.pet
    # frozen weights need no more precision than the products; trained ones are kept in float32
    held = torch.float32 if pet is None or device.type == "cpu" else dtype
    if recipe.load_checkpoint:
        for difference in base_differences(recipe, hf_config):
            speak(f"model: the recipe says {difference} in the checkpoint, which is what counts")
        model: Any = read_model(recipe.load_checkpoint, held, kind)
    else:
        speak(f"model: random weights from seed {recipe.seed}")
        model = new_model(hf_config, recipe.seed, kind)
    if pet is not None:
        base = str(Path(recipe.load_checkpoint).resolve()) if recipe.load_checkpoint else ""
        model = add_lora(model, pet, recipe.seed, base)
    model.to(device)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters()) - (trainable if pet is not None else 0)
    speak(f"parameters: {trainable:,} trainable; the base has {everything:,} (ratio {trainable / everything:.6f})")
    return model, obstacle is None


def checkpoint_steps(recipe: Recipe, total: int) -> set[int]:
    """Steps after which a checkpoint is written: every ``save_checkpoint_steps``, or evenly spaced at -1."""
    callback = recipe.checkpoint_callback
    every, keep = int(callback.get("save_checkpoint_steps", -1)), int(callback.get("keep_checkpoint_max", 5))
    if every > 0:
        return {*range(every, total + 1, every), total}
    return {round(total * part / keep) for part in range(1, keep + 1)} - {0}


def layout(recipe: Recipe, processes: Processes) -> str:
    """What decides how sums are rounded, in words."""
    threads = f"{processes.count} processes of {torch.get_num_threads()} threads"
    return f"{threads}, micro-batches of {recipe.data.micro_batch_tokens} tokens"


def _save_checkpoint(
    run: Run,
    recipe: Recipe,
    model: Any,
    optimizer: Optimizer,
    data: TrainingRows,
    dtype: torch.dtype,
    processes: Processes,
    step: int,
    total: int,
) -> None:
    with run.writing_checkpoint(step) as folder:
        save_weights(model, folder)
        optimizer.save(folder / "optimizer.safetensors")
        state = {
            "step": step,
            "total": total,
            "seed": recipe.seed,
            "dtype": str(dtype),
            "layout": layout(recipe, processes),
            "rows_sha256": data.record["rows_sha256"],
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    keep = int(recipe.checkpoint_callback.get("keep_checkpoint_max", 5))
    for old in run.checkpoints()[:-keep]:
        run.remove_checkpoint(old)


def _finish(run: Run, recipe: Recipe, model: Any, rows: list[dict[str, Any]]) -> None:
    save_product(model, run.path, recipe.model.model_config.param_init_type)
    title = f"{run.path.name}: {rows[-1]['step']:,} steps of {recipe.runner_config.batch_size} rows"
    plot_loss(rows, run.path / "loss.png", title)
    seconds = sum(row["seconds"] for row in rows)
    tokens = sum(row["tokens"] for row in rows)
    result = {
        "steps": rows[-1]["step"],
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "tokens": tokens,
        "supervised_tokens": sum(row["supervised_tokens"] for row in rows),
        "seconds": round(seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    write_json(run.path / "result.json", result)
    speak(
        f"{run.path}: {result['steps']:,} steps in {seconds / 60:.1f} min, {result['tokens_per_s']:,.0f} tokens/s, "
        f"loss {rows[0]['loss']:.4f} → {rows[-1]['loss']:.4f}"
    )


def _refuse(run: Run, changes: list[str]) -> None:
    """Refuse to resume with what would make another run of it."""
    if changes:
        rest = f"; and {'; '.join(changes[1:4])}" if len(changes) > 1 else ""
        raise UserError(f"{run.path}: cannot be resumed: {changes[0]}{rest}")
