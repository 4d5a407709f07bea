"""``doctor``: what is installed, what the device is, and whether a training step works on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from backends.run.environment import PACKAGES, DoctorReport, check_step, code_version, package_versions
from converters.common.console import format_table
from converters.common.errors import UserError

# the oldest versions that the code was written for
NEEDED = {"torch": (2, 6), "transformers": (4, 56), "peft": (0, 15), "safetensors": (0, 5), "numpy": (1, 26)}


def doctor(device_name: str, show: Callable[[str], None]) -> DoctorReport:
    """Check versions and devices, then train a tiny model with LoRA for two steps.

    Args:
        device_name: auto, cpu or cuda.
        show: is given each text as soon as it is known.

    Raises:
        UserError: a package is missing or too old, or the step does not work.
    """
    found = package_versions([*PACKAGES, "accelerate", "mindspore", "mindformers"])
    rows = []
    for name, version in found.items():
        least = NEEDED.get(name)
        state = (
            ""
            if least is None
            else "ok"
            if version and _version_numbers(version) >= least
            else f"needs ≥ {_dotted(least)}"
        )
        rows.append([name, version or "not installed", state])
    rows.append(["code", code_version() or "not a git checkout", ""])
    show(format_table(["package", "version", ""], rows, left=3))
    bad = [row[0] for row in rows if row[2].startswith("needs")]
    if bad:
        raise UserError(f"{', '.join(bad)}: missing or too old; pip install -e '.[cuda]'")

    import torch

    from backends.cuda.model import choose_device

    show("")
    show(f"torch: CUDA {torch.version.cuda or 'not built in'}, {torch.get_num_threads()} CPU threads")
    for index in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(index)
        show(
            f"cuda:{index}: {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free, "
            f"bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    device = choose_device(device_name)
    show(f"device: {device}")
    size = 4096 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    show(
        f"matrix product, {size}³ {str(dtype).removeprefix('torch.')}: {_matrix_rate(size, device, dtype):,.2f} TFLOP/s"
    )
    before, after, seconds = _two_steps(device)
    return check_step(DoctorReport(rows, str(device), (before, after), seconds), show)


def _matrix_rate(size: int, device: Any, dtype: Any) -> float:
    """Return the TFLOP/s of a square matrix product, the best of five: the first one also loads the library."""
    import torch

    left = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        left @ left
        if left.is_cuda:
            # a CUDA product returns before it is computed
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    # size³ multiplications and as many additions
    return 2 * size**3 / best / 1e12


def _two_steps(device: Any) -> tuple[float, float, float]:
    """Return the loss before and after two steps on fixed rows, and the seconds that took."""
    import numpy as np
    import torch

    from backends.cuda import attention
    from backends.cuda.model import add_lora, llama_config, new_model
    from backends.cuda.train.batches import micro_batches
    from backends.cuda.train.step import sum_nll
    from backends.recipe.types import ModelConfig, PetConfig
    from mindrecord.tokens.encode import TokenRows

    sizes = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, n_kv_heads=2, vocab_size=128, intermediate_size=128)
    model = add_lora(new_model(llama_config(sizes), 0, attention.register()), PetConfig(), 0, "doctor").to(device)
    # rows of different lengths, so that packing is tried as well
    lengths = np.arange(8, 24)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = (np.arange(offsets[-1]) * 7 % 128).astype(np.int32)
    rows = TokenRows(ids, ids, offsets, [str(row) for row in range(len(lengths))])
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    target = torch.device(str(device))
    dtype = torch.bfloat16 if target.type == "cuda" else torch.float32
    losses = []
    began = time.perf_counter()
    # the third pass shows the loss after two steps
    for _ in range(3):
        (batch,) = micro_batches(rows, np.arange(len(rows)), 4096, target, packed=True, pad_id=0)
        loss = sum_nll(model, batch, dtype) / len(batch.targets)
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1], time.perf_counter() - began


def _version_numbers(version: str) -> tuple[int, ...]:
    # "2.11.0+cu130": behind the plus stands how it was built
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
