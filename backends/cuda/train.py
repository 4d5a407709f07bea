"""Training: ``python -m backends.cuda train``. Reads top to bottom; no trainer class.

A loop of its own and not transformers' Trainer, because four promises need the step itself:

* the loss is Σ nll / Σ supervised tokens of the whole step, over micro-batches and processes, exactly;
* a step takes the recipe's rows and packing only lays them out, so packed ≡ padded ≡ accumulated;
* learning rate, AdamW, decay groups and clipping are mindformers', to the step index;
* a resumed run has the bits of an uninterrupted one: rows, learning rate and dropout of a step depend on
  (seed, step) alone, so that weights and moments are all the state there is.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.cuda import attention
from backends.cuda.batches import MicroBatch, micro_batches, rows_of_step, share_of_process
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
from backends.cuda.processes import Processes, joined
from backends.cuda.product import base_record, load_weights, save_product, save_weights
from backends.cuda.record import TrainLog, environment, plot_loss
from backends.recipe import Recipe, load_recipe
from backends.rows import TrainingRows, load_rows
from backends.run import Checkpoint, Run, changed_settings, read_log, write_recipe
from backends.schedule import learning_rate, warmup_steps
from converters.cli import UsageError, UserError, say
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
    run = Run(Path(recipe.output_dir))
    if (resume or recipe.resume_training) and run.result is not None:
        say(f"{run.path}: this run is finished ({run.result['steps']} steps); nothing to resume")
        return run.path
    _check_inputs(recipe)
    target = choose_device(device)
    with joined(target.type) as processes:
        _train(recipe, run, target, dtype, resume or recipe.resume_training, processes)
    return run.path


def _check_inputs(recipe: Recipe) -> None:
    if recipe.run_mode == "finetune" and not recipe.load_checkpoint:
        raise UsageError(
            "no weights: set load_checkpoint=DIR to a Hugging Face model directory "
            "(run_mode=train starts from random weights)"
        )
    if recipe.load_checkpoint:
        read_config(recipe.load_checkpoint)


def _train(recipe: Recipe, run: Run, device: torch.device, dtype_name: str, resume: bool, processes: Processes) -> None:
    speak = say if processes.first else (lambda _: None)
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

    checkpoint = _enter(run, recipe, data, dtype, resume, processes, speak)
    model, packed = build_model(recipe, data, device, dtype, speak)
    optimizer = Optimizer(model, recipe)
    start = 0
    if checkpoint is not None:
        load_weights(model, checkpoint.path)
        optimizer.load(checkpoint.path / "optimizer.safetensors")
        start = checkpoint.step
        speak(f"resumed from {checkpoint.path}: {start:,} steps done, {total - start:,} to go")
    if processes.first:
        write_json(run.path / "environment.json", environment(device, dtype, processes.count))

    log = (
        TrainLog(run.path / "train_log.jsonl", read_log(run.path / "train_log.jsonl")[:start], total)
        if processes.first
        else None
    )
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
            raise UserError(f"step {step + 1}: the gradient is not finite (loss {loss:.4g}); {_ids(data, rows)}")
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
        if step + 1 in saving and processes.first:
            _save_checkpoint(run, recipe, model, optimizer, data, dtype, processes, step + 1, total)
    if log is not None:
        log.close()
        _finish(run, recipe, model, log.rows, speak)
    processes.wait()


def _enter(
    run: Run,
    recipe: Recipe,
    data: TrainingRows,
    dtype: torch.dtype,
    resume: bool,
    processes: Processes,
    speak: Any,
) -> Checkpoint | None:
    """Prepare the run directory; return the checkpoint to go on from, or None to start."""
    checkpoint = None
    if (run.path / "recipe.yaml").is_file():
        if not resume:
            done = len(read_log(run.path / "train_log.jsonl"))
            raise UserError(
                f"{run.path}: a run of {done} steps is there already; --resume goes on with it, "
                "output_dir=DIR starts another"
            )
        changes = changed_settings(run.recipe, recipe)
        before = read_json(run.path / "data.json")
        if before["rows_sha256"] != data.record["rows_sha256"]:
            changes.append(
                f"data: the run has rows {before['rows_sha256'][:12]} of {before['files'][0]['path']}, "
                f"now they are {data.record['rows_sha256'][:12]}"
            )
        whole = run.checkpoints()
        checkpoint = whole[-1] if whole else None
        if checkpoint is not None and checkpoint.state["dtype"] != str(dtype):
            changes.append(f"dtype: the run has {checkpoint.state['dtype']!r}, now it is {str(dtype)!r}")
        if changes:
            raise UserError(f"{run.path}: cannot be resumed, {changes[0]}" + _more(changes))
        if checkpoint is None:
            speak(f"{run.path}: no whole checkpoint yet, starting from the beginning")
    elif resume:
        speak(f"{run.path}: nothing to resume there, starting from the beginning")
    processes.wait()
    if processes.first:
        run.path.mkdir(parents=True, exist_ok=True)
        run.remove_unfinished()
        if checkpoint is None:
            record = {**data.record, "base": base_record(recipe.load_checkpoint) if recipe.load_checkpoint else None}
            write_json(run.path / "data.json", record)
            write_json(run.path / "template.json", data.template.to_json())
            data.tokenizer.save(run.path)
            write_recipe(recipe, run.path / "recipe.yaml")
    return checkpoint


def build_model(
    recipe: Recipe, data: TrainingRows, device: torch.device, dtype: torch.dtype, speak: Any
) -> tuple[Any, bool]:
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
    model.config.use_cache = False
    if pet is not None:
        base = str(Path(recipe.load_checkpoint).resolve()) if recipe.load_checkpoint else ""
        model = add_lora(model, pet, recipe.seed, base)
    model.to(device)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters()) - (trainable if pet is not None else 0)
    speak(f"parameters: {trainable:,} trainable; the base has {everything:,} (ratio {trainable / everything:.6f})")
    return model, obstacle is None


class Stepper:
    """Forward and backward passes of one optimizer step, in micro-batches that fit the memory."""

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        data: TrainingRows,
        device: torch.device,
        dtype: torch.dtype,
        packed: bool,
        processes: Processes,
    ) -> None:
        self.model, self.data, self.device, self.packed = model, data, device, packed
        self.dtype, self.processes, self.seed = dtype, processes, recipe.seed
        self.capacity = recipe.data.micro_batch_tokens

    def gradients(self, rows: np.ndarray, step: int, optimizer: Optimizer) -> float:
        """Leave the step's gradient in the parameters and return its loss, both over all processes.

        Raises:
            UserError: the loss is not finite, or one row alone is too much for the memory.
        """
        supervised = int(self.data.supervised[rows].sum())
        if supervised == 0:
            raise UserError(f"step {step + 1}: none of its {len(rows)} rows has a supervised token")
        share = share_of_process(rows, self.data.rows.lengths, self.processes.index, self.processes.count)
        while True:
            try:
                loss = self._accumulate(share, step, supervised)
                break
            except torch.OutOfMemoryError:
                optimizer.clear()
                self._shrink(share)
        loss = self.processes.sum(loss, self.device)
        if not np.isfinite(loss):
            raise UserError(f"step {step + 1}: the loss is {loss}; {self._culprits(share)}")
        self.processes.sum_gradients(optimizer.parameters)
        return loss

    def _accumulate(self, rows: np.ndarray, step: int, supervised: int) -> float:
        # dropout of a step depends on nothing that happened before it
        key = hashlib.sha256(f"{self.seed}/{step}/{self.processes.index}".encode()).digest()
        torch.manual_seed(int.from_bytes(key[:8], "little", signed=True))
        total = 0.0
        for batch in micro_batches(
            self.data.rows,
            rows,
            self.capacity,
            self.device,
            packed=self.packed,
            pad_id=self.data.tokenizer.pad_id,
        ):
            if len(batch.targets) == 0:
                continue
            loss = sum_nll(self.model, batch, self.dtype) / supervised
            loss.backward()
            total += float(loss.detach())
        return total

    def _shrink(self, rows: np.ndarray) -> None:
        torch.cuda.empty_cache()
        longest = int(self.data.tokens[rows].max())
        if self.capacity > longest:
            self.capacity = max(longest, min(self.capacity, int(self.data.tokens[rows].sum())) // 2)
            say(f"out of memory: micro-batches of {self.capacity:,} tokens from here on (the maths stays the same)")
        elif not self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
            say("out of memory: activation checkpointing is on from here on (slower, the maths stays the same)")
        else:
            raise UserError(
                f"out of memory with one row of {longest:,} tokens at a time; lower model.model_config.seq_length"
            )

    def _culprits(self, rows: np.ndarray) -> str:
        """Name the rows whose own loss is not finite."""
        bad = []
        with torch.no_grad():
            for row in rows:
                (batch,) = micro_batches(
                    self.data.rows, np.array([row]), self.capacity, self.device, packed=self.packed, pad_id=0
                )
                if len(batch.targets) and not torch.isfinite(sum_nll(self.model, batch, self.dtype)):
                    bad.append(row)
        return _ids(self.data, np.array(bad if bad else rows))


def sum_nll(model: Any, batch: MicroBatch, dtype: torch.dtype) -> torch.Tensor:
    """Σ −log p(next token) over the supervised positions of a micro-batch, in nats; a float32 scalar.

    Logits are computed at supervised positions only, [k, vocabulary], and the loss in float32.
    """
    device = batch.input_ids.device
    lower = dtype != torch.float32
    with torch.autocast(device.type, dtype=dtype) if lower else nullcontext():
        if batch.layout is not None:
            logits = model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                logits_to_keep=batch.supervised,
                packed_rows=batch.layout,
            ).logits[0]
        else:
            logits = model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
            ).logits.flatten(0, 1)[batch.supervised]
    return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="sum")


def checkpoint_steps(recipe: Recipe, total: int) -> set[int]:
    """Steps after which a checkpoint is written: every ``save_checkpoint_steps``, or evenly spaced at -1."""
    callback = recipe.checkpoint_callback
    every, keep = int(callback.get("save_checkpoint_steps", -1)), int(callback.get("keep_checkpoint_max", 5))
    if every > 0:
        return {*range(every, total + 1, every), total}
    return {round(total * part / keep) for part in range(1, keep + 1)} - {0}


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
            "processes": processes.count,
            "rows_sha256": data.record["rows_sha256"],
        }
        (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    keep = int(recipe.checkpoint_callback.get("keep_checkpoint_max", 5))
    for old in run.checkpoints()[:-keep]:
        run.remove_checkpoint(old)


def _finish(run: Run, recipe: Recipe, model: Any, rows: list[dict[str, Any]], speak: Any) -> None:
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


def _ids(data: TrainingRows, rows: np.ndarray) -> str:
    names = ", ".join(str(data.rows.ids[int(row)]) for row in rows[:5])
    return f"rows {names}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _more(changes: list[str]) -> str:
    return f" (and {len(changes) - 1} more: {'; '.join(changes[1:4])})" if len(changes) > 1 else ""
