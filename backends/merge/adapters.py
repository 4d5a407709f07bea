"""LoRA adapters as files: which layers they change and by how much. What is not plain LoRA is refused.

For a layer y = W x an adapter holds A [r, in] and B [out, r] and adds s·B·A to W (Hu et al. 2021, "LoRA"), with the
scaling s = alpha / r, or alpha / √r for rsLoRA (Kalajdzievski 2023).

Legend: r rank, in and out the widths of the layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backends.checkpoint.fingerprint import fingerprint
from backends.weights.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import is_lora, mindformers_to_peft
from backends.weights.safetensors_files import Tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json

_PREFIX, _COPY = "base_model.model.", ".base_layer.weight"
_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

# settings of PEFT's LoraConfig that do not change what a trained A and B mean ...
NEUTRAL = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
# ... any other one that is set makes it another method, today's (use_dora, use_qalora) or tomorrow's
NEUTRAL_STARTS = {True, False, None, "gaussian", "eva", "orthogonal"}


@dataclass(frozen=True)
class Factors:
    """The update of one layer, as it lies in the file.

    Attributes:
        a: name of A [r, in].
        b: name of B [out, r].
        rank: r.
        scaling: s.
        shape: (out, in).
    """

    a: str
    b: str
    rank: int
    scaling: float
    shape: tuple[int, int]


@dataclass(frozen=True)
class Adapter:
    """An adapter and its share in a sum.

    Attributes:
        path: directory or file that was named.
        weight: factor of its update in the sum.
        tensors: its file.
        config: ``adapter_config.json``, or what stands for it beside a mindformers file.
        modules: updates by Hugging Face name of the layer, such as ``model.layers.0.self_attn.q_proj``.
        copies: weights of the base that peft stored along (it does so for a tied ``lm_head``), by layer.
        home: the run directory, or where the adapter lies: template and tokenizer are looked for there.
    """

    path: Path
    weight: float
    tensors: Tensors
    config: dict[str, Any]
    modules: dict[str, Factors]
    copies: dict[str, str]
    home: Path

    def update(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the two factors of this adapter's share of ΔW: A float32 [r, in], and w·s·B float32 [out, r]."""
        factors = self.modules[module]
        a = self.tensors.read(factors.a).astype(np.float32)
        b = self.tensors.read(factors.b).astype(np.float32)
        # too large a weight makes infinities, which whoever writes the sum refuses: numpy need not warn
        with np.errstate(over="ignore", invalid="ignore"):
            return a, b * np.float32(self.weight * factors.scaling)

    @property
    def base_name(self) -> str | None:
        """The base that the adapter says it belongs to."""
        return self.config.get("base_model_name_or_path") or None

    @cached_property
    def base_fingerprint(self) -> str | None:
        """Hash of the weights that it was trained on (:mod:`backends.checkpoint.fingerprint`), where recorded."""
        for name in ("data.json", "merge.json"):
            if (self.home / name).is_file():
                recorded = read_json(self.home / name).get("base")
                return recorded.get("fingerprint") if isinstance(recorded, dict) else recorded
        return None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its own weights."""
        return fingerprint(sorted({entry.file for entry in self.tensors.entries.values()}))


def open_adapter(path: str | Path, weight: float = 1.0, lora_alpha: float | None = None) -> Adapter:
    """Read what an adapter changes; every tensor is looked at once.

    Args:
        path: run, checkpoint of a run, PEFT adapter directory, or a file of mindformers LoRA weights.
        weight: its factor in a sum.
        lora_alpha: of a mindformers file that nothing describes.

    Raises:
        UsageError: there is no adapter.
        UserError: it is not plain LoRA, its tensors do not fit its configuration, the alpha of a mindformers file is
            not known, or a value is not finite.
    """
    source = Path(path)
    if source.is_file():
        adapter = _open_mindformers(source, weight, lora_alpha)
    elif (source / ADAPTER_CONFIG).is_file():
        if lora_alpha is not None:
            raise UsageError(f"{source}: --lora-alpha is for mindformers files; this adapter records its own")
        adapter = _open_peft(source, weight)
    elif not source.exists():
        raise UsageError(f"{source}: no such run, adapter directory or file")
    else:
        raise UsageError(f"{source}: no {ADAPTER_CONFIG} there; a run with LoRA or a PEFT adapter is expected")
    for factors in adapter.modules.values():
        for name in (factors.a, factors.b):
            if not np.isfinite(adapter.tensors.read(name).astype(np.float32)).all():
                raise UserError(f"{source}: {name} holds a NaN or an infinity; this adapter cannot be used")
    return adapter


def _open_peft(folder: Path, weight: float) -> Adapter:
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        hint = "; adapter_model.bin is a pickle and is not opened, save it as safetensors" if pickled else ""
        raise UsageError(f"{folder}: no {ADAPTER_WEIGHTS} there{hint}")
    config = read_json(folder / ADAPTER_CONFIG)
    _check_plain(folder / ADAPTER_CONFIG, config)
    tensors = open_weights(file)
    pairs: dict[str, dict[str, str]] = {}
    copies: dict[str, str] = {}
    for name in tensors:
        found = _PEFT_NAME.fullmatch(name)
        if name.startswith(_PREFIX) and name.endswith(_COPY):
            copies[name.removeprefix(_PREFIX).removesuffix(_COPY)] = name
            continue
        if found is None:
            raise UserError(
                f"{file}: {name} is not a LoRA matrix of a linear layer; embeddings under LoRA, modules_to_save "
                "and other methods are not merged"
            )
        pairs.setdefault(found[1], {})[found[2]] = name
    modules = {module: _factors(file, tensors, module, names) for module, names in pairs.items()}
    modules = {module: _scaled(folder / ADAPTER_CONFIG, config, module, found) for module, found in modules.items()}
    return Adapter(folder, weight, tensors, config, _not_empty(file, modules), copies, home_of(folder))


def _check_plain(file: Path, config: dict[str, Any]) -> None:
    """Refuse whatever is not plain LoRA.

    Raises:
        UserError: the configuration names another method or asks for more than the matrices.
    """
    if config.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA is merged")
    if config.get("bias", "none") != "none":
        raise UserError(f"{file}: bias is {config['bias']!r}: trained biases are not merged")
    more = sorted(key for key in config.keys() - NEUTRAL if config[key])
    if more:
        raise UserError(f"{file}: {more[0]} is set; only plain LoRA is merged (rsLoRA and rank or alpha patterns too)")
    start = config.get("init_lora_weights", True)
    if start not in NEUTRAL_STARTS:
        raise UserError(
            f"{file}: init_lora_weights is {start!r}, which changes the base before training; convert the adapter with "
            "peft's save_pretrained(path_initial_model_for_weight_conversion=...) first"
        )


def _factors(file: Path, tensors: Tensors, module: str, names: dict[str, str]) -> Factors:
    """Pair A with B; the scaling is not known yet."""
    if len(names) != 2:
        raise UserError(f"{file}: {module} has lora_{next(iter(names))} only; the file is not whole")
    a, b = tensors.shape(names["A"]), tensors.shape(names["B"])
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise UserError(f"{file}: {module}: A {list(a)} and B {list(b)} are not [r, in] and [out, r]")
    return Factors(names["A"], names["B"], a[0], math.nan, (b[0], a[1]))


def _scaled(file: Path, config: dict[str, Any], module: str, factors: Factors) -> Factors:
    """Put in the scaling as peft finds it: patterns first, then the common value."""
    rank = _pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if rank != factors.rank:
        raise UserError(
            f"{file}: {module} has rank {factors.rank} in the weights and {rank} here; one of them is wrong"
        )
    if not isinstance(alpha, int | float):
        raise UserError(f"{file}: lora_alpha is {alpha!r}; without a number the scaling is not known")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Factors(factors.a, factors.b, factors.rank, scaling, factors.shape)


def _pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches, by the rule of ``peft.utils.other.get_pattern_key``."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _open_mindformers(file: Path, weight: float, lora_alpha: float | None) -> Adapter:
    """Read a file that holds ``mindpet_delta_lora_*``, alone or among other parameters."""
    from backends.exchange.adapters import lora_shapes, recorded_config

    tensors = open_weights(file)
    # an optimizer's moments are called adam_m.model.layers...
    names = {mindformers_to_peft(name): name for name in tensors if is_lora(name) and name.startswith("model.")}
    if not names:
        raise UsageError(f"{file}: no mindpet_delta_lora_a, _b there; a LoRA file of mindformers is expected")
    if len(names) < len(tensors):
        say(f"note: {file}: {len(tensors) - len(names)} parameters that are not LoRA matrices were left out")
    shapes = {peft: tensors.shape(name) for peft, name in names.items()}
    config, home = recorded_config(file, tensors, lora_shapes(shapes, file), alpha=lora_alpha)
    pairs: dict[str, dict[str, str]] = {}
    for peft, name in names.items():
        found = _PEFT_NAME.fullmatch(peft)
        assert found is not None
        pairs.setdefault(found[1], {})[found[2]] = name
    modules = {module: _factors(file, tensors, module, pair) for module, pair in pairs.items()}
    modules = {module: _scaled(file, config, module, factors) for module, factors in modules.items()}
    return Adapter(file, weight, tensors, config, modules, {}, home or file.parent)


def _not_empty(file: Path, modules: dict[str, Factors]) -> dict[str, Factors]:
    if not modules:
        raise UserError(f"{file}: holds no tensors")
    return modules


def home_of(folder: Path) -> Path:
    """Return the run directory that a folder is, or is a checkpoint of; else the folder itself."""
    return next((home for home in (folder, folder.parent.parent) if (home / "recipe.yaml").is_file()), folder)


def all_modules(adapters: Iterable[Adapter]) -> list[str]:
    """Return the layers that any of the adapters changes, in the order of their first mention."""
    return list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
