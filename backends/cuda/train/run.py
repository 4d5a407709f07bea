"""Training: ``python -m backends.cuda train``. Reads top to bottom; no trainer class.

A loop of its own and not transformers' Trainer, because four promises need the step itself:

* the loss is Σ nll / Σ supervised tokens of the whole step, over micro-batches and processes, exactly;
* a step takes the recipe's rows whatever their layout, so packed, padded and accumulated steps are equal;
* learning rate, AdamW, decay groups and clipping are mindformers', to the step index;
* a resumed run has the bits of an uninterrupted one: rows, learning rate and dropout of a step depend on
  (seed, step) alone, so that weights and moments are all the state there is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.checkpoint.fingerprint import base_fingerprint
from backends.cuda import attention
from backends.cuda.model import (
    add_lora,
    choose_device,
    choose_dtype,
    llama_config,
    new_model,
    read_config,
    read_model,
)
from backends.cuda.processes import Processes, joined, speak
from backends.cuda.train.fused import fuse_lora
from backends.cuda.train.optimizer import Optimizer
from backends.cuda.train.saving import load_weights, save_final_weights, save_weights
from backends.cuda.train.step import Stepper
from backends.recipe.schedule import learning_rate, warmup_steps
from backends.recipe.types import Recipe
from backends.run.directory import Checkpoint, Run, read_log
from backends.run.environment import environment, processor
from backends.run.log import TrainLog
from backends.run.machine import bf16_flags, free_memory, held_memory
from backends.run.plan import fitting_micro_batch, recipe_shape
from backends.run.resume import (
    begin_run,
    check_settings,
    check_weights_named,
    checkpoint_steps,
    checkpoint_to_resume,
    open_run,
    parameters_line,
    remove_old_checkpoints,
    resumed_line,
    saying_how_to_resume,
    steps_of,
    write_environment,
    write_result,
    write_state,
)
from backends.run.rows import NO_DATA, TrainingRows, load_rows, row_names
from backends.weights.model_config import checkpoint_differences
from converters.common.errors import UsageError, UserError
from converters.common.gguf_file import is_gguf
from mindrecord.tokens.order import rows_of_step


def train(recipe: Recipe, *, device: str = "auto", dtype: str = "auto", resume: bool = False) -> Run:
    """Train a recipe into its run directory.

    Args:
        recipe: what to train.
        device: auto, cpu or cuda.
        dtype: auto or the type of the matrix products.
        resume: go on from the last whole checkpoint of the run directory.

    Raises:
        UsageError: weights, data or recipe are missing.
        UserError: the run cannot be started, resumed or finished as asked.
    """
    resume = resume or recipe.resume_training
    run, finished = open_run(recipe, resume, speak)
    if finished:
        return run
    check_inputs(recipe)
    target = choose_device(device)
    with saying_how_to_resume(run), joined(target.type) as processes:
        _train(recipe, run, target, dtype, resume, processes)
    return run


def check_inputs(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be run as it is written, before a row is read.

    Raises:
        UsageError: weights or data are missing.
        UserError: a setting asks for what this backend does not do.
    """
    check_weights_named(recipe, "PATH to a Hugging Face model directory or a GGUF file")
    if weights := recipe.load_checkpoint:
        if Path(weights).is_file() and not is_gguf(weights):
            raise UserError(
                f"load_checkpoint: {weights} is a file; this backend reads Hugging Face model directories and GGUF"
            )
        read_config(weights)
    if not recipe.data.train:
        raise UsageError(NO_DATA)
    config, random_start = recipe.model.model_config, not recipe.load_checkpoint
    heads = config.num_heads
    new_model_only = [
        (config.type != "LlamaConfig", "type", config.type, "LlamaConfig"),
        (config.extend_method != "None", "extend_method", config.extend_method, "None"),
        (config.scaling_factor != 1.0, "scaling_factor", config.scaling_factor, "1.0"),
        (
            config.qkv_has_bias != config.attn_proj_has_bias,
            "qkv_has_bias",
            config.qkv_has_bias,
            f"{config.attn_proj_has_bias}, as attn_proj_has_bias: a new model has both biases or none",
        ),
        (
            config.head_dim is None and config.hidden_size % heads != 0,
            "hidden_size",
            config.hidden_size,
            f"a multiple of num_heads {heads}",
        ),
        (heads % config.kv_heads != 0, "n_kv_heads", config.kv_heads, f"a divisor of num_heads {heads}"),
    ]
    check_settings(
        recipe,
        [(random_start and bad, f"model_config.{key}", found, wanted) for bad, key, found, wanted in new_model_only],
    )


def _train(recipe: Recipe, run: Run, device: torch.device, dtype_name: str, resume: bool, processes: Processes) -> None:
    data = load_rows(recipe, quiet=not processes.first)
    count, batch = len(data.rows), recipe.runner_config.batch_size
    steps_per_epoch, total = steps_of(recipe, count, speak)
    dtype = choose_dtype(
        _dtype_to_resume(run, dtype_name, device, resume),
        recipe.model.model_config.compute_dtype,
        device,
        flags=bf16_flags(),
    )
    if dtype == torch.float16:
        raise UserError("compute_dtype: float16 gradients overflow; set model.model_config.compute_dtype=bfloat16")

    # before anything is written: a run that cannot be trained here leaves nothing
    capacity = _capacity(recipe, data, device, dtype, processes)
    checkpoint = _enter(run, recipe, data, dtype, resume, processes)
    model, packed = build_model(recipe, data, device, dtype)
    threads = torch.get_num_threads()
    if device.type == "cpu" and processes.count == 1 and threads > 1:
        # small matrices leave little to share: with two threads models/tiny is 1.34 times as fast as with one
        speak(
            f"threads: {threads} in one process; torchrun --nproc_per_node {threads} -m backends.cuda train … computes "
            f"small models up to 1.5 times as fast, and holds the weights {threads} times"
        )
    optimizer = Optimizer(model, recipe)
    start = 0
    if checkpoint is not None:
        load_weights(model, checkpoint.path)
        optimizer.load(checkpoint.path / "optimizer.safetensors")
        start = checkpoint.step
        speak(resumed_line(checkpoint, total))
        before, now = checkpoint.state["layout"], layout(recipe, processes)
        if before != now:
            speak(f"layout: {before} before, {now} now: the same run to rounding, not to the bit")
    if processes.first:
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
        here = environment(str(device), device_name, _name(dtype), torch.get_num_threads(), processes.count)
        write_environment(run, here, start)

    # steps behind the checkpoint are trained again, so their lines are dropped
    log = TrainLog(run.log, read_log(run.log)[:start], total, steps_per_epoch) if processes.first else None
    saving = checkpoint_steps(recipe, total)
    warmup = warmup_steps(recipe.lr_schedule, total, steps_per_epoch)
    span = recipe.lr_schedule.total_steps if recipe.lr_schedule.total_steps > 0 else total
    stepper = Stepper(model, recipe, data, device, dtype, packed, processes)
    stepper.capacity = capacity
    model.train()
    for step in range(start, total):
        began = time.perf_counter()
        rate = learning_rate(recipe.lr_schedule, step, span, warmup)
        rows = rows_of_step(count, batch, step, recipe.seed, recipe.shuffle)
        loss = stepper.gradients(rows, step, optimizer)
        norm = float(optimizer.clip_gradients())
        # before the weights move: everything on the disk stays good
        if not np.isfinite(norm):
            raise UserError(
                f"step {step + 1}: the gradient is not finite (loss {loss:.4g}); {row_names(data.rows.ids, rows)}"
            )
        optimizer.step(rate)
        if log is not None:
            log.add(
                step + 1,
                loss=loss,
                rate=rate,
                norm=norm,
                tokens=int(data.tokens[rows].sum()),
                supervised=int(data.supervised[rows].sum()),
                seconds=time.perf_counter() - began,
            )
        if step + 1 in saving and log is not None:
            # the log is on the disk before a checkpoint says that its steps are done
            log.sync()
            _save_checkpoint(run, recipe, model, optimizer, data, dtype, processes, step + 1, total)
    if log is not None:
        log.close()
        # the first process alone writes; the others wait below, so that the group lives until it is done
        _finish(run, recipe, model, log.rows)
    processes.wait()


def _capacity(
    recipe: Recipe, data: TrainingRows, device: torch.device, dtype: torch.dtype, processes: Processes
) -> int:
    """Return the tokens of a micro-batch: the recipe's, or on a CPU as many as its memory holds.

    Raises:
        UserError: not even one row fits the memory.
    """
    wanted = recipe.data.micro_batch_tokens
    # a card says itself when its memory is full, and the kernel only kills
    if device.type != "cpu":
        return wanted
    free = free_memory() / processes.count + held_memory()
    tokens = fitting_micro_batch(recipe, recipe_shape(recipe), data, _name(dtype), free)
    if tokens < wanted:
        speak(
            f"memory: {free / 1e9:.1f} GB can be had, so micro-batches take {tokens:,} tokens, not {wanted:,} "
            "(data.micro_batch_tokens; the maths stays the same)"
        )
    return tokens


def _dtype_to_resume(run: Run, name: str, device: torch.device, resume: bool) -> str:
    """Return ``name``; ``auto`` becomes the type of a run that goes on, where another CPU would choose another one."""
    whole = run.checkpoints() if resume and name == "auto" and device.type == "cpu" else []
    return whole[-1].state["dtype"].removeprefix("torch.") if whole else name


def _enter(
    run: Run,
    recipe: Recipe,
    data: TrainingRows,
    dtype: torch.dtype,
    resume: bool,
    processes: Processes,
) -> Checkpoint | None:
    """Prepare the run directory; return the checkpoint to resume from, or None for a new run."""
    base = base_fingerprint(recipe.load_checkpoint)
    # every process looks before the first one changes the directory
    checkpoint = checkpoint_to_resume(run, data.record, base, _name(dtype), "cuda", resume, speak)
    processes.wait()
    if processes.first:
        begin_run(run, recipe, data, base, checkpoint)
    return checkpoint


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def build_model(recipe: Recipe, data: TrainingRows, device: torch.device, dtype: torch.dtype) -> tuple[Any, bool]:
    """Load or make the model, attach LoRA and put it on the device.

    Args:
        recipe: what to train.
        data: its rows; the longest decides whether a sliding window matters.
        device: where the model goes.
        dtype: type of the matrix products.

    Returns:
        The model, and whether rows are packed.
    """
    config = recipe.model.model_config
    longest = int(data.tokens.max())
    hf_config = read_config(recipe.load_checkpoint) if recipe.load_checkpoint else llama_config(config, data.tokenizer)
    data.check_vocabulary(hf_config.vocab_size)
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
        for line in checkpoint_differences(recipe):
            speak(line)
        model: Any = read_model(recipe.load_checkpoint, held, kind)
    else:
        speak(f"model: random weights from seed {recipe.seed}")
        model = new_model(hf_config, recipe.seed, kind)
    if pet is not None:
        base = str(Path(recipe.load_checkpoint).resolve()) if recipe.load_checkpoint else ""
        model = add_lora(model, pet, recipe.seed, base)
        fuse_lora(model)
    model.to(device)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # parameters of the base alone
    everything = sum(p.numel() for p in model.parameters()) - (trainable if pet is not None else 0)
    speak(parameters_line(trainable, everything))
    return model, obstacle is None


def layout(recipe: Recipe, processes: Processes) -> str:
    """Describe in words what decides how sums are rounded: a resumed run with another layout differs in last bits."""
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
        write_state(
            folder,
            recipe,
            step=step,
            total=total,
            backend="cuda",
            dtype=_name(dtype),
            layout=layout(recipe, processes),
            rows_sha256=data.record["rows_sha256"],
        )
    remove_old_checkpoints(run, recipe)


def _finish(run: Run, recipe: Recipe, model: Any, rows: list[dict[str, Any]]) -> None:
    save_final_weights(model, run.path, recipe.model.model_config.param_init_type)
    write_result(run, recipe, rows, sum(p.numel() for p in model.parameters() if p.requires_grad), speak)
