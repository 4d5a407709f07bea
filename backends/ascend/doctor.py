"""``doctor``: what is installed against what is supported, what the device is, and whether a training step works."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.ascend.device import cards, choose, looked_for, start
from backends.run.environment import DoctorReport, check_step, code_version, package_versions
from converters.common.console import format_table
from converters.common.errors import UserError, first_line

# mindformers' own table of releases that go together (VERSION_MAP.json of 1.9.0), from cards back to packages
SUPPORTED = {"mindspore": "2.9.0", "mindformers": "1.9.0", "mindpet": "1.0.4"}
CANN, DRIVER = "9.0.0", "26.0.RC1"
INFO_FILES = ("compiler/version.info", "version.cfg", "version.info")


def doctor(device: str, show: Callable[[str], None]) -> DoctorReport:
    """Check versions and devices, then train a tiny model with LoRA for two steps.

    Args:
        device: auto, cpu or npu.
        show: is given each text as soon as it is known.

    Raises:
        UserError: a package is missing or another release, there is no card where one was asked for, or the step does
            not work; with what to do.
    """
    found = package_versions([*SUPPORTED, "numpy", "tokenizers", "torch", "transformers", "peft", "twinlora"])
    rows = []
    for name, version in found.items():
        wanted = SUPPORTED.get(name)
        state = "" if wanted is None else "ok" if version == wanted else f"needs {wanted}"
        rows.append([name, version or "not installed", state])
    cann, driver, here = cann_version(), driver_version(), cards()
    rows.append(["CANN", cann or "not found", _judge(cann, CANN, bool(here))])
    rows.append(["driver", driver or "not found", _judge(driver, DRIVER, bool(here))])
    rows.append(["cards", str(len(here)), "" if here else "CPU only"])
    rows.append(["code", code_version() or "not a git checkout", ""])
    show(format_table(["", "version", ""], rows, left=3))
    # the packages of SUPPORTED come first; other CANN and driver releases may work and do not fail the check
    bad = [row[0] for row in rows[: len(SUPPORTED)] if row[2].startswith("needs")]
    if bad:
        raise UserError(f"{', '.join(bad)}: missing or another release; pip install -c constraints.txt -e '.[ascend]'")
    target = choose(device)
    if target == "npu" and cann is None:
        raise UserError(
            f"{len(here)} card(s), but no CANN (looked for {looked_for()}): install CANN {CANN} and "
            "`source /usr/local/Ascend/ascend-toolkit/set_env.sh`"
        )
    show(f"device: {target}")
    before, after, seconds = _two_steps(target)
    return check_step(DoctorReport(rows, target, (before, after), seconds), show)


def cann_version() -> str | None:
    """Return the release of CANN at ``ASCEND_HOME_PATH``, None where there is none."""
    home = os.environ.get("ASCEND_HOME_PATH")
    for name in INFO_FILES if home else ():
        file = Path(str(home)) / name
        match = re.search(r"[Vv]ersion\w*=\[?([\w.]+)", file.read_text(errors="replace")) if file.is_file() else None
        if match:
            return match[1]
    return None


def driver_version() -> str | None:
    """Return the release of the driver, from its own file or ``npu-smi``; None where there is none."""
    file = Path("/usr/local/Ascend/driver/version.info")
    if file.is_file():
        match = re.search(r"^Version=([\w.]+)", file.read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1]
    try:
        shown = subprocess.run(["npu-smi", "info"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"npu-smi\s+([\w.]+)", shown)
    return match[1] if match else None


def _judge(found: str | None, wanted: str, needed: bool) -> str:
    if found is None:
        return f"needs {wanted}" if needed else f"{wanted} for cards"
    return "ok" if found.upper().startswith(wanted.upper()) else f"made for {wanted}; others may work"


def _two_steps(device: str) -> tuple[float, float, float]:
    """Return the loss before and after two optimizer steps on fixed rows, and the seconds that took."""
    start(device)
    import numpy as np
    from mindformers import LlamaConfig, LlamaForCausalLM
    from mindformers.core.optim import AdamW
    from mindformers.pet import get_pet_model
    from mindformers.pet.pet_config import LoraConfig
    from mindformers.wrapper import MFTrainOneStepCell
    from mindspore import Tensor

    from backends.ascend.train.config import CPU_MODEL

    step: Any = MFTrainOneStepCell
    if device == "cpu":
        from backends.ascend.train.registered import CPUTrainOneStepCell

        step = CPUTrainOneStepCell
    settings = CPU_MODEL if device == "cpu" else {"compute_dtype": "bfloat16", "param_init_type": "bfloat16"}
    try:
        network = LlamaForCausalLM(
            LlamaConfig(
                batch_size=4,
                seq_length=32,
                hidden_size=64,
                num_layers=2,
                num_heads=4,
                n_kv_heads=2,
                vocab_size=128,
                intermediate_size=128,
                pad_token_id=0,
                checkpoint_name_or_path="",
                **settings,
            )
        )
        lora = LoraConfig(lora_rank=4, lora_alpha=8, lora_dropout=0.0, target_modules=".*wq|.*wv")
        with contextlib.redirect_stdout(io.StringIO()):  # mindpet reports what it freezes
            network = get_pet_model(network, lora)
        optimizer = AdamW(network.trainable_params(), learning_rate=0.05)
        train = step(network, optimizer, use_clip_grad=True, scale_sense=1.0)
        train.set_train(True)
        # a training row is seq_length + 1 long; ids from 1, since 0 is the pad
        ids = Tensor((np.arange(4 * 33) * 7 % 127 + 1).reshape(4, 33).astype(np.int32))
        began = time.perf_counter()
        # the third pass shows the loss after two steps
        losses = [float(np.asarray(train(ids, ids)[0].asnumpy(), np.float32).reshape(-1)[0]) for _ in range(3)]
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"a training step does not work on this {device}: {first_line(error)}") from error
    return losses[0], losses[-1], time.perf_counter() - began
