"""Training: ``python -m backends.ascend train``.

mindformers' own Trainer does the training, in graph mode. This module prepares what makes its loss curve equal to the
CUDA backend's (the same rows in the same order, the same start, the same step) and what a run directory holds.
"""

from __future__ import annotations

import math
from pathlib import Path

from backends.ascend.device import choose, speak
from backends.ascend.sizes import lora_shapes, model_sizes, parameter_shapes
from backends.ascend.train.job import FOLDER, Job, layout_of, write_job
from backends.ascend.train.parallel import check_recipe, parallel_layout
from backends.ascend.train.rows import data_file, read_training_rows
from backends.ascend.train.start_weights import write_start
from backends.checkpoint.fingerprint import base_fingerprint
from backends.recipe.types import Recipe
from backends.run.directory import Run
from backends.run.environment import ASCEND_PACKAGES, environment, processor
from backends.run.machine import cpu_threads
from backends.run.resume import (
    begin_run,
    check_weights_named,
    checkpoint_to_resume,
    open_run,
    parameters_line,
    resumed_line,
    saying_how_to_resume,
    steps_of,
    write_environment,
)
from backends.weights.files import MODEL_CONFIG
from backends.weights.model_config import has_config
from converters.common.errors import UsageError, UserError


def train(recipe: Recipe, *, device: str = "auto", resume: bool = False, workers: int = 1) -> Run:
    """Train a recipe into its run directory.

    Args:
        recipe: what to train.
        device: auto, npu or cpu.
        resume: go on from the last whole checkpoint of the run directory.
        workers: processes, one a card.

    Raises:
        UsageError: weights, data or recipe are missing.
        UserError: the run cannot be started, resumed or finished as asked.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1")
    resume = resume or recipe.resume_training
    run, finished = open_run(recipe, resume, speak)
    if finished:
        return run
    sizes = check_inputs(recipe)
    parameters = sum(math.prod(shape) for shape in parameter_shapes(sizes).values())
    # without LoRA there are no such shapes, and everything is trained
    trainable = sum(math.prod(shape) for shape in lora_shapes(sizes, recipe).values()) or parameters
    target = choose(device, parameters)
    check_recipe(recipe, target, workers)
    # no worker has the whole state, so this backend writes no checkpoint of such a run
    if (run.path / "recipe.yaml").is_file() and parallel_layout(recipe, workers) == "recipe":
        raise UserError(
            f"{run.path}: a run whose model is cut over cards cannot be resumed; `unshard` joins what is in "
            f"{run.path}/{FOLDER}/checkpoint, and load_checkpoint=FILE output_dir=DIR starts from it"
        )
    speak(parameters_line(trainable, parameters))
    job = prepare(recipe, run, sizes, target, resume, workers)
    with saying_how_to_resume(run):
        if workers > 1:
            from backends.ascend.train.launch import launch

            launch(run, job)
        else:
            from backends.ascend.train.worker import work

            work(job)
    return run


def check_inputs(recipe: Recipe) -> dict:
    """Refuse weights that are missing or that mindformers' Llama cannot hold.

    Returns:
        The model's sizes, as :func:`backends.ascend.sizes.model_sizes`.

    Raises:
        UsageError: there are no weights, or nothing is at the path.
        UserError: a setting asks for what cannot be done.
    """
    weights = recipe.load_checkpoint
    check_weights_named(recipe, "PATH to a Hugging Face model directory, a GGUF file or a mindformers checkpoint")
    if weights and not Path(weights).exists():
        raise UsageError(f"load_checkpoint: {weights}: no such file or directory")
    if weights and Path(weights).is_dir() and not has_config(weights):
        raise UsageError(f"{weights}: no {MODEL_CONFIG} there; a Hugging Face model directory is expected")
    return model_sizes(recipe)


def prepare(recipe: Recipe, run: Run, sizes: dict, device: str, resume: bool, workers: int) -> Path:
    """Put rows, weights and settings into the run directory.

    Args:
        recipe: what to train.
        run: the run directory.
        sizes: of the model.
        device: ``npu`` or ``cpu``.
        resume: continue from the last whole checkpoint.
        workers: number of processes.

    Returns:
        The file of the job, which each process reads.
    """
    data = read_training_rows(recipe)
    steps_per_epoch, total = steps_of(recipe, len(data.rows), speak)
    data.check_vocabulary(sizes["vocab_size"])
    if recipe.data.packing and not data.record.get("packed"):
        seq_length = recipe.model.model_config.seq_length
        speak(f"packing: off, rows are padded to {seq_length} tokens (`mindrecord write --pack` packs a file)")
    dtype = "float32" if device == "cpu" else recipe.model.model_config.compute_dtype
    base = base_fingerprint(recipe.load_checkpoint)
    checkpoint = checkpoint_to_resume(run, data.record, base, dtype, "ascend", resume, speak)
    begin_run(run, recipe, data, base, checkpoint)
    # several workers with a whole model each read no safetensors
    form = "ckpt" if parallel_layout(recipe, workers) == "data" else "safetensors"
    stored = "float32" if device == "cpu" else recipe.model.model_config.param_init_type
    # workers on the CPU share its cores
    threads = max(1, cpu_threads() // workers) if device == "cpu" else cpu_threads()
    folder = run.path / FOLDER
    job = Job(
        run=str(run.path.resolve()),
        device=device,
        dtype=dtype,
        sizes=sizes,
        rows=len(data.rows),
        steps=total,
        steps_per_epoch=steps_per_epoch,
        first_step=checkpoint.step if checkpoint else 0,
        checkpoint=str(checkpoint.path.resolve()) if checkpoint else None,
        data=str(data_file(recipe, data, folder).resolve()),
        start=str(write_start(recipe, sizes, folder / "start", stored, form).resolve()),
        base=str(Path(recipe.load_checkpoint).resolve()) if recipe.load_checkpoint else "",
        pad_id=data.tokenizer.pad_id,
        bos_id=data.tokenizer.bos_id,
        packed=bool(data.record.get("packed")),
        workers=workers,
        threads=threads,
    )
    if checkpoint is not None:
        speak(resumed_line(checkpoint, total))
        if checkpoint.state["layout"] != layout_of(job):
            speak("workers or threads differ from before: the same run to rounding, not to the bit")
        if recipe.pet is not None and recipe.pet.lora_dropout > 0:
            speak("lora_dropout is drawn anew: a resumed run is not the uninterrupted one to the bit")
    name = processor() if device == "cpu" else "Ascend"
    write_environment(run, environment(device, name, dtype, job.threads, workers, ASCEND_PACKAGES), job.first_step)
    return write_job(job, data)
