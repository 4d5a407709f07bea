"""What the torch backend offers; see :class:`backends.generation.registry.Backend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backends.generation.batching import tokens_of_pass
from backends.generation.registry import Backend
from backends.generation.types import BATCH_TOKENS, GREEDY, Sampling
from backends.run.machine import ensure_memory, free_memory
from converters.common.console import say

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.cuda.generate.generator import TorchGenerator
    from backends.recipe.types import Recipe
    from backends.run.directory import Run
    from backends.run.environment import DoctorReport


class TorchBackend(Backend):
    """PyTorch, transformers and PEFT, on CUDA or on the CPU."""

    name = "cuda"
    description = "Fine-tune and use models with PyTorch and PEFT, on CUDA or on the CPU."
    examples = """examples:
  python -m backends.cuda plan yaml/llama3_lora.yaml
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  torchrun --nproc_per_node 4 -m backends.cuda train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
"""
    packages = ("torch", "transformers", "peft")
    devices = ("auto", "cpu", "cuda")
    card_files = "nvidia[0-9]*"
    train_dtypes = ("float32", "bfloat16")

    def train(self, recipe: Recipe, *, device: str, dtype: str, resume: bool, workers: int = 1) -> Run:
        """Train a recipe into its run directory, in this process or among those of ``torchrun``."""
        from backends.cuda.train.run import train

        return train(recipe, device=device, dtype=dtype, resume=resume)

    def load_generator(
        self,
        files: CheckpointFiles,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = BATCH_TOKENS,
        sampling: Sampling = GREEDY,
    ) -> TorchGenerator:
        """Load the weights and return what answers prompts.

        In float32 an adapter is first merged into its base: the answers are the same, and each adapted layer computes
        one product less. In a shorter type the merged weights would be rounded, so there the adapter stays separate.

        Args:
            files: the checkpoint.
            device: ``auto``, ``cpu`` or ``cuda``.
            dtype: of the weights; ``auto`` takes the checkpoint's on a card and float32 on the CPU.
            batch_tokens: rows of a batch times its longest prompt and answer.
            sampling: how tokens are chosen.

        Raises:
            UserError: ``cuda`` was asked for and there is none, or the weights cannot be read.
        """
        import torch

        from backends.cuda.generate.generator import TorchGenerator
        from backends.cuda.model import choose_device, choose_dtype, load_model, read_config

        where = choose_device(device)
        # an adapter directory has no config.json; its base has
        config = read_config(files.base or files.path)
        # a config.json may name no type
        stored = str(getattr(config, "dtype", None) or torch.bfloat16).removeprefix("torch.")
        kind = choose_dtype(dtype, stored, where, source="checkpoint")
        if where.type == "cpu":
            batch_tokens = fitting_batch(config, files.parameters["base"] or 0, kind.itemsize, batch_tokens)
        below = f" on {files.base}" if files.base else ""
        say(f"loading {files.path}{below} ({str(kind).removeprefix('torch.')}, {where})")
        model, _ = load_model(files.path, where, kind, files.base)
        # only a PEFT model has merge_and_unload
        if kind == torch.float32 and hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        generator = TorchGenerator(model, files.tokenizer.pad_id, batch_tokens=batch_tokens, sampling=sampling)
        if where.type == "cpu":
            generator.pass_tokens = tokens_of_pass(sum(p.numel() for p in model.parameters()))
        return generator

    def doctor(self, device: str, show: Callable[[str], None]) -> DoctorReport:
        """Check versions and devices, and train a tiny model for two steps."""
        from backends.cuda.doctor import doctor

        return doctor(device, show)


def fitting_batch(config: Any, parameters: int, width: int, batch_tokens: int, free: float | None = None) -> int:
    """Return the tokens of a batch that a CPU's memory holds beside the weights: those asked for, or fewer.

    Args:
        config: Hugging Face configuration of the model.
        parameters: of the model.
        width: bytes of a weight.
        batch_tokens: asked for.
        free: bytes that can still be taken; None asks the machine.

    Raises:
        UserError: the weights do not fit.
    """
    free = free_memory() if free is None else free
    # the weights, and a tenth for one forward pass
    weights = 1.1 * width * parameters
    ensure_memory(weights, f"a model of {parameters:,} parameters", "--dtype bfloat16 halves it", free)
    heads = getattr(config, "num_attention_heads", 1)
    d = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads
    # keys and values of a token in all layers; rows that leave the batch are copied once
    token = (
        2
        * 2
        * width
        * getattr(config, "num_hidden_layers", 0)
        * d
        * (getattr(config, "num_key_value_heads", None) or heads)
    )
    able = int((free - weights) / token) if token else batch_tokens
    if able < batch_tokens:
        say(f"memory: {free / 1e9:.1f} GB are free, so a batch takes {able:,} tokens, not {batch_tokens:,}")
    return max(1, min(batch_tokens, able))


BACKEND = TorchBackend()
