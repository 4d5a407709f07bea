"""The run directory: everything needed to use, assess and repeat a training run.

::

    RUN/
      adapter_config.json  adapter_model.safetensors   LoRA in PEFT's form
      config.json  model.safetensors                   or, after full-parameter training, a Hugging Face model
      recipe.yaml  template.json  tokenizer files      what made it, and what reads it
      data.json  environment.json                      hashes and audit of the rows; versions and device
      train_log.jsonl  loss.png                        one line a step; the curve
      result.json                                      written last: the run is finished
      checkpoints/step-000123/                         weights, optimizer state, state.json; each whole or absent
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.weights.files import (
    ADAPTER_CONFIG,
    CHECKPOINT_STATE,
    RECIPE,
    RESULT,
    TEMPLATE,
    TRAIN_LOG,
    writing_directory,
)
from converters.common import reader
from converters.common.errors import UsageError
from converters.common.files import write_text
from converters.common.reader import read_json
from converters.text.base import Template

if TYPE_CHECKING:
    from backends.recipe.types import Recipe


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint of a run."""

    path: Path
    step: int

    @cached_property
    def state(self) -> dict[str, Any]:
        """``state.json``: step, totals, dtype and the hashes that a resumed run must share."""
        return read_json(self.path / CHECKPOINT_STATE)


@dataclass(frozen=True)
class Run:
    """A run directory on disk."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run directory.

        Raises:
            UsageError: there is no such directory, or it holds no recipe.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise UsageError(f"{path}: no such run directory")
        if not (run.path / RECIPE).is_file():
            raise UsageError(f"{path}: not a run directory (it has no recipe.yaml)")
        return run

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as run."""
        from backends.recipe.load import load_recipe

        return load_recipe(self.path / RECIPE)

    @cached_property
    def template(self) -> Template:
        """The template that the rows were trained in."""
        # imports numpy, which commands that only name a run do without
        from converters.tokenizers.templates import template_from_json

        return template_from_json(read_json(self.path / TEMPLATE))

    @property
    def log(self) -> Path:
        """The training log, one line for each step."""
        return self.path / TRAIN_LOG

    @property
    def is_adapter(self) -> bool:
        """Whether the product is a LoRA adapter and not a whole model."""
        return (self.path / ADAPTER_CONFIG).is_file()

    @property
    def base(self) -> str | None:
        """The frozen model under the adapter; None for a whole model."""
        if not self.is_adapter:
            return None
        return read_json(self.path / ADAPTER_CONFIG).get("base_model_name_or_path") or self.recipe.load_checkpoint

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says, or None while the run is not finished."""
        file = self.path / RESULT
        return read_json(file) if file.is_file() else None

    def checkpoints(self) -> list[Checkpoint]:
        """Whole checkpoints, oldest first."""
        found = []
        for path in self.path.glob("checkpoints/step-*"):
            number = path.name.removeprefix("step-")
            # nothing can go on from a directory without state.json
            if number.isdigit() and (path / CHECKPOINT_STATE).is_file():
                found.append(Checkpoint(path, int(number)))
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    @contextmanager
    def writing_checkpoint(self, step: int) -> Iterator[Path]:
        """Yield a directory to fill; it becomes ``checkpoints/step-N`` when all is on the disk."""
        final = self.path / "checkpoints" / f"step-{step:06d}"
        with writing_directory(final) as temporary:
            yield temporary

    def remove_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint; renamed first, so that a kill leaves no half of it behind."""
        doomed = checkpoint.path.with_name(f".tmp-old-{checkpoint.path.name}")
        os.replace(checkpoint.path, doomed)
        shutil.rmtree(doomed)

    def remove_unfinished(self) -> None:
        """Delete what a killed process left under temporary names."""
        for path in [*self.path.glob(".tmp-*"), *self.path.glob("checkpoints/.tmp-*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the merged recipe, overrides included, as YAML."""
    import yaml

    write_text(path, yaml.safe_dump(recipe.raw, sort_keys=False, allow_unicode=True))


# settings that change where a run writes and how it lies in memory, but not what it computes
MAY_CHANGE = ("output_dir", "resume_training", "data.micro_batch_tokens", "callbacks", "context")


def changed_settings(before: Recipe, now: Recipe) -> list[str]:
    """List the settings that differ between two recipes and affect the result.

    Args:
        before: the recipe that a run was started with.
        now: the recipe that it would go on with.

    Returns:
        One line for each setting, with both values; empty where the run may go on.
    """
    old, new = before.settings, now.settings
    lines = []
    # of both, since a section that one of them lacks has no keys there
    for key in sorted(old.keys() | new.keys()):
        if key.startswith(MAY_CHANGE) or old.get(key) == new.get(key):
            continue
        lines.append(f"{key}: the run has {old.get(key)!r}, the recipe now says {new.get(key)!r}")
    return lines


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of ``train_log.jsonl``; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    return [row for _, row in reader.read_log(path)[0]]
