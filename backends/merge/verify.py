"""Verification of what was written: every tensor against its rounding bound, and logits against peft's.

Legend: n prompts, v vocabulary, in and out the widths of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.merge.adapters import Adapter
from backends.merge.base import Base, source_of
from backends.merge.into_base import unties
from backends.weights.dtypes import ROUNDOFF, rows_in_blocks
from converters.common.console import progress
from converters.common.errors import UserError

if TYPE_CHECKING:
    import torch

    from converters.text.base import Template
    from converters.tokenizers.base import Tokenizer

# The most that logits may differ in float32 without any rounding of the weights, in their standard deviations: sums in
# another order. With rounding, this many times what random noise of the rounding's size does to them.
FLOAT32_DIFFERENCE, NOISE_FACTOR = 1e-3, 4.0
TEXTS = (
    "计算 12.5 + 7.25 等于多少？",
    "What is the capital of France, and why did it become the capital?",
    "Write one sentence about the sea.",
    "def add(a, b):\n    return",
)


def check_tensors(base: Base, adapters: Sequence[Adapter], read: Callable[[str], np.ndarray], kinds: set[str]) -> float:
    """Compare every written tensor with base and adapters, by its action on a random vector.

    With unit roundoff u of the type, each row of a correctly rounded W' has |W'x − (Wx + Σ wᵢsᵢBᵢAᵢx)| ≤ u·|W'||x|,
    besides the float32 of this check itself. The update is applied factor by factor here, so that the product that
    was merged is not compared with itself.

    Args:
        base: what was merged into.
        adapters: what was added.
        read: returns a written tensor by the base's name of it.
        kinds: floating-point types that were written.

    Returns:
        The largest part of its bound that any row took, 0 to 1.

    Raises:
        UserError: a tensor is not what it should be.
    """
    roundoff = max((ROUNDOFF[kind] for kind in kinds), default=0.0)
    # sums of float32 products here: error far below that of a 16-bit rounding, about that of a float32 one
    noise = 32 * ROUNDOFF["F32"]
    unit = roundoff + noise
    # near zero rounding is absolute: 2^-24 is the smallest float16, 2^-126 the smallest normal float32 and bfloat16
    tiny = 2.0**-24 if "F16" in kinds else 2.0**-126
    modules = {base.weight_name(module): module for adapter in adapters for module in adapter.modules}
    # a fixed seed: a check that fails, fails again
    random = np.random.default_rng(0)
    worst = 0.0
    names = [*base.tensors]
    if unties(base, adapters) and base.weight_name("lm_head") not in base.tensors:
        # a head that was untied is in the result and not in the base
        names.append(base.weight_name("lm_head"))
    for name in progress(names, desc="check", unit="tensor"):
        module = modules.get(name)
        source = source_of(base, module) if module else name
        before, after = base.tensors.read(source), read(name)
        if before.shape != after.shape:
            raise UserError(f"{name}: {list(after.shape)} was written for {list(before.shape)}")
        if base.tensors.dtype(source) not in ROUNDOFF:
            if not np.array_equal(before, after):
                raise UserError(f"{name}: was changed in writing")
            continue
        matrix = before.reshape(len(before), -1) if before.ndim else before.reshape(1, 1)
        written = after.reshape(matrix.shape)
        # a random vector meets every wrong row almost surely, at the cost of one product
        x = random.standard_normal(matrix.shape[1]).astype(np.float32)
        update, size = np.zeros(len(matrix), np.float32), np.zeros(len(matrix), np.float32)
        for adapter in adapters:
            if module in adapter.modules:
                a, b = adapter.update(module)
                update += b @ (a @ x)
                size += np.abs(b) @ (np.abs(a) @ np.abs(x))
        for rows in rows_in_blocks(matrix.shape):
            now = written[rows].astype(np.float32)
            expected = matrix[rows].astype(np.float32) @ x + update[rows]
            bound = unit * (np.abs(now) @ np.abs(x)) + noise * size[rows] + tiny * np.abs(x).sum()
            part = float((np.abs(now @ x - expected) / bound).max(initial=0.0))
            # "not <=" refuses a NaN as well
            if not part <= 1.0:
                raise UserError(f"{name}: what was written is not base and adapters: {part:.3g} × its rounding off")
            worst = max(worst, part)
    return worst


@dataclass(frozen=True)
class LogitCheck:
    """How far the merged model's logits are from those of the base with the adapters beside it.

    Attributes:
        tokens: positions compared.
        difference: largest |merged − beside|, relative to the standard deviation of the logits.
        effect: largest |beside − base| in the same unit: what the adapters do.
        noise: largest change by random noise of the size of the rounding, on all weights; 0 for float32.
        same_first: share of positions where both put the same token first.
    """

    tokens: int
    difference: float
    effect: float
    noise: float
    same_first: float

    @property
    def limit(self) -> float:
        """The largest difference that rounding explains."""
        return max(FLOAT32_DIFFERENCE, NOISE_FACTOR * self.noise)

    def as_json(self) -> dict[str, float]:
        """The figures with six digits."""
        return {name: float(f"{value:.6g}") for name, value in vars(self).items()}

    def as_text(self) -> str:
        """The figures as a sentence."""
        return (
            f"merged − adapter at most {self.difference:.2g}, adapter − base {self.effect:.2g}, rounding may be "
            f"{self.limit:.2g} (standard deviations of the logits; {self.tokens} tokens, same first in "
            f"{self.same_first:.1%})"
        )


def compare_logits(
    merged: Path, base: Path, adapters: Sequence[Adapter], rows: Sequence[list[int]], kinds: set[str], device: str
) -> LogitCheck:
    """Compare logits in float32: merged weights read back, against stock peft with the adapters on the base.

    Args:
        merged: directory of the merged model.
        base: directory of the base.
        adapters: PEFT directories and their weights.
        rows: token ids of the prompts.
        kinds: floating-point types that were written.
        device: auto, cpu or cuda.

    Returns:
        The differences, in standard deviations of the logits of base and adapters.

    Raises:
        UserError: ``cuda`` is asked for and torch sees no such device.
    """
    import torch

    target = _device(device)
    model = _beside(_load(base), adapters).to(target).eval()
    beside = _logits(model, rows, target)
    with model.disable_adapter():
        plain = _logits(model, rows, target)
    # how much rounding may move the logits depends on the model: measured here, with noise of its size on this one
    noisy = beside
    if kinds != {"F32"}:
        _disturb(model, max(ROUNDOFF[kind] for kind in kinds))
        noisy = _logits(model, rows, target)
    # one float32 model in memory at a time
    del model
    found = _logits(_load(merged).to(target).eval(), rows, target)
    # the unit of all figures: logits have no scale of their own
    spread = float(beside.std())
    return LogitCheck(
        tokens=len(beside),
        difference=float((found - beside).abs().max()) / spread,
        effect=float((beside - plain).abs().max()) / spread,
        noise=float((beside - noisy).abs().max()) / spread,
        same_first=float((found.argmax(-1) == beside.argmax(-1)).to(torch.float32).mean()),
    )


def prompts(template: Template | None, tokenizer: Tokenizer) -> list[list[int]]:
    """Return a few questions as token ids.

    Args:
        template: to ask them in; None, or one that needs a passage, leaves them as plain text.
        tokenizer: of the merged model.
    """
    from converters.text.conversation import Turn
    from mindrecord.tokens.encode import encode_prompts

    # a template with a passage has no form for a question alone
    if template is None or template.needs_passage:
        return [ids for ids in tokenizer.encode_batch(TEXTS) if ids]
    return encode_prompts([[Turn("user", text)] for text in TEXTS], template, tokenizer)


def _device(name: str) -> torch.device:
    """Return the device; ``auto`` falls back to the CPU, ``cuda`` does not."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device; --device cpu or auto compares without one")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _load(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    # float32 and plain attention, so that differences come from the weights and not from the computation
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True, trust_remote_code=False
    )


def _beside(model: Any, adapters: Sequence[Adapter]) -> Any:
    """Put the adapters beside the base with peft, all at once, each with its weight."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    names = [f"adapter{i}" for i in range(len(adapters))]
    tuned = PeftModel.from_pretrained(model, str(adapters[0].path), adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        tuned.load_adapter(str(adapter.path), adapter_name=name)
    tuned.base_model.set_adapter(names)
    # peft has no weight for an adapter, but a scaling for each layer that it is on
    for layer in tuned.modules():
        if isinstance(layer, LoraLayer):
            for name, adapter in zip(names, adapters, strict=True):
                if name in layer.scaling:
                    layer.scaling[name] *= adapter.weight
    return tuned


def _disturb(model: Any, roundoff: float) -> None:
    """Change every weight by a random part of at most ``roundoff``, as rounding does."""
    import torch

    # drawn on the CPU: the same noise, and the same limit, on every device
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            part = torch.rand(parameter.shape, generator=generator).mul_(2 * roundoff).sub_(roundoff)
            parameter.mul_(part.add_(1).to(parameter.device))


def _logits(model: Any, rows: Sequence[list[int]], device: torch.device) -> torch.Tensor:
    """Return float32[Σ tokens, v] on the CPU."""
    import torch

    with torch.no_grad():
        # one prompt at a time: no padding whose mask could make a difference
        return torch.cat([model(torch.tensor([ids], device=device)).logits[0].float().cpu() for ids in rows])
