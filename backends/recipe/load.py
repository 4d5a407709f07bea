"""Reading a recipe: a mindformers YAML plus one block ``data:``, checked and returned as types.

The same file drives both backends. What both read has a type in :mod:`backends.recipe.types`; what only mindformers
reads passes through untouched in ``Recipe.raw`` after its keys have been checked, so that a misspelt key is an
error on a laptop too and not an hour of a card's time.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from backends.recipe.mindformers_keys import ASCEND_TOP_LEVEL, CALLBACKS, SECTIONS
from backends.recipe.types import LEAF_PATHS, Recipe
from converters.common.errors import UsageError, did_you_mean
from converters.common.shipped import DEFAULT_RECIPE, locate_model, locate_recipe, shipped_recipes

TOP_LEVEL_KEYS = [*dict.fromkeys(path.split(".")[0] for path in LEAF_PATHS), *SECTIONS, *sorted(ASCEND_TOP_LEVEL)]


# pydantic's names of the limits of a number
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def load_recipe(path: str | Path | None = None, overrides: str | Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply ``key.path=value`` overrides.

    Args:
        path: the YAML file, or the name of a shipped one such as ``demo``; None takes ``yaml/llama3_lora.yaml``.
        overrides: texts like ``runner_config.epochs=3`` or ``callbacks.1.save_checkpoint_steps=50`` (entries of a list
            count from 0); the value is read as YAML.

    Returns:
        The checked recipe; ``load_checkpoint`` is the path of a shipped model where it names one.

    Raises:
        UsageError: there is no such file, an override is not ``key=value``, a key is unknown, or a value has the wrong
            type or cannot be meant; the message names both.
    """
    import yaml

    source = locate_recipe(path) if path is not None else DEFAULT_RECIPE
    if not source.is_file():
        raise UsageError(f"{source}: no such recipe; recipes here: {', '.join(shipped_recipes())}")
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{source}: empty or not a mapping; a mindformers YAML is expected")
    for override in [overrides] if isinstance(overrides, str) else overrides:
        _override(raw, override)
    recipe = recipe_from(raw, source=str(source))
    # in the typed recipe only: raw, which is stored beside the weights, keeps the name as it was written
    return dataclasses.replace(recipe, load_checkpoint=locate_model(recipe.load_checkpoint))


def recipe_from(raw: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a merged YAML and return it as a recipe.

    Args:
        raw: content of the YAML; it is copied.
        source: name of the file, for messages.

    Returns:
        The recipe, with the whole YAML in ``raw``.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or cannot be meant.
    """
    # the recipe is frozen: what a caller changes in the mapping later must not reach into it
    kept = copy.deepcopy(dict(raw))
    for key in kept:
        if key not in TOP_LEVEL_KEYS:
            raise UsageError(f"{source}: unknown key {str(key)!r}{_hint(str(key), TOP_LEVEL_KEYS)}")
    for name, known in SECTIONS.items():
        _check_keys(kept.get(name) or {}, known, name, source)
    loader = (kept.get("train_dataset") or {}).get("data_loader")
    # only that it is a section: its keys belong to the type of loader
    _check_keys(loader or {}, set(), "train_dataset.data_loader", source)
    # "raw" and "path" are fields, too, but no keys of a recipe: the check above has refused them
    typed = {field.name: kept[field.name] for field in dataclasses.fields(Recipe) if field.name in raw}
    try:
        recipe = Recipe(**typed, raw=kept, path=source)
    except ValidationError as error:
        # from None: the report of pydantic, many lines long, would bury this one
        raise UsageError(f"{source}: {_in_words(error)}") from None
    # after the types have been checked: every callback is a mapping by now
    for callback in [*recipe.callbacks, *recipe.eval_callbacks]:
        kind = callback.get("type")
        if kind not in CALLBACKS:
            raise UsageError(f"{source}: callbacks: unknown type {kind!r}{did_you_mean(str(kind), CALLBACKS)}")
        # an empty set means "not checked", which adding "type" would undo
        _check_keys(callback, CALLBACKS[kind] | {"type"} if CALLBACKS[kind] else set(), f"callbacks.{kind}", source)
    return recipe


def _override(raw: dict[str, Any], text: str) -> None:
    """Set one ``key.path=value`` in the YAML's mapping; unknown keys are found when the whole is checked."""
    import yaml

    key, equals, value_text = text.partition("=")
    if not equals or not key:
        raise UsageError(f"override {text!r}: expected key.path=value, for example runner_config.epochs=3")
    # checked here already, so that the message names the override and not the file
    if "." not in key and key not in TOP_LEVEL_KEYS:
        raise UsageError(f"override {text!r}: unknown key {key!r}{_hint(key, TOP_LEVEL_KEYS)}")
    try:
        # YAML reads nothing as null; "key=" means an empty text
        value = yaml.safe_load(value_text) if value_text else ""
    except yaml.YAMLError as error:
        raise UsageError(f"override {text!r}: the value is not YAML ({' '.join(str(error).split())})") from error
    *parents, leaf = key.split(".")
    node: Any = raw
    for depth, part in enumerate([*parents, leaf]):
        place: Any = part
        if isinstance(node, list):
            above = ".".join(parents[:depth])
            if not part.isdigit() or int(part) >= len(node):
                raise UsageError(f"override {text!r}: {above!r} is a list of {len(node)}: name an entry, from 0")
            place = int(part)
        elif not isinstance(node, dict):
            raise UsageError(f"override {text!r}: {parents[depth - 1]!r} is not a section")
        if depth == len(parents):
            node[place] = value
        # a section that the YAML leaves out, or leaves empty, is made
        elif isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
        node = node[place]


def _check_keys(section: Any, known: Set[str], path: str, source: str) -> None:
    if not isinstance(section, dict):
        raise UsageError(f"{source}: {path}: expected a section, found {section!r}")
    for key in section if known else ():
        if key not in known:
            raise UsageError(f"{source}: unknown key '{path}.{key}'{did_you_mean(str(key), known)}")


def _hint(key: str, known: Iterable[str]) -> str:
    """Suggest what an unknown key may mean: a known key with similar letters, else a setting of that name elsewhere."""
    elsewhere = [path for path in LEAF_PATHS if path.split(".")[-1] == key]
    return did_you_mean(key, known) or (f" (did you mean {elsewhere[0]!r}?)" if elsewhere else "")


def _in_words(invalid: ValidationError) -> str:
    """Say one of pydantic's errors as ``key.path: expected …, found …``: an unknown key, or else the first."""
    errors = [(*_place(error["loc"]), error) for error in invalid.errors(include_url=False)]
    for leaf, _, error in errors:
        if error["type"] == "unexpected_keyword_argument":
            section, _, key = leaf.rpartition(".")
            inside = [path.removeprefix(f"{section}.") for path in LEAF_PATHS if path.startswith(f"{section}.")]
            return f"unknown key {leaf!r}{_hint(key, {path.split('.')[0] for path in inside})}"
    # a value that may have several types has an error for each: the one deepest inside it came nearest
    place = max((path for leaf, path, _ in errors if leaf == errors[0][0]), key=len)
    here = [error for _, path, error in errors if path == place]
    kind, found, details = here[0]["type"], here[0]["input"], here[0].get("ctx", {})
    limits = [f"{sign} {details[key]:g}" for key, sign in _LIMITS.items() if key in details]
    if kind == "value_error":
        limits = [str(details["error"])]
    if limits:
        return f"{place}: found {found!r}, expected {limits[0]}"
    return f"{place}: expected {' or '.join(map(_expected, here))}, found {found!r}"


def _place(location: tuple[int | str, ...]) -> tuple[str, str]:
    """Return the key path of a setting, and that path with the place in a list (``betas[0]``).

    Behind a setting, pydantic's locations also name the type that was tried.
    """
    leaf, rest = "", list(location)
    # the location goes on behind the setting: places in a list, and the types that were tried
    while rest and leaf not in LEAF_PATHS:
        leaf = f"{leaf}.{rest.pop(0)}".removeprefix(".")
    inside = [part for part in rest if isinstance(part, int) or part.isidentifier()]
    return leaf, leaf + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)


def _expected(error: ErrorDetails) -> str:
    """Say in words what type or length pydantic expected."""
    kind, details = error["type"].removesuffix("_type"), error.get("ctx", {})
    if kind == "literal_error":
        return details["expected"].replace(", ", " or ")
    if kind == "finite_number":
        return "a finite number"
    if kind in ("too_short", "too_long"):
        return f"{details.get('min_length', details.get('max_length'))} entries"
    return details["class_name"] if kind == "dataclass" else kind.replace("string", "str")
