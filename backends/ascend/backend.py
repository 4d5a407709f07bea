"""What the MindSpore backend offers; see :class:`backends.generation.registry.Backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from backends.generation.batching import tokens_of_pass
from backends.generation.registry import Backend
from backends.generation.types import BATCH_TOKENS, GREEDY, Sampling
from converters.common.console import say
from converters.common.errors import UsageError

if TYPE_CHECKING:
    from backends.ascend.generate.generator import MindSporeGenerator
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.recipe.types import Recipe
    from backends.run.directory import Run
    from backends.run.environment import DoctorReport


class AscendBackend(Backend):
    """MindSpore and mindformers, on Ascend cards or on MindSpore's CPU build."""

    name = "ascend"
    description = "Fine-tune and use models with MindSpore and mindformers, on Ascend cards or on the CPU."
    examples = """examples:
  python -m backends.ascend plan yaml/llama3_lora.yaml
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --resume
  python -m backends.ascend train yaml/llama3_lora.yaml load_checkpoint=DIR data.train=rows.jsonl --workers 4
  python -m backends.ascend train yaml/demo.yaml data.train=rows.jsonl output_dir=runs/try --device cpu
"""
    packages = ("mindspore", "mindformers", "mindpet")
    devices = ("auto", "cpu", "npu")
    card_files = "davinci[0-9]*"
    has_workers = True
    plan_purpose = "Predict parameters, steps, memory and time, and print the launch commands."
    doctor_purpose = "Check CANN, driver and versions, and train a tiny model for one step."
    extra_commands: ClassVar = {
        "unshard": ("backends.ascend.cli", "Join the distributed checkpoints of several cards into one.")
    }

    def train(self, recipe: Recipe, *, device: str, dtype: str = "auto", resume: bool, workers: int) -> Run:
        """Train a recipe into its run directory, in this process or in those that ``msrun`` starts."""
        from backends.ascend.train.run import train

        return train(recipe, device=device, resume=resume, workers=workers)

    def load_generator(
        self,
        files: CheckpointFiles,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = BATCH_TOKENS,
        sampling: Sampling = GREEDY,
    ) -> MindSporeGenerator:
        """Load the weights and return what answers prompts.

        Args:
            files: the checkpoint.
            device: ``auto``, ``cpu`` or ``npu``.
            dtype: of the weights; ``auto`` takes bfloat16 on a card and float32 on the CPU.
            batch_tokens: rows of a batch times its longest prompt and answer.
            sampling: how tokens are chosen.

        Raises:
            UsageError: the device cannot compute in this type.
            UserError: there is no such device, or the model is not one that mindformers carries.
        """
        from backends.ascend.device import start
        from backends.ascend.model import load_network, model_config

        sizes = model_config(files.base or files.path)  # what cannot be run is said before MindSpore is imported
        where = start(device, parameters=files.parameters["base"])
        if where == "cpu" and dtype not in ("auto", "float32"):
            # its CPU build has no bfloat16 Gather, which the embedding needs
            raise UsageError(f"--dtype {dtype}: MindSpore's CPU build computes this model in float32 only")
        kind = dtype if dtype != "auto" else "float32" if where == "cpu" else "bfloat16"
        # these import MindSpore, so they wait for the start
        from backends.ascend.generate.cached_forward import CachedForward
        from backends.ascend.generate.generator import MindSporeGenerator, PagedGenerator, paged_settings

        below = f" on {files.base}" if files.base else ""
        say(f"loading {files.path}{below} ({kind}, {where}, MindSpore)")
        options: dict[str, Any] = {"batch_tokens": batch_tokens, "sampling": sampling}
        if where == "npu":
            # paged attention has a kernel on cards only; elsewhere keys and values are kept by CachedForward
            network = load_network(files, kind, **paged_settings(batch_tokens, sizes["max_position_embedding"]))
            return PagedGenerator(network, files.tokenizer.pad_id, **options)
        generator = MindSporeGenerator(CachedForward(load_network(files, kind)), files.tokenizer.pad_id, **options)
        generator.pass_tokens = tokens_of_pass(files.parameters["base"] or 0)
        return generator

    def doctor(self, device: str, show: Callable[[str], None]) -> DoctorReport:
        """Check CANN, driver and versions, and train a tiny model for two steps."""
        from backends.ascend.doctor import doctor

        return doctor(device, show)

    def launch_commands(self, recipe: Recipe, path: str | None, overrides: Sequence[str]) -> str:
        """Return the commands that train a recipe on one card, on several, and on the CPU."""
        from backends.ascend.train.launch import launch_text

        return launch_text(recipe, path, overrides)


BACKEND = AscendBackend()
