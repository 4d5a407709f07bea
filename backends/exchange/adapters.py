"""Conversion of LoRA adapters between PEFT's directory and mindformers' file, with the scaling kept.

A mindformers file holds the matrices alone: rank, alpha and targets stand in the recipe. A file written here therefore
carries PEFT's configuration (in the metadata of safetensors, and in the directory ``FILE.hf`` beside either format),
and converting it back needs nothing else. The scaling is alpha / rank on both sides.

Legend: r rank, in and out the widths of a linear layer; A is [r, in] and B is [out, r] on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.exchange.models import exchangeable_shape
from backends.weights.dtypes import round_to
from backends.weights.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    RECIPE,
    copy_companions,
    run_around,
    sidecar_of,
    writing_directory,
)
from backends.weights.llama import check_shapes
from backends.weights.lora import LINEAR_LAYERS, check_plain_lora, hf_modules, peft_config
from backends.weights.mindspore_ckpt import open_weights, writing_weights
from backends.weights.names import is_lora, mindformers_to_peft, peft_to_mindformers
from backends.weights.safetensors_files import ShardWriter, Tensors, open_tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.files import atomic, write_json
from converters.common.reader import read_json

if TYPE_CHECKING:
    from backends.recipe.types import PetConfig

METADATA_KEY = "adapter_config"
NOT_PLAIN = "mindformers' LoRA has no such thing; merge the adapter instead"


class UnknownScaling(UserError):
    """Nothing says with which alpha a LoRA was trained."""


@dataclass(frozen=True)
class LoraMatrices:
    """Rank and layers of an adapter, as its matrices show them.

    Attributes:
        rank: r.
        layers: number of decoder layers, each with the same modules.
        modules: Hugging Face names of the linear layers, such as ``q_proj``, sorted.
    """

    rank: int
    layers: int
    modules: list[str]


def check_matrices(shapes: Mapping[str, tuple[int, ...]], source: str | Path) -> LoraMatrices:
    """Check that the matrices of an adapter belong together.

    Args:
        shapes: A is [r, in], B is [out, r]; by PEFT name.
        source: where they are from, for errors.

    Returns:
        Rank, number of layers and module names, which the names and shapes show.

    Raises:
        UserError: a matrix without its partner, several ranks, or layers with different modules.
    """
    if not shapes:
        raise UserError(f"{source}: holds no LoRA matrices")
    # first, because everything below takes two dimensions for granted
    odd = [name for name, shape in shapes.items() if len(shape) != 2]
    if odd:
        raise UserError(f"{source}: {odd[0]} {list(shapes[odd[0]])}: a LoRA matrix has two dimensions")
    ranks: dict[int, str] = {}
    found: set[tuple[int, str]] = set()
    for name, shape in shapes.items():
        is_a = name.endswith(".lora_A.weight")
        ranks.setdefault(shape[0] if is_a else shape[1], name)
        layer, module = name.removeprefix("base_model.model.model.layers.").split(".", 1)
        found.add((int(layer), module.rsplit(".lora_", 1)[0]))
    if len(ranks) > 1:
        (first, one), (second, other) = list(ranks.items())[:2]
        raise UserError(f"{source}: several ranks ({first} in {one}, {second} in {other}); mindformers' LoRA has one")
    # mindformers' LoRA has the same modules in every layer, from the first one on: gaps are missing matrices
    layers = 1 + max(layer for layer, _ in found)
    modules = sorted({module for _, module in found})
    wanted = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"
        for layer in range(layers)
        for module in modules
        for half in "AB"
    }
    missing = sorted(wanted - shapes.keys())
    if missing:
        raise UserError(f"{source}: {len(missing)} LoRA matrices are missing, {missing[0]} first")
    return LoraMatrices(next(iter(ranks)), layers, sorted(module.split(".")[-1] for module in modules))


def adapter_from_mindformers(
    tensors: Tensors | Mapping[str, np.ndarray], pet: PetConfig, base: str, out_folder: Path
) -> None:
    """Write a LoRA that mindformers trained as a PEFT adapter, the same product as the CUDA backend's.

    Args:
        tensors: parameters by mindformers name; those that are no LoRA matrix (frozen weights, optimizer copies) are
            passed over.
        pet: the recipe's LoRA settings.
        base: value of ``base_model_name_or_path``.
        out_folder: an existing directory; gets ``adapter_config.json`` and ``adapter_model.safetensors``, each whole or
            absent.

    Raises:
        UserError: rank or targets are not the recipe's.
    """
    where = str(tensors.path) if isinstance(tensors, Tensors) else "the trained parameters"
    read = tensors.read if isinstance(tensors, Tensors) else tensors.__getitem__
    names = _lora_names(tensors)
    found = check_matrices({peft: read(name).shape for peft, name in names.items()}, where)
    # sorted like those of check_matrices, with which they are compared
    modules = sorted(hf_modules(pet))
    if found.rank != pet.lora_rank:
        raise UserError(f"{where}: rank {found.rank}; pet_config.lora_rank is {pet.lora_rank}")
    if found.modules != modules:
        raise UserError(f"{where}: LoRA of {', '.join(found.modules)}; the recipe chooses {', '.join(modules)}")
    config = peft_config(found.rank, pet.lora_alpha, pet.lora_dropout, modules, base)
    _write_peft(read, names, config, out_folder)


def adapter_to_mindformers(
    adapter_folder: Path, out: Path, *, base: Path | None = None, dtype: str | None = None
) -> LoraMatrices:
    """Write a PEFT adapter as a mindformers LoRA file.

    Args:
        adapter_folder: ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: a ``.ckpt`` or ``.safetensors``; ``OUT.hf`` beside it keeps the configuration, the template and the
            tokenizer.
        base: the frozen model, to check the shapes against; None takes the adapter's own if it is there.
        dtype: round to this type; None keeps each matrix's own.

    Returns:
        Rank and layers of what was written.

    Raises:
        UsageError: there is no adapter, or the name of ``out`` says no format.
        UserError: the adapter does more than mindformers' LoRA can, or does not fit its base.
    """
    config = read_adapter_config(adapter_folder)
    tensors = open_tensors(adapter_folder / ADAPTER_WEIGHTS)
    names = {name: peft_to_mindformers(name) for name in tensors.names()}
    shapes = {mindformers_to_peft(mindformers): tensors.shape(name) for name, mindformers in names.items()}
    found = check_matrices(shapes, adapter_folder)
    if found.rank != config["r"]:
        raise UserError(f"{adapter_folder}: its matrices have rank {found.rank}, {ADAPTER_CONFIG} says {config['r']}")
    # an adapter often outlives its base: only one that was named has to be there
    _check_base(shapes, found, base or config.get("base_model_name_or_path"), adapter_folder, required=base is not None)
    # so that a safetensors file can travel without its directory
    metadata = {METADATA_KEY: json.dumps(config, sort_keys=True)}
    with writing_weights(out, metadata) as (writer, sidecar):
        # template and tokenizer: a .ckpt has no place for them
        copy_companions(adapter_folder, sidecar)
        write_json(sidecar / ADAPTER_CONFIG, config)
        # sorted by the new name: the file does not depend on the order in the adapter
        for name in sorted(names, key=names.__getitem__):
            writer.add(names[name], round_to(tensors.read(name), dtype, name))
    return found


def adapter_to_peft(
    file: Path,
    out_folder: Path,
    *,
    recipe: Path | None = None,
    alpha: float | None = None,
    base: str | None = None,
    dtype: str | None = None,
    finish: Callable[[Path], None] | None = None,
) -> LoraMatrices:
    """Write the LoRA of a mindformers file as a PEFT adapter directory; what was there under its name is replaced.

    The scaling is looked for in the file's metadata, in ``FILE.hf``, in the recipe of the run that the file lies in
    and in ``recipe``.

    Args:
        file: ``.ckpt`` or ``.safetensors``; weights that are no LoRA matrix are counted and left out.
        out_folder: the directory.
        recipe: the YAML that trained it.
        alpha: of a foreign file that nothing describes.
        base: value of ``base_model_name_or_path``; None keeps what is recorded.
        dtype: round to this type; None keeps each matrix's own.
        finish: adds to the directory before it gets its name.

    Returns:
        Rank and layers of what was written.

    Raises:
        UserError: rank or targets are not those recorded, or no alpha is.
    """
    tensors = open_weights(file)
    names = _lora_names(tensors.names())
    found = check_matrices({peft: tensors.shape(name) for peft, name in names.items()}, file)
    config, home = recorded_config(file, tensors, found, recipe, alpha)
    if base is not None:
        config["base_model_name_or_path"] = base
    if len(names) < len(tensors):
        say(f"{file}: {len(names)} LoRA matrices taken, {len(tensors) - len(names)} other tensors left out")
    with writing_directory(out_folder) as temporary:
        _write_peft(tensors.read, names, config, temporary, dtype)
        if home is not None:
            copy_companions(home, temporary)
        if finish is not None:
            finish(temporary)
    return found


def recorded_config(
    file: Path, tensors: Tensors, found: LoraMatrices, recipe: Path | None = None, alpha: float | None = None
) -> tuple[dict[str, Any], Path | None]:
    """Find the PEFT configuration of a mindformers LoRA file: rank, alpha, targets and base.

    Args:
        file: the file.
        tensors: its content.
        found: rank and layers that its matrices show.
        recipe: the YAML that trained it.
        alpha: of a file that nothing describes.

    Returns:
        The configuration; and the directory with its template and tokenizer, ``FILE.hf`` or the run, None where neither
        is there.

    Raises:
        UnknownScaling: nothing is recorded and no ``alpha`` was given.
        UserError: what is recorded does not fit the matrices, or contradicts what was given.
    """
    # The file's own metadata and FILE.hf were written by a conversion that knew the scaling. Where there are none, the
    # recipe tells: the one that was named, else that of the run around the file.
    home, run = sidecar_of(file), run_around(file)
    # the product of that run says where its base is on this machine, which the recipe may not
    product = run / ADAPTER_CONFIG if run is not None else None
    of_recipe = _config_of_recipe(recipe) if recipe is not None else None
    if recipe is not None and of_recipe is None:
        raise UserError(f"{recipe}: no pet_config there; it trains every weight")
    config: dict[str, Any] | None = None
    if METADATA_KEY in tensors.metadata:
        where = f"the metadata of {file}"
        try:
            config = _plain(json.loads(tensors.metadata[METADATA_KEY]), where)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error})") from error
    elif (home / ADAPTER_CONFIG).is_file():
        where = str(home / ADAPTER_CONFIG)
        config = _plain(read_json(where), where)
    elif of_recipe is not None:
        config, where = of_recipe, str(recipe)
    elif product is not None and product.is_file():
        config, where = _plain(read_json(product), str(product)), str(product)
    elif run is not None:
        config, where = _config_of_recipe(run / RECIPE), str(run / RECIPE)
    if config is None:
        if alpha is None:
            raise UnknownScaling(
                f"{file}: nothing says its lora_alpha (no metadata, no {home.name}, no recipe.yaml of a LoRA above): "
                "name the recipe that trained it (--config FILE), or the number (--lora-alpha N)"
            )
        # the dropout is not known and only matters in training
        return peft_config(found.rank, alpha, 0.0, found.modules, ""), None
    # a second statement may confirm the record but not contradict it: a wrong scaling is not visible in the weights
    stated = of_recipe["lora_alpha"] if of_recipe is not None else alpha
    if stated is not None and stated != config["lora_alpha"]:
        source = recipe or "--lora-alpha"
        raise UserError(
            f"{file}: {where} says lora_alpha {config['lora_alpha']}, {source} says {stated:g}: leave that out"
        )
    targets = config.get("target_modules")
    # PEFT also takes an expression, or whole paths; the matrices themselves say what it chose
    modules = sorted({name.split(".")[-1] for name in targets}) if isinstance(targets, list) else found.modules
    if found.rank != config["r"] or found.modules != modules:
        raise UserError(
            f"{file}: rank {found.rank} of {', '.join(found.modules)}, but {where} says rank {config['r']} of "
            f"{', '.join(modules)}"
        )
    return config, home if home.is_dir() else run


def _config_of_recipe(file: Path) -> dict[str, Any] | None:
    """Return the configuration of the LoRA that a recipe trains; None if it trains every weight."""
    from backends.recipe.load import load_recipe

    recipe = load_recipe(file)
    pet = recipe.pet
    if pet is None:
        return None
    return peft_config(pet.lora_rank, pet.lora_alpha, pet.lora_dropout, hf_modules(pet), recipe.load_checkpoint)


def read_adapter_config(folder: Path, refusal: str = NOT_PLAIN) -> dict[str, Any]:
    """Read ``adapter_config.json`` and refuse what mindformers' LoRA cannot express.

    Args:
        folder: of the adapter.
        refusal: what the error says of a setting that is not taken.

    Returns:
        The configuration, as it is in the file.

    Raises:
        UsageError: there is no adapter.
        UserError: it is no plain LoRA, or rank or alpha are not recorded.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise UsageError(f"{folder}: no {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} there; a PEFT adapter is expected")
    return _plain(read_json(file), str(file), refusal)


def _plain(config: Any, where: str, refusal: str = NOT_PLAIN) -> dict[str, Any]:
    """Check that a configuration is of a LoRA that both sides have, and states its scaling."""
    check_plain_lora(config, where, refusal)
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float):
            raise UserError(f"{where}: {key}: found {config.get(key)!r}, expected a number")
    return config


def _check_base(
    shapes: Mapping[str, tuple[int, ...]],
    found: LoraMatrices,
    base: str | Path | None,
    adapter: Path,
    *,
    required: bool,
) -> None:
    """Compare an adapter with the model it says it belongs to, where that is on this machine."""
    home = Path(base) if base else None
    if home is None or not (home / MODEL_CONFIG).is_file():
        if required:
            raise UsageError(f"{base}: no {MODEL_CONFIG} there")
        say(f"note: {adapter}: its base {base or '(not recorded)'} is not here; shapes are not checked against it")
        return
    shape = exchangeable_shape(read_json(home / MODEL_CONFIG), home / MODEL_CONFIG)
    expected = shape.adapter_shapes(LINEAR_LAYERS, found.rank)
    # an adapter changes some of the layers only: those that it lacks are not missing
    expected = {name: expected[name] for name in shapes if name in expected}
    check_shapes(shapes, expected, adapter, f"its base {home}")


def _lora_names(names: Iterable[str]) -> dict[str, str]:
    """Map the PEFT name of each LoRA matrix to its mindformers name; optimizer copies (``adam_m.…``) are left out."""
    return {mindformers_to_peft(name): name for name in names if is_lora(name) and name.startswith("model.layers.")}


def _write_peft(
    read: Callable[[str], np.ndarray],
    names: dict[str, str],
    config: dict[str, Any],
    folder: Path,
    dtype: str | None = None,
) -> None:
    # no metadata and sorted names: byte for byte what the CUDA backend writes
    with (
        atomic(folder / ADAPTER_WEIGHTS) as temporary,
        ShardWriter(folder, max_shard_bytes=None, metadata={}, stem=temporary.stem) as writer,
    ):
        for peft, name in sorted(names.items()):
            writer.add(peft, round_to(read(name), dtype, name))
    write_json(folder / ADAPTER_CONFIG, config)
