"""The backends by name, and how one is chosen. Nothing heavy is imported before a model is loaded.

What is asked for by name is taken or refused. ``auto`` takes the backend whose accelerator is here, else the one that
is installed, and what uses it says which.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from backends.generation.types import DEFAULT_RUNTIME, GREEDY, Generator, Runtime, Sampling
from converters.common.console import say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles

BackendName = Literal["cuda", "ascend"]
BACKENDS: tuple[BackendName, ...] = ("cuda", "ascend")
# what must be installed for each, and the name that pip knows it by in this project
PACKAGES = {"cuda": ("torch", "transformers", "peft"), "ascend": ("mindspore", "mindformers", "mindpet")}
DEVICES: dict[BackendName, tuple[str, ...]] = {"cuda": ("auto", "cpu", "cuda"), "ascend": ("auto", "cpu", "npu")}
ACCELERATORS: dict[BackendName, str] = {"cuda": "nvidia[0-9]*", "ascend": "davinci[0-9]*"}


class Backend(Protocol):
    """What a backend offers to those who ask a model; the module ``backends.NAME.generate``."""

    def load_generator(
        self,
        files: CheckpointFiles,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = ...,
        sampling: Sampling = GREEDY,
    ) -> Generator:
        """Load the weights and return what answers prompts."""
        ...


def choose_backend(name: str = "auto", device: str = "auto") -> tuple[BackendName, str | None]:
    """Choose a backend without importing it.

    Args:
        name: ``cuda``, ``ascend`` or ``auto``.
        device: a device that only one backend has (``cuda``, ``npu``) chooses for ``auto``.

    Returns:
        Its name, and why it was taken where that was left open.

    Raises:
        UsageError: there is no such backend, or it has no such device.
        UserError: it is not installed, or none is.
    """
    if name == "auto":
        return _automatic(device)
    if name not in BACKENDS:
        raise UsageError(f"backend {name!r}: {', '.join(BACKENDS)} or auto is expected")
    chosen = cast(BackendName, name)
    if device not in DEVICES[chosen]:
        raise UsageError(f"--device {device}: the {chosen} backend has {', '.join(DEVICES[chosen])}")
    if absent := missing(chosen):
        raise UserError(f"--backend {chosen} needs {', '.join(absent)}: pip install -e '.[{chosen}]'")
    return chosen, None


def get_backend(name: str = "auto", device: str = "auto") -> Backend:
    """Return a backend, imported; the arguments and errors are those of :func:`choose_backend`."""
    chosen, _ = choose_backend(name, device)
    return cast(Backend, importlib.import_module(f"backends.{chosen}.generate.load"))


def load_generator(
    files: CheckpointFiles, runtime: Runtime = DEFAULT_RUNTIME, sampling: Sampling = GREEDY
) -> Generator:
    """Load the weights into a backend, and say which where that was left open.

    Raises:
        UsageError: there is no such backend, or it has no such device or type.
        UserError: the backend is not installed, or cannot run this model.
    """
    name, why = choose_backend(runtime.backend, runtime.device)
    if why:
        say(f"backend: {name} ({why})")
    return get_backend(name, runtime.device).load_generator(
        files, device=runtime.device, dtype=runtime.dtype, batch_tokens=runtime.batch_tokens, sampling=sampling
    )


def conditions(runtime: Runtime) -> dict[str, Any]:
    """Return what answers depend on besides files and limits, for the identity of an answer file.

    Raises:
        UserError: no backend can be chosen.
    """
    return {"backend": choose_backend(runtime.backend, runtime.device)[0], "dtype": runtime.dtype}


def missing(name: BackendName) -> list[str]:
    """Packages that a backend needs and that are not installed."""
    return [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]


def has_accelerator(name: BackendName) -> bool:
    """Whether the driver shows a card that the backend is for."""
    return any(Path("/dev").glob(ACCELERATORS[name]))


def _automatic(device: str) -> tuple[BackendName, str]:
    able: list[BackendName] = [name for name in BACKENDS if device in DEVICES[name]]
    if not able:
        known = sorted({device for devices in DEVICES.values() for device in devices})
        raise UsageError(f"--device {device}: {', '.join(known)} are the devices there are")
    installed = [name for name in able if not missing(name)]
    if not installed:
        wanted = " or ".join(f"pip install -e '.[{name}]'" for name in able)
        raise UserError(f"neither backend is installed: {wanted}" if len(able) > 1 else f"{device} needs {wanted}")
    if len(able) == 1:
        return installed[0], f"--device {device}"
    cards = [name for name in able if has_accelerator(name)]
    for name in cards:
        if name in installed:
            return name, "its card is here"
    if cards:
        return installed[0], f"a card for {cards[0]} is here, but {', '.join(missing(cards[0]))} is not installed"
    return installed[0], "no card found"
