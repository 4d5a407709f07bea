"""Reading a recipe: a mindformers YAML plus one block ``data:``, checked and returned as types.

The same file drives both backends. What both read is a dataclass of :mod:`backends.recipe.types`; what only mindformers
reads passes through untouched in ``Recipe.raw`` after its keys have been checked, so that a misspelt key is an
error on a laptop too and not an hour of a card's time.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from backends.recipe.mindformers_keys import ASCEND_TOP_LEVEL, CALLBACKS, SECTIONS
from backends.recipe.types import Recipe
from converters.common.errors import UsageError, did_you_mean
from converters.common.shipped import DEFAULT_RECIPE, locate_model, locate_recipe, shipped_recipes

FLOAT_TYPES = ("float16", "bfloat16", "float32")


def load_recipe(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply ``key.path=value`` overrides.

    Args:
        path: the YAML file, or the name of a shipped one such as ``demo``; None takes ``yaml/llama3_lora.yaml``.
        overrides: texts like ``runner_config.epochs=3``; the value is read as YAML.

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
    for override in overrides:
        _override(raw, override)
    recipe = recipe_from(raw, source=str(source))
    return dataclasses.replace(recipe, load_checkpoint=locate_model(recipe.load_checkpoint))


def recipe_from(raw: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a merged YAML and return it as a recipe.

    Raises:
        UsageError: as :func:`load_recipe`.
    """
    kept = copy.deepcopy(dict(raw))
    values = copy.deepcopy(kept)
    for name, known in SECTIONS.items():
        _check_keys(values.get(name) or {}, known, name, source)
        if name != "train_dataset":
            values.pop(name, None)
    for name in ASCEND_TOP_LEVEL:
        values.pop(name, None)
    for callback in [*(values.get("callbacks") or []), *(values.get("eval_callbacks") or [])]:
        kind = callback.get("type") if isinstance(callback, dict) else None
        if kind not in CALLBACKS:
            raise UsageError(f"{source}: callbacks: unknown type {kind!r}{did_you_mean(str(kind), CALLBACKS)}")
        _check_keys(callback, CALLBACKS[kind] | {"type"} if CALLBACKS[kind] else set(), f"callbacks.{kind}", source)
    recipe = _build(Recipe, values, "", source)
    recipe = dataclasses.replace(recipe, raw=kept, path=source)
    _check_meaning(recipe, source)
    return recipe


def _override(raw: dict[str, Any], text: str) -> None:
    """Set one ``key.path=value`` in the YAML's mapping; unknown keys are found when the whole is checked."""
    import yaml

    key, equals, value_text = text.partition("=")
    if not equals or not key:
        raise UsageError(f"override {text!r}: expected key.path=value, for example runner_config.epochs=3")
    if "." not in key and key not in TOP_LEVEL_KEYS:
        near = [path for path in LEAF_PATHS if path.split(".")[-1] == key]
        hint = f" (did you mean {near[0]!r}?)" if near else did_you_mean(key, [*TOP_LEVEL_KEYS, *LEAF_PATHS])
        raise UsageError(f"override {text!r}: unknown key {key!r}{hint}")
    try:
        value = yaml.safe_load(value_text) if value_text else ""
    except yaml.YAMLError as error:
        raise UsageError(f"override {text!r}: the value is not YAML ({' '.join(str(error).split())})") from error
    *parents, leaf = key.split(".")
    node: Any = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise UsageError(f"override {text!r}: {parent!r} is not a section")
    node[leaf] = value


def _check_keys(section: Any, known: set[str], path: str, source: str) -> None:
    if not isinstance(section, dict):
        raise UsageError(f"{source}: {path}: expected a section, found {section!r}")
    for key in section if known else ():
        if key not in known:
            raise UsageError(f"{source}: unknown key '{path}.{key}'{did_you_mean(str(key), known)}")


def _build(kind: Any, values: Mapping[str, Any], path: str, source: str) -> Any:
    """Fill a dataclass from a mapping, checking keys and types."""
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in ("raw", "path")]
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            sections = SECTIONS if not path else {}
            near = [p for p in LEAF_PATHS if p.split(".")[-1] == key]
            hint = did_you_mean(str(key), [*known, *sections, *(ASCEND_TOP_LEVEL if not path else ())]) or (
                f" (did you mean {near[0]!r}?)" if near else ""
            )
            raise UsageError(f"{source}: unknown key {where!r}{hint}")
        arguments[key] = _coerce(value, hints[key], where, source)
    return kind(**arguments)


def _coerce(value: Any, hint: Any, where: str, source: str) -> Any:
    """Return ``value`` as its type hint wants it, going down into sections and lists."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict | None):
            return _build(option, value or {}, where, source)
        if typing.get_origin(option) is dict and isinstance(value, dict | None):
            return value or {}
        if typing.get_origin(option) is list and isinstance(value, list | None):
            (item,) = typing.get_args(option)
            return [_coerce(one, item, f"{where}[{i}]", source) for i, one in enumerate(value or [])]
        if option == list[str] and isinstance(value, str):
            return [value] if value else []
        found = _scalar(value, option)
        if found is not None:
            return found
    wanted = " or ".join(_name_of(option) for option in options)
    raise UsageError(f"{source}: {where}: expected {wanted}, found {value!r}")


def _name_of(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return getattr(kind, "__name__", str(kind))


def _scalar(value: Any, kind: Any) -> Any:
    """Return a value as bool, int, float or str; None if it is none."""
    if typing.get_origin(kind) is Literal:
        return value if value in typing.get_args(kind) else None
    if kind is str:
        return "" if value is None else value if isinstance(value, str) else None
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    if kind is float and isinstance(value, int | float):
        return float(value)
    # YAML 1.1 reads 1e-4 as text; a number is meant
    if kind is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    return None


def _check_meaning(recipe: Recipe, source: str) -> None:
    """Refuse values that have the right type and cannot be meant."""
    data, config, pet = recipe.data, recipe.model.model_config, recipe.pet
    problems = [
        (recipe.run_mode not in ("finetune", "train"), "run_mode", recipe.run_mode, "finetune or train"),
        (recipe.runner_config.epochs < 1, "runner_config.epochs", recipe.runner_config.epochs, "at least 1"),
        (recipe.runner_config.batch_size < 1, "runner_config.batch_size", recipe.runner_config.batch_size, "≥ 1"),
        (
            recipe.runner_config.gradient_accumulation_steps != 1,
            "runner_config.gradient_accumulation_steps",
            recipe.runner_config.gradient_accumulation_steps,
            "1: a step takes batch_size rows, and data.micro_batch_tokens splits them to fit the memory",
        ),
        (data.micro_batch_tokens < 1, "data.micro_batch_tokens", data.micro_batch_tokens, "at least 1"),
        (config.seq_length < 1, "model.model_config.seq_length", config.seq_length, "at least 1"),
        (config.compute_dtype not in FLOAT_TYPES, "compute_dtype", config.compute_dtype, ", ".join(FLOAT_TYPES)),
        (config.param_init_type not in FLOAT_TYPES, "param_init_type", config.param_init_type, ", ".join(FLOAT_TYPES)),
        (config.ignore_token_id != -100, "ignore_token_id", config.ignore_token_id, "-100"),
    ]
    if pet is not None:
        problems += [
            (pet.pet_type.lower() != "lora", "pet_config.pet_type", pet.pet_type, "lora, or no pet_config at all"),
            (pet.lora_rank < 1, "pet_config.lora_rank", pet.lora_rank, "at least 1"),
            (not 0 <= pet.lora_dropout < 1, "pet_config.lora_dropout", pet.lora_dropout, "0 ≤ p < 1"),
        ]
    for bad, key, found, wanted in problems:
        if bad:
            raise UsageError(f"{source}: {key}: found {found!r}, expected {wanted}")


def _leaf_paths(kind: Any, prefix: str = "") -> list[str]:
    hints = typing.get_type_hints(kind)
    paths = []
    for one in dataclasses.fields(kind):
        if one.name in ("raw", "path"):
            continue
        nested = typing.get_args(hints[one.name]) or (hints[one.name],)
        inner = next((option for option in nested if dataclasses.is_dataclass(option)), None)
        paths += _leaf_paths(inner, f"{prefix}{one.name}.") if inner else [f"{prefix}{one.name}"]
    return paths


LEAF_PATHS = _leaf_paths(Recipe)
TOP_LEVEL_KEYS = [*dict.fromkeys(path.split(".")[0] for path in LEAF_PATHS), *SECTIONS, *sorted(ASCEND_TOP_LEVEL)]
