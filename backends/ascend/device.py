"""The way into MindSpore: a quiet import, and a device that is there.

MindSpore and mindformers print a lot, and early: warnings about a missing card when imported, a log on stdout, a folder
``output/log`` in the user's directory. :func:`start` prevents that before the first import. Errors are still shown.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from backends.run.machine import cpu_threads, free_memory
from converters.common.console import say
from converters.common.errors import UserError, first_line

# what runs besides the weights: activations of a small batch, the compiled graph, MindSpore itself
CPU_SAFETY = 1.5


def start(
    device: str, *, threads: int | None = None, parameters: int | None = None, log_folder: str | Path | None = None
) -> str:
    """Import MindSpore and mindformers quietly, and choose the device, in graph mode.

    Args:
        device: ``npu``, ``cpu``, or ``auto``: a card where there is one, else the CPU with a message.
        threads: threads of MindSpore's CPU kernels; None takes the cores that this process may use.
        parameters: number of the model's parameters; ``auto`` refuses the CPU if they do not fit its memory in float32.
        log_folder: where mindformers keeps its own log; None puts it in a folder that is deleted at the end.

    Returns:
        ``npu`` or ``cpu``.

    Raises:
        UserError: MindSpore or mindformers is not installed, there is no card, or the model does not fit the CPU.
    """
    chosen = choose(device, parameters)
    silence(log_folder)
    ms = _import()
    try:
        if chosen == "npu":
            # msrun's workers are given their cards by MindSpore
            ms.set_device("Ascend", *([] if "MS_ROLE" in os.environ else [int(os.environ.get("DEVICE_ID", "0"))]))
        else:
            ms.set_device("CPU")
            ms.device_context.cpu.op_tuning.threads_num(threads or cpu_threads())
        # op by op (PyNative mode) a small training step takes about 50 times as long
        ms.set_context(mode=ms.GRAPH_MODE)
    except RuntimeError as error:
        # MindSpore lets a process set its device once; the words are those of its message
        if any(word in str(error) for word in ("modified", "initialized", "repeatedly")):
            return chosen  # already set in this process
        raise UserError(
            f"--device npu: {len(cards())} Ascend card(s) here, but MindSpore cannot use them "
            f"({first_line(error)})\n`python -m backends.ascend doctor` compares versions; --device cpu runs without"
        ) from error
    return chosen


def choose(device: str, parameters: int | None = None) -> str:
    """Choose the device without MindSpore; arguments, result and errors as :func:`start`."""
    if device == "npu" and not cards():
        raise UserError(f"--device npu: no Ascend card; looked for {looked_for()}\n--device cpu runs small models here")
    if device == "npu" or (device == "auto" and cards()):
        return "npu"
    if device == "auto":
        _check_fit(parameters)
        speak("device: CPU (no Ascend card found)")
    return "cpu"


def cards() -> list[str]:
    """Return the device files of the Ascend cards that this process can see."""
    return sorted(str(file) for file in Path("/dev").glob("davinci[0-9]*"))


def looked_for() -> str:
    """Say in words where a card was looked for, for error messages."""
    home = os.environ.get("ASCEND_HOME_PATH")
    return f"/dev/davinci0 … (driver) and CANN (ASCEND_HOME_PATH is {home or 'not set'})"


def rank() -> int:
    """Return the number of this process among those that ``msrun`` started, from 0."""
    return int(os.environ.get("RANK_ID", "0"))


def speak(message: str) -> None:
    """Print one line to stderr, in the first process only."""
    if rank() == 0:
        say(message)


def silence(log_folder: str | Path | None = None) -> None:
    """Set what keeps MindSpore and mindformers off the terminal; to be called before they are imported.

    ``GLOG_v`` (0 all … 3 errors) stays as the user set it.
    """
    os.environ.setdefault("GLOG_v", "3")
    if log_folder is not None:
        log = Path(log_folder).resolve()
        os.environ |= {"LOG_MF_PATH": str(log), "LOCAL_DEFAULT_PATH": str(log.parent)}
    elif "LOG_MF_PATH" not in os.environ:
        folder = tempfile.mkdtemp(prefix="mindformers-log-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # a network with LoRA writes its settings into the second; without it that is ./output
        os.environ |= {"LOG_MF_PATH": folder, "LOCAL_DEFAULT_PATH": folder}


def _import() -> Any:
    """Import both packages without their messages, and send mindformers' errors to stderr."""
    talk = io.StringIO()
    try:
        # mindformers binds its log to sys.stdout while it is imported
        with contextlib.redirect_stdout(talk):
            import mindspore as ms
            from mindformers.tools.logger import logger_list
    except ImportError as error:
        raise UserError(
            f"MindSpore and mindformers are needed ({first_line(error)}): pip install -e '.[ascend]'"
        ) from error
    for name in logger_list:
        log = logging.getLogger(name)
        for handler in list(log.handlers):
            # mindformers' handler of stdout, which is for answers and JSON; its log file stays
            if type(handler).__name__ == "LimitedRepeatHandler":
                log.removeHandler(handler)
        errors = logging.StreamHandler(sys.stderr)
        errors.setLevel(logging.ERROR)
        errors.setFormatter(logging.Formatter("mindformers: %(message)s"))
        log.addHandler(errors)
    return ms


def _check_fit(parameters: int | None) -> None:
    """Refuse to fall back to the CPU with a model that does not fit it."""
    if parameters is None:
        return
    # float32: 4 bytes a parameter
    need, free = parameters * 4 * CPU_SAFETY, free_memory()
    if need > free:
        raise UserError(
            f"no Ascend card found (looked for {looked_for()}), and {parameters:,} parameters need "
            f"{need / 1e9:,.1f} GB on the CPU where {free / 1e9:,.1f} GB are free\n"
            "run it where a card is; --device cpu tries all the same"
        )
