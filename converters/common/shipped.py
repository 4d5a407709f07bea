"""Finds what the project ships beside its code: the recipes of ``yaml/`` and the small base ``models/tiny``.

In a checkout both stand at the top of the repository; the wheel carries them as ``converters/shipped``. What the user
has under the same name in the current directory always comes first.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from converters.common.console import say

_IN_WHEEL = Path(__file__).resolve().parents[1] / "shipped"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).resolve().parents[2]
"""The folder that holds the shipped ``yaml`` and ``models``."""

DEFAULT_RECIPE = SHIPPED / "yaml" / "llama3_lora.yaml"


def shipped_recipes() -> list[str]:
    """Return the names of the shipped recipes, such as ``yaml/demo.yaml``."""
    return sorted(f"yaml/{file.name}" for file in (SHIPPED / "yaml").glob("*.yaml"))


def locate_recipe(name: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe, a shipped one where the user has none of that name.

    Args:
        name: a path, or a shipped recipe as ``yaml/demo.yaml``, ``demo.yaml`` or ``demo``.

    Returns:
        ``name`` itself if it is a file or no shipped recipe has that name.
    """
    given = Path(name)
    if given.is_file() or given.parent not in (Path(), Path("yaml")):
        return given
    found = SHIPPED / "yaml" / (given.name if given.suffix == ".yaml" else f"{given.name}.yaml")
    if not found.is_file():
        return given
    _say_once(str(given), found)
    return found


def locate_model(path: str | os.PathLike[str]) -> str:
    """Return a model's path; ``models/tiny``, or a file in it, is the shipped one where the user has none.

    Args:
        path: of a model or a tokenizer, as the user gave it; it is returned unchanged when it is not a shipped one.
    """
    given = Path(path)
    found = SHIPPED / given
    if given.parts[:2] != ("models", "tiny") or given.exists() or not found.exists():
        return os.fspath(path)
    _say_once(str(given), found)
    return str(found)


# one note for each file, however often a command looks it up
@cache
def _say_once(name: str, found: Path) -> None:
    say(f"{name}: not in this directory; the shipped one is used ({found})")
