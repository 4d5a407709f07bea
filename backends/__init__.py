"""The two ways to train one recipe, CUDA through PEFT and Ascend through mindformers, and what a model can be asked.

The functions below are the ones to call from Python; each is imported when it is first used, so that importing this
package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.checkpoint.resolve import open_checkpoint
    from backends.generation.ask import ask, generate_file
    from backends.generation.perplexity import perplexity
    from backends.generation.registry import load_generator, train
    from backends.generation.types import Limits, Runtime, Sampling
    from backends.recipe.load import load_recipe
    from backends.run.plan import plan

_HOMES = {
    "Limits": "backends.generation.types",
    "Runtime": "backends.generation.types",
    "Sampling": "backends.generation.types",
    "ask": "backends.generation.ask",
    "generate_file": "backends.generation.ask",
    "load_generator": "backends.generation.registry",
    "load_recipe": "backends.recipe.load",
    "open_checkpoint": "backends.checkpoint.resolve",
    "perplexity": "backends.generation.perplexity",
    "plan": "backends.run.plan",
    "train": "backends.generation.registry",
}

__all__ = [
    "Limits",
    "Runtime",
    "Sampling",
    "ask",
    "generate_file",
    "load_generator",
    "load_recipe",
    "open_checkpoint",
    "perplexity",
    "plan",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
