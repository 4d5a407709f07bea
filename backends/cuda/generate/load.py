"""What the torch backend offers to those who ask a model; see :class:`backends.generation.registry.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.generation.types import BATCH_TOKENS, GREEDY, Sampling
from converters.common.console import say

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.cuda.generate.decode import TorchGenerator


def load_generator(
    files: CheckpointFiles,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    sampling: Sampling = GREEDY,
) -> TorchGenerator:
    """Load the weights and return what answers prompts.

    In float32 an adapter is first added to its base: the same answers, without a second pass through every adapted
    layer. In a shorter type that sum would be rounded, so there the adapter stays beside it.
    """
    import torch

    from backends.cuda.generate.decode import TorchGenerator
    from backends.cuda.model import choose_device, choose_dtype, load_model, read_config

    where = choose_device(device)
    config = read_config(files.base or files.path)
    stored = str(getattr(config, "dtype", None) or torch.bfloat16).removeprefix("torch.")
    kind = choose_dtype(dtype, stored, where)
    below = f" on {files.base}" if files.base else ""
    say(f"loading {files.path}{below} ({str(kind).removeprefix('torch.')}, {where})")
    model, _ = load_model(files.path, where, kind, files.base)
    if kind == torch.float32 and hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return TorchGenerator(model, files.tokenizer.pad_id, batch_tokens=batch_tokens, sampling=sampling)
