"""LoRA adapters as files: which layers they change, and with which scaling. What is not plain LoRA is refused.

For a layer y = W x an adapter holds A [r, in] and B [out, r] and adds s·B·A to W (Hu et al. 2021, "LoRA"), with the
scaling s = alpha / r, or alpha / √r for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732).

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
from backends.exchange.adapters import check_matrices, recorded_config
from backends.weights.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DATA_RECORD, MERGE_REPORT, run_around
from backends.weights.lora import LORA_VARIANTS, check_plain_lora
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import is_lora, mindformers_to_peft
from backends.weights.safetensors_files import Tensors
from converters.common.console import say
from converters.common.errors import UsageError, UserError
from converters.common.reader import read_json

_PREFIX, _COPY = "base_model.model.", ".base_layer.weight"
_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

NOT_PLAIN = "only plain LoRA is merged (rsLoRA and rank or alpha patterns too)"


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
        for name in (DATA_RECORD, MERGE_REPORT):
            if (self.home / name).is_file():
                recorded = read_json(self.home / name).get("base")
                # merge.json has path and hash there, data.json the hash alone
                return recorded.get("fingerprint") if isinstance(recorded, dict) else recorded
        return None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its own weights."""
        return fingerprint(self.tensors.files)


def open_adapter(path: str | Path, weight: float = 1.0, lora_alpha: float | None = None) -> Adapter:
    """Open an adapter: find what it changes, and check every tensor once.

    Args:
        path: run, checkpoint of a run, PEFT adapter directory, or a file of mindformers LoRA weights.
        weight: its factor in a sum.
        lora_alpha: of a mindformers file that nothing describes.

    Returns:
        The adapter; its matrices stay in the file until they are asked for.

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
    # now and not when they are added, when half of a large base may have been written
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
    where = folder / ADAPTER_CONFIG
    config = check_plain_lora(read_json(where), where, NOT_PLAIN, variants=LORA_VARIANTS)
    tensors = open_weights(file)
    matrices: dict[str, str] = {}
    copies: dict[str, str] = {}
    for name in tensors:
        # not a part of the update: check_fit compares it with the base
        if name.startswith(_PREFIX) and name.endswith(_COPY):
            copies[name.removeprefix(_PREFIX).removesuffix(_COPY)] = name
        elif _PEFT_NAME.fullmatch(name):
            matrices[name] = name
        else:
            raise UserError(
                f"{file}: {name} is not a LoRA matrix of a linear layer; embeddings under LoRA, modules_to_save "
                "and other methods are not merged"
            )
    if not matrices:
        raise UserError(f"{file}: holds no tensors")
    modules = _updates(tensors, matrices, config, where)
    return Adapter(folder, weight, tensors, config, modules, copies, run_around(folder) or folder)


def _open_mindformers(file: Path, weight: float, lora_alpha: float | None) -> Adapter:
    """Read a file that holds ``mindpet_delta_lora_*``, alone or among other parameters."""
    tensors = open_weights(file)
    # an optimizer's moments are called adam_m.model.layers...
    names = {mindformers_to_peft(name): name for name in tensors if is_lora(name) and name.startswith("model.")}
    if not names:
        raise UsageError(f"{file}: no mindpet_delta_lora_a, _b there; a LoRA file of mindformers is expected")
    if len(names) < len(tensors):
        say(f"note: {file}: {len(tensors) - len(names)} parameters that are not LoRA matrices were left out")
    found = check_matrices({peft: tensors.shape(name) for peft, name in names.items()}, file)
    config, home = recorded_config(file, tensors, found, alpha=lora_alpha)
    return Adapter(file, weight, tensors, config, _updates(tensors, names, config, file), {}, home or file.parent)


def _updates(tensors: Tensors, names: dict[str, str], config: dict[str, Any], where: Path) -> dict[str, Factors]:
    """Pair every A with its B and find the scaling as peft does: patterns first, then the common value.

    Args:
        tensors: the file.
        names: PEFT's names of the matrices, to those that they have in the file.
        config: ``adapter_config.json``.
        where: it stands, for errors.
    """
    pairs: dict[str, dict[str, str]] = {}
    for peft, name in names.items():
        found = _PEFT_NAME.fullmatch(peft)
        assert found is not None
        pairs.setdefault(found[1], {})[found[2]] = name
    updates = {}
    for module, pair in pairs.items():
        if len(pair) != 2:
            raise UserError(f"{tensors.path}: {module} has lora_{next(iter(pair))} only; the file is not whole")
        a, b = tensors.shape(pair["A"]), tensors.shape(pair["B"])
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise UserError(f"{tensors.path}: {module}: A {list(a)} and B {list(b)} are not [r, in] and [out, r]")
        rank = _pattern(config.get("rank_pattern"), module, config.get("r"))
        alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
        # the scaling is alpha over this rank, so that a wrong one scales the update wrongly
        if rank != a[0]:
            raise UserError(f"{where}: {module} has rank {a[0]} in the weights and {rank} here; one of them is wrong")
        if not isinstance(alpha, int | float):
            raise UserError(f"{where}: lora_alpha is {alpha!r}; without a number the scaling is not known")
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        updates[module] = Factors(pair["A"], pair["B"], rank, scaling, (b[0], a[1]))
    return updates


def _pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches, by the rule of ``peft.utils.other.get_pattern_key``."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def all_modules(adapters: Iterable[Adapter]) -> list[str]:
    """Return the layers that any of the adapters changes, in the order of their first mention."""
    # a dict, because a set would give another order each time
    return list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
