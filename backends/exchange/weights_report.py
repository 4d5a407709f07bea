"""A report on weights: every tensor with shape and type, the totals, and the settings of an adapter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.exchange.adapters import UnknownScaling, check_matrices, recorded_config
from backends.weights.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.names import is_lora, mindformers_to_peft
from backends.weights.safetensors_files import Tensors
from converters.common.console import format_table
from converters.common.reader import read_json
from converters.common.shipped import locate_model


@dataclass(frozen=True)
class WeightsReport:
    """Tensors of a model or an adapter.

    Attributes:
        path: directory or file that was read.
        tensors: its tensors.
        adapter: rank, alpha, scaling, targets and base of a LoRA; None for a whole model.
    """

    path: Path
    tensors: Tensors
    adapter: dict[str, Any] | None

    @property
    def total(self) -> dict[str, Any]:
        """Counts over all tensors: ``tensors``, ``parameters``, ``bytes``, and parameters by type."""
        kinds: Counter[str] = Counter()
        for entry in self.tensors.entries.values():
            kinds[entry.dtype] += entry.size
        return {
            "tensors": len(self.tensors),
            "parameters": sum(kinds.values()),
            "bytes": sum(entry.nbytes for entry in self.tensors.entries.values()),
            "dtypes": dict(kinds),
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        listed = [
            {"name": name, "shape": list(entry.shape), "dtype": entry.dtype}
            for name, entry in self.tensors.entries.items()
        ]
        return {"path": str(self.path), "adapter": self.adapter, "total": self.total, "tensors": listed}

    def as_text(self) -> str:
        """A table, and the totals under it."""
        rows = [(name, list(entry.shape), entry.dtype) for name, entry in self.tensors.entries.items()]
        total = self.total
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in total["dtypes"].items())
        size = total["bytes"] / 2**20
        lines = [
            format_table(("tensor", "shape", "dtype"), rows),
            "",
            f"{total['tensors']} tensors, {total['parameters']:,} parameters ({kinds}), {size:,.1f} MiB",
        ]
        if self.adapter is not None:
            alpha, scaling = self.adapter["lora_alpha"], self.adapter["scaling"]
            known = f"alpha {alpha:g}, scaling {scaling:g}" if alpha is not None else "alpha is not recorded"
            targets = ", ".join(self.adapter["target_modules"])
            lines += [
                f"LoRA: rank {self.adapter['rank']}, {known}; {targets} in {self.adapter['layers']} layers",
                f"base: {self.adapter['base'] or '(not recorded)'}",
            ]
        return "\n".join(lines)


def inspect(path: Path) -> WeightsReport:
    """List the tensors of a model or an adapter, Hugging Face's or mindformers', and the settings of a LoRA.

    Raises:
        UsageError: there are no weights at ``path``.
        UserError: a file is damaged, or a LoRA's matrices do not belong together.
    """
    path = Path(locate_model(path))
    if path.is_dir() and (path / ADAPTER_WEIGHTS).is_file():
        tensors = open_weights(path / ADAPTER_WEIGHTS)
        config = read_json(path / ADAPTER_CONFIG) if (path / ADAPTER_CONFIG).is_file() else {}
        return WeightsReport(path, tensors, _peft(tensors, config))
    tensors = open_weights(path)
    names = [name for name in tensors.names() if is_lora(name)]
    if not names:
        return WeightsReport(path, tensors, None)
    # a file out of a PEFT adapter, named without its directory
    if not any(".mindpet_delta_lora_" in name for name in names):
        stated = path.parent / ADAPTER_CONFIG
        return WeightsReport(path, tensors, _peft(tensors, read_json(stated) if stated.is_file() else {}))
    # the optimizer's copies of the matrices have a prefix
    shapes = {mindformers_to_peft(name): tensors.shape(name) for name in names if name.startswith("model.layers.")}
    found = check_matrices(shapes, path)
    try:
        config, _ = recorded_config(path, tensors, found)
    # a report must not ask for what it can leave out
    except UnknownScaling:
        config = {}
    return WeightsReport(path, tensors, _summary(found.rank, found.layers, found.modules, config))


def _peft(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    """Summarise an adapter of PEFT, of any architecture: inspection refuses nothing that can be read."""
    ranks = Counter(tensors.shape(name)[0] for name in tensors if ".lora_A." in name)
    parts = [name.split(".") for name in tensors if ".lora_A." in name]
    layers = {part[part.index("layers") + 1] for part in parts if "layers" in part}
    modules = sorted({part[part.index("lora_A") - 1] for part in parts})
    # ranks may differ by layer in PEFT: the most frequent one is shown
    return _summary(ranks.most_common(1)[0][0] if ranks else None, len(layers), modules, config)


def _summary(rank: int | None, layers: int, modules: list[str], config: dict[str, Any]) -> dict[str, Any]:
    alpha = config.get("lora_alpha")
    # rank-stabilised LoRA divides by the root: arXiv 2312.03732
    divisor = None if rank is None else rank**0.5 if config.get("use_rslora") else rank
    return {
        "rank": rank,
        "lora_alpha": alpha,
        "scaling": alpha / divisor if alpha is not None and divisor else None,
        "target_modules": modules,
        "layers": layers,
        "base": config.get("base_model_name_or_path"),
    }
