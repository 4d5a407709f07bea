"""Checking, starting, resuming and finishing a run: what both backends refuse and the files that both write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.recipe.schedule import learning_rate
from backends.recipe.types import Recipe
from backends.run.directory import Checkpoint, Run, changed_settings, read_log, write_recipe
from backends.run.log import plot_loss
from backends.run.rows import TrainingRows
from backends.weights.files import CHECKPOINT_STATE, DATA_RECORD, ENVIRONMENT, LOSS_PLOT, RECIPE, RESULT, TEMPLATE
from backends.weights.lora import target_layers
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.common.reader import read_json

Speak = Callable[[str], None]

ADAMW = ("AdamW", "FP32StateAdamWeightDecay", "AdamWeightDecay", "FusedAdamW")
"""Names of AdamW in mindformers, past and present."""

Refusal = tuple[bool, str, Any, str]
"""Whether a setting is refused, its key, what was found, and what is done instead."""


def check_weights_named(recipe: Recipe, kinds: str) -> None:
    """Refuse a fine-tuning recipe that names no weights.

    Args:
        recipe: what is to be run.
        kinds: what ``load_checkpoint`` may be, for the message.

    Raises:
        UsageError: no weights are named.
    """
    if recipe.run_mode == "finetune" and not recipe.load_checkpoint:
        raise UsageError(f"no weights: set load_checkpoint={kinds} (run_mode=train starts from random weights)")


def check_settings(recipe: Recipe, more: Iterable[Refusal] = ()) -> None:
    """Refuse settings that no backend supports, and those that this backend does not.

    Args:
        recipe: what is to be run.
        more: what this backend refuses beyond that.

    Raises:
        UserError: LoRA names no layer, the schedule is not known, or a setting is not supported; the message says what
            was found and what is done instead.
    """
    if recipe.pet is not None:
        target_layers(recipe.pet)
    # called for its error: an unknown schedule should not come up after the data was read
    learning_rate(recipe.lr_schedule, 0, 1, 0)
    optimizer, rate = recipe.optimizer.type, recipe.optimizer.learning_rate
    refusals: list[Refusal] = [
        (optimizer not in ADAMW, "optimizer.type", optimizer, "AdamW"),
        (rate not in (None, recipe.lr_schedule.learning_rate), "optimizer.learning_rate", rate, "lr_schedule's alone"),
        (recipe.layer_scale, "layer_scale", recipe.layer_scale, "False"),
        (recipe.lr_scale, "lr_scale", recipe.lr_scale, "False"),
        (recipe.do_eval, "do_eval", recipe.do_eval, "False; evaluate the run afterwards"),
        *more,
    ]
    for refused, key, found, wanted in refusals:
        if refused:
            raise UserError(f"{key}: found {found!r}; this backend does {wanted}")
    if not recipe.train_dataset.get("drop_remainder", True):
        raise UserError("train_dataset.drop_remainder: found False; this backend does True (steps of equal weight)")


def open_run(recipe: Recipe, resume: bool, speak: Speak) -> tuple[Run, bool]:
    """Open the run directory of a recipe and tell whether its training is finished.

    Args:
        recipe: names the directory (``output_dir``).
        resume: go on with a run that is there.
        speak: prints one line.

    Returns:
        The run, which need not exist yet, and whether it is finished.

    Raises:
        UserError: a run is there, and ``resume`` is not set or the recipe differs from the run's.
    """
    run = Run(Path(recipe.output_dir))
    # begin_run writes the recipe last: without it no run has begun here
    if not (run.path / RECIPE).is_file():
        return run, False
    if not resume:
        raise UserError(
            f"{run.path}: a run of {len(read_log(run.log))} steps is there already; --resume goes on with it, "
            "output_dir=DIR starts another"
        )
    _refuse(run, changed_settings(run.recipe, recipe))
    if run.result is None:
        return run, False
    speak(f"{run.path}: this run is finished ({run.result['steps']:,} steps); nothing to resume")
    return run, True


@contextmanager
def saying_how_to_resume(run: Run) -> Iterator[None]:
    """Add to a KeyboardInterrupt how the run can be resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        whole = run.checkpoints()
        place = f"after step {whole[-1].step:,}" if whole else "from the beginning: there is no checkpoint yet"
        raise KeyboardInterrupt(f"{run.path}: the same command with --resume goes on {place}") from stop


def steps_of(recipe: Recipe, count: int, speak: Speak) -> tuple[int, int]:
    """Return the number of steps of one epoch, and of the whole run.

    Args:
        recipe: says the rows of a step and the epochs.
        count: number of rows.
        speak: prints one line.

    Raises:
        UserError: there are fewer rows than one step takes.
    """
    batch = recipe.runner_config.batch_size
    # rows that do not fill a step are left out, so that every step weighs the same
    steps_per_epoch = count // batch
    if steps_per_epoch == 0:
        raise UserError(f"{count} rows are not one step of runner_config.batch_size {batch}; set it to {count} or less")
    total = steps_per_epoch * recipe.runner_config.epochs
    left_out = count - steps_per_epoch * batch
    speak(
        f"rows: {count:,}; {steps_per_epoch:,} steps of {batch} an epoch, {total:,} in all"
        + (f"; {left_out} rows are left over in each epoch (drop_remainder)" if left_out else "")
    )
    return steps_per_epoch, total


def checkpoint_to_resume(
    run: Run, record: dict[str, Any], base: str | None, dtype: str, backend: str, resume: bool, speak: Speak
) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None to start from the beginning.

    Args:
        run: the run directory, which may not exist yet.
        record: of the rows, as ``data.json`` holds it.
        base: fingerprint of the weights that training starts from.
        dtype: of the matrix products.
        backend: ``cuda`` or ``ascend``.
        resume: whether that was asked for.
        speak: prints one line.

    Raises:
        UserError: rows, weights, dtype or backend are not the run's.
    """
    if not (run.path / RECIPE).is_file():
        if resume:
            speak(f"{run.path}: nothing to resume there, starting from the beginning")
        return None
    before, whole = read_json(run.path / DATA_RECORD), run.checkpoints()
    changes = []
    trained, now = before.get("template") or {}, record["template"]
    # a model's own chat template can change without a word in the recipe
    if trained and trained["hash"] != now["hash"]:
        changes.append(
            f"template: the run is in {trained['name']} ({trained['hash'][:8]}), this is {now['name']} "
            f"({now['hash'][:8]})"
        )
    if before["rows_sha256"] != record["rows_sha256"]:
        changes.append(
            f"data: the run has rows {before['rows_sha256'][:12]} of {before['files'][0]['path']}, "
            f"these are {record['rows_sha256'][:12]} of {record['files'][0]['path']}"
        )
    if before["base"] != base:
        changes.append(f"load_checkpoint: the run is on weights {before['base']}, these are {base}")
    if whole:
        state = whole[-1].state
        # each backend stores the moments under names of its own, which the other cannot read
        if state.get("backend", "cuda") != backend:
            changes.append(f"backend: the run was trained by backends.{state.get('backend', 'cuda')}")
        elif state["dtype"].removeprefix("torch.") != dtype:
            changes.append(f"dtype: the run has {state['dtype'].removeprefix('torch.')}, now it is {dtype}")
    _refuse(run, changes)
    if not whole:
        speak(f"{run.path}: no whole checkpoint yet, starting from the beginning")
        return None
    return whole[-1]


def begin_run(run: Run, recipe: Recipe, data: TrainingRows, base: str | None, checkpoint: Checkpoint | None) -> None:
    """Prepare the run directory: make it, and remove what a killed process left.

    A run that starts from the beginning also gets its data record, template, tokenizer and recipe.

    Args:
        run: the run directory.
        recipe: of the run.
        data: its training rows.
        base: fingerprint of the weights that training starts from; None for random ones.
        checkpoint: where the run goes on; None starts from the beginning.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    run.remove_unfinished()
    if checkpoint is not None:
        return
    write_json(run.path / DATA_RECORD, data.record | {"base": base})
    write_json(run.path / TEMPLATE, data.template.to_json())
    data.tokenizer.save(run.path)
    # last: a directory counts as a run once it holds the recipe, and then it holds the rest
    write_recipe(recipe, run.path / RECIPE)


def write_state(
    folder: Path, recipe: Recipe, *, step: int, total: int, backend: str, dtype: str, layout: str, rows_sha256: str
) -> None:
    """Write ``state.json`` of a checkpoint: what a run that goes on from it must share.

    Args:
        folder: of the checkpoint.
        recipe: of the run.
        step: steps done.
        total: steps of the whole run.
        backend: ``cuda`` or ``ascend``.
        dtype: of the matrix products.
        layout: what decides how sums are rounded, in words.
        rows_sha256: of the training rows.
    """
    state = {
        "step": step,
        "total": total,
        "seed": recipe.seed,
        "backend": backend,
        "dtype": dtype,
        "layout": layout,
        "rows_sha256": rows_sha256,
    }
    write_json(folder / CHECKPOINT_STATE, state)


def parameters_line(trainable: int, base: int) -> str:
    """Return the line that says how many parameters are trained, and how many the base has."""
    return f"parameters: {trainable:,} trainable; the base has {base:,} (ratio {trainable / base:.6f})"


def resumed_line(checkpoint: Checkpoint, total: int) -> str:
    """Return the line that says from which step a run of ``total`` steps goes on."""
    left = total - checkpoint.step
    return f"resumed from {checkpoint.path}: {checkpoint.step:,} steps done, {left:,} to go"


def write_environment(run: Run, now: dict[str, Any], start: int) -> None:
    """Write ``environment.json``; a resumed run adds its environment under ``resumed``.

    Args:
        run: the run directory.
        now: of this process (:func:`backends.run.environment.environment`).
        start: steps done before this process; 0 for a new run.
    """
    file = run.path / ENVIRONMENT
    if start:
        first = read_json(file)
        # added and not replaced: the earlier steps were computed in the earlier environment
        now = first | {"resumed": [*first.get("resumed", []), {"after_step": start} | now]}
    write_json(file, now)


def checkpoint_steps(recipe: Recipe, total: int) -> set[int]:
    """Return the steps after which a checkpoint is written: every ``save_checkpoint_steps``, or at -1 evenly spaced.

    Args:
        recipe: its ``CheckpointMonitor`` says how often, and how many checkpoints are kept.
        total: steps of the whole run; the last one always has a checkpoint.

    Returns:
        Numbers of steps, from 1.
    """
    callback = recipe.checkpoint_callback
    every, keep = int(callback.get("save_checkpoint_steps", -1)), kept_checkpoints(recipe)
    if every > 0:
        # the last step as well, as in mindformers' CheckpointMonitor
        return {*range(every, total + 1, every), total}
    # a run of fewer steps than checkpoints rounds to 0, before which there is nothing to keep
    return {round(total * part / keep) for part in range(1, keep + 1)} - {0}


def kept_checkpoints(recipe: Recipe) -> int:
    """Return how many checkpoints stay on the disk."""
    # 5 is mindformers' default
    return int(recipe.checkpoint_callback.get("keep_checkpoint_max", 5))


def remove_old_checkpoints(run: Run, recipe: Recipe) -> None:
    """Delete all but the newest checkpoints."""
    # the recipe makes sure that it is at least 1: [:-0] would be empty
    for old in run.checkpoints()[: -kept_checkpoints(recipe)]:
        run.remove_checkpoint(old)


def write_result(run: Run, recipe: Recipe, rows: list[dict[str, Any]], trainable: int, speak: Speak) -> None:
    """Draw the loss curve and write ``result.json``, which marks the run as finished.

    Args:
        run: the run directory.
        recipe: of the run.
        rows: of the training log, resumed parts included.
        trainable: number of trained parameters.
        speak: prints one line.
    """
    title = f"{run.path.name}: {rows[-1]['step']:,} steps of {recipe.runner_config.batch_size} rows"
    # before the result, after which everything else is expected to be there
    plot_loss(rows, run.path / LOSS_PLOT, title)
    # of the steps alone: a run that was resumed also has pauses
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
        "trainable_parameters": trainable,
    }
    write_json(run.path / RESULT, result)
    speak(
        f"{run.path}: {result['steps']:,} steps in {seconds / 60:.1f} min, {result['tokens_per_s']:,.0f} tokens/s, "
        f"loss {rows[0]['loss']:.4f} → {rows[-1]['loss']:.4f}"
    )


def _refuse(run: Run, changes: list[str]) -> None:
    """Refuse to resume when anything that affects the result has changed."""
    if changes:
        rest = f"; and {'; '.join(changes[1:4])}" if len(changes) > 1 else ""
        raise UserError(f"{run.path}: cannot be resumed: {changes[0]}{rest}")
