"""The backends by name, what each offers, and how one is chosen. Nothing heavy is imported before it is needed.

A backend that is asked for by name is used or refused, never replaced. ``auto`` takes the backend whose accelerator is
in this machine, else the first that is installed, and a message says which.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from backends.generation.types import DEFAULT_RUNTIME, GREEDY, Runtime, Sampling
from converters.common.console import say
from converters.common.errors import UsageError, UserError

if TYPE_CHECKING:
    from backends.checkpoint.resolve import CheckpointFiles
    from backends.generation.base_generator import Generator
    from backends.recipe.types import Recipe
    from backends.run.directory import Run
    from backends.run.environment import DoctorReport

BackendName = Literal["cuda", "ascend"]
BACKENDS: tuple[BackendName, ...] = ("cuda", "ascend")
"""Each is a package ``backends.NAME`` whose module ``backend`` holds its :class:`Backend` as ``BACKEND``."""


class Backend(ABC):
    """What a backend offers; its command line's options follow from it. Importing one imports no framework.

    Attributes:
        name: of its package, and of ``--backend``.
        description: what its command line is for.
        examples: command lines to train with.
        packages: what must be installed, by the names that Python imports.
        devices: what ``--device`` takes, ``auto`` first.
        card_files: glob of the device files under ``/dev`` that its driver makes, one a card.
        train_dtypes: types of the matrix products that training can be told to take; empty where the device decides.
        has_workers: whether it starts several training processes itself.
        plan_purpose: what ``plan`` does.
        doctor_purpose: what ``doctor`` does.
        extra_commands: subcommands of this backend alone: a module with ``add_arguments(parser, backend)`` and
            ``run(args)``, and the purpose, by name.
    """

    name: ClassVar[BackendName]
    description: ClassVar[str]
    examples: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    devices: ClassVar[tuple[str, ...]]
    card_files: ClassVar[str]
    train_dtypes: ClassVar[tuple[str, ...]] = ()
    has_workers: ClassVar[bool] = False
    plan_purpose: ClassVar[str] = "Predict parameters, steps, memory and time without loading weights."
    doctor_purpose: ClassVar[str] = "Check versions and devices, and train a tiny model for two steps."
    extra_commands: ClassVar[Mapping[str, tuple[str, str]]] = {}

    @abstractmethod
    def train(self, recipe: Recipe, *, device: str, dtype: str, resume: bool, workers: int) -> Run:
        """Train a recipe into its run directory; arguments and errors as :func:`train`."""

    @abstractmethod
    def load_generator(
        self, files: CheckpointFiles, *, device: str, dtype: str, batch_tokens: int, sampling: Sampling
    ) -> Generator:
        """Load the weights and return what answers prompts; arguments as :class:`Runtime`."""

    @abstractmethod
    def doctor(self, device: str, show: Callable[[str], None]) -> DoctorReport:
        """Check versions and devices and train a tiny model with LoRA for two steps.

        Args:
            device: one of ``devices``.
            show: is given each text as soon as it is known.

        Raises:
            UserError: a package is missing or of another release, or the step does not work; with what to do.
        """

    def launch_commands(self, recipe: Recipe, path: str | None, overrides: Sequence[str]) -> str | None:
        """Return the commands that train a recipe on one card and on several; None where there is only one way."""
        return None


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
    if device not in backend_named(chosen).devices:
        raise UsageError(f"--device {device}: the {chosen} backend has {', '.join(backend_named(chosen).devices)}")
    if absent := missing(chosen):
        raise UserError(f"--backend {chosen} needs {', '.join(absent)}: pip install -e '.[{chosen}]'")
    return chosen, None


def backend_named(name: str) -> Backend:
    """Return a backend whether or not what it needs is installed."""
    return cast(Backend, importlib.import_module(f"backends.{name}.backend").BACKEND)


def get_backend(name: str = "auto", device: str = "auto") -> Backend:
    """Return a backend that can be used here; the arguments and errors are those of :func:`choose_backend`."""
    return backend_named(choose_backend(name, device)[0])


def _chosen(name: str, device: str) -> Backend:
    """Return a backend that can be used here, and say which where that was left open."""
    chosen, why = choose_backend(name, device)
    if why:
        say(f"backend: {chosen} ({why})")
    return get_backend(chosen, device)


def train(
    recipe: Recipe,
    *,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    resume: bool = False,
    workers: int = 1,
) -> Run:
    """Train a recipe into its run directory.

    Args:
        recipe: of :func:`backends.recipe.load.load_recipe`.
        backend: ``cuda``, ``ascend`` or ``auto``: the one whose card is here, else the one installed.
        device: one of the backend's, or ``auto``: a card, else the CPU.
        dtype: of the matrix products; ``auto``: the recipe's on a card and on a CPU with units for bfloat16 products,
            else float32.
        resume: go on from the last whole checkpoint of the run directory.
        workers: training processes, one a card.

    Returns:
        The finished run.

    Raises:
        UsageError: weights, data or recipe are missing, or the backend has no such device, type or workers.
        UserError: the run cannot be started, resumed or finished as asked.
    """
    chosen = _chosen(backend, device)
    types = ("auto", *chosen.train_dtypes)
    if dtype not in types:
        raise UsageError(f"dtype {dtype!r}: training on the {chosen.name} backend has {', '.join(types)}")
    # refused, not ignored: the run would be another than the one asked for
    if workers != 1 and not chosen.has_workers:
        raise UsageError(f"workers {workers}: the {chosen.name} backend is started several times by torchrun")
    return chosen.train(recipe, device=device, dtype=dtype, resume=resume, workers=workers)


def load_generator(
    files: CheckpointFiles, runtime: Runtime = DEFAULT_RUNTIME, sampling: Sampling = GREEDY
) -> Generator:
    """Load a checkpoint's weights, and print the backend's name if it was chosen automatically.

    Args:
        files: the checkpoint.
        runtime: backend, device, precision and batch size.
        sampling: how tokens are chosen.

    Returns:
        A generator that answers and scores prompts.

    Raises:
        UsageError: there is no such backend, or it has no such device or type.
        UserError: the backend is not installed, or cannot run this model.
    """
    return _chosen(runtime.backend, runtime.device).load_generator(
        files, device=runtime.device, dtype=runtime.dtype, batch_tokens=runtime.batch_tokens, sampling=sampling
    )


def conditions(runtime: Runtime) -> dict[str, Any]:
    """Return what answers depend on besides files and limits: backend and dtype.

    They are part of an answer file's identity, so that a file never mixes answers of two backends.

    Raises:
        UserError: no backend can be chosen.
    """
    return {"backend": choose_backend(runtime.backend, runtime.device)[0], "dtype": runtime.dtype}


def missing(name: BackendName) -> list[str]:
    """Return the packages that a backend needs and that are not installed."""
    # find_spec looks for a package without importing it: importing torch or mindspore takes seconds
    return [package for package in backend_named(name).packages if importlib.util.find_spec(package) is None]


def has_accelerator(name: BackendName) -> bool:
    """Whether the driver has made a device file for a card that the backend can use."""
    # device files are there without the framework; asking torch or MindSpore would import it
    return any(Path("/dev").glob(backend_named(name).card_files))


def _automatic(device: str) -> tuple[BackendName, str]:
    able: list[BackendName] = [name for name in BACKENDS if device in backend_named(name).devices]
    if not able:
        known = sorted({device for name in BACKENDS for device in backend_named(name).devices})
        raise UsageError(f"--device {device}: {', '.join(known)} are the devices there are")
    installed = [name for name in able if not missing(name)]
    if not installed:
        wanted = " or ".join(f"pip install -e '.[{name}]'" for name in able)
        raise UserError(f"neither backend is installed: {wanted}" if len(able) > 1 else f"{device} needs {wanted}")
    # a device that one backend alone has (cuda, npu) has chosen already
    if len(able) == 1:
        return installed[0], f"--device {device}"
    cards = [name for name in able if has_accelerator(name)]
    # a card whose backend is not installed is of no use here, and is said below
    for name in cards:
        if name in installed:
            return name, "its card is here"
    if cards:
        return installed[0], f"a card for {cards[0]} is here, but {', '.join(missing(cards[0]))} is not installed"
    return installed[0], "no card found"
