"""What the MindSpore backend offers to those who ask a model; see :class:`backends.generation.registry.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.generation.types import BATCH_TOKENS, GREEDY, Sampling
from converters.common.console import say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.ascend.generate.decode import MindSporeGenerator
    from backends.checkpoint.resolve import CheckpointFiles


def load_generator(
    files: CheckpointFiles,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    sampling: Sampling = GREEDY,
) -> MindSporeGenerator:
    """Load the weights and return what answers prompts.

    Raises:
        UsageError: the device cannot compute in this type.
        UserError: there is no such device, or the model is not one that mindformers carries.
    """
    from backends.ascend.device import start
    from backends.ascend.model import model_config

    sizes = model_config(files.base or files.path)  # what cannot be run is said before MindSpore is imported
    where = start(device, parameters=files.parameters["base"])
    if where == "cpu" and dtype not in ("auto", "float32"):
        raise UsageError(f"--dtype {dtype}: MindSpore's CPU build computes this model in float32 only")
    kind = dtype if dtype != "auto" else "float32" if where == "cpu" else "bfloat16"
    from backends.ascend.generate.cached_forward import CachedForward
    from backends.ascend.generate.decode import MindSporeGenerator
    from backends.ascend.generate.paged import PagedGenerator, paged_settings
    from backends.ascend.model import load_network

    below = f" on {files.base}" if files.base else ""
    say(f"loading {files.path}{below} ({kind}, {where}, MindSpore)")
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "sampling": sampling}
    if where == "npu":
        network = load_network(files, kind, **paged_settings(batch_tokens, sizes["max_position_embedding"]))
        return PagedGenerator(network, files.tokenizer.pad_id, **options)
    return MindSporeGenerator(CachedForward(load_network(files, kind)), files.tokenizer.pad_id, **options)
