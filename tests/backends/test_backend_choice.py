"""Which backend is taken, by name or by what is here; no framework is needed for that."""

import argparse
import subprocess
import sys

import pytest

from backends.cli import model_arguments as asking
from backends.generation import registry as base
from backends.generation.registry import choose_backend
from converters.common.errors import UsageError, UserError


@pytest.fixture
def machine(monkeypatch):
    """Set what is installed and which cards are here."""

    def setup(installed, cards=()):
        monkeypatch.setattr(base, "missing", lambda name: [] if name in installed else [f"{name}-package"])
        monkeypatch.setattr(base, "has_accelerator", lambda name: name in cards)

    return setup


@pytest.mark.parametrize(
    ("installed", "cards", "chosen", "why"),
    [
        (["cuda", "ascend"], [], "cuda", "no card found"),
        (["ascend"], [], "ascend", "no card found"),
        (["cuda", "ascend"], ["ascend"], "ascend", "its card is here"),
        (["cuda", "ascend"], ["cuda"], "cuda", "its card is here"),
        (["cuda"], ["ascend"], "cuda", "a card for ascend is here, but ascend-package is not installed"),
    ],
)
def test_auto_takes_the_card_that_is_here_or_what_is_installed(machine, installed, cards, chosen, why):
    machine(installed, cards)
    assert choose_backend() == (chosen, why)


def test_a_device_that_one_backend_has_chooses_it(machine):
    machine(["cuda", "ascend"], ["ascend"])
    assert choose_backend("auto", "cuda")[0] == "cuda"
    assert choose_backend("auto", "npu")[0] == "ascend"
    machine(["cuda"])
    with pytest.raises(UserError, match=r"npu needs pip install -e '\.\[ascend\]'"):
        choose_backend("auto", "npu")


def test_a_name_is_taken_or_refused(machine):
    machine(["ascend"], ["cuda"])
    assert choose_backend("ascend") == ("ascend", None)
    with pytest.raises(UserError, match=r"--backend cuda needs cuda-package: pip install -e '\.\[cuda\]'"):
        choose_backend("cuda")
    with pytest.raises(UsageError, match="--device cuda: the ascend backend has auto, cpu, npu"):
        choose_backend("ascend", "cuda")
    with pytest.raises(UsageError, match="backend 'tpu': cuda, ascend or auto is expected"):
        choose_backend("tpu")
    machine([])
    with pytest.raises(UserError, match="neither backend is installed"):
        choose_backend()


def test_what_was_left_open_is_said_once_the_model_is_loaded(machine, monkeypatch, capsys):
    machine(["cuda", "ascend"])
    asked = []

    class Nothing:
        def load_generator(self, files, **options):
            asked.append((files, options))

    monkeypatch.setattr(base, "get_backend", lambda name, device: Nothing())
    parser = argparse.ArgumentParser()
    asking.add_device_arguments(parser)
    base.load_generator("files", asking.runtime_from(parser.parse_args([])))
    assert capsys.readouterr().err == "backend: cuda (no card found)\n"
    base.load_generator("files", asking.runtime_from(parser.parse_args(["--backend", "ascend", "--device", "cpu"])))
    assert capsys.readouterr().err == ""
    assert [options["device"] for _, options in asked] == ["auto", "cpu"]


def test_a_backends_own_command_needs_no_name(machine):
    machine(["cuda", "ascend"], ["cuda"])
    parser = argparse.ArgumentParser()
    asking.add_device_arguments(parser, "ascend")
    args = parser.parse_args(["--device", "npu"])
    assert (args.backend, args.device) == ("ascend", "npu")
    assert base.conditions(asking.runtime_from(args)) == {"backend": "ascend", "dtype": "auto"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--device", "cuda"])


HELP = {
    "eval.math": ["--backend", "--device"],
    "eval.squad": ["--backend"],
    "eval.choice": ["--backend"],
    "eval.table": ["--backend"],
    "eval.sweep": ["--backend"],
    "backends.ascend generate": ["--ckpt", "python -m backends.ascend generate"],
    "backends.ascend evaluate": ["--seq-length", "python -m backends.ascend evaluate"],
    "backends.ascend chat": ["--system", "python -m backends.ascend chat"],
    "backends.cuda generate": ["--ckpt", "python -m backends.cuda generate"],
    "backends.cuda evaluate": ["--seq-length", "python -m backends.cuda evaluate"],
    "backends.cuda chat": ["--system", "python -m backends.cuda chat"],
}


@pytest.mark.backend
@pytest.mark.parametrize("command", HELP)
def test_help_names_the_backend_and_imports_no_framework(command):
    module, *rest = command.split()
    code = (
        f"import runpy, sys; sys.argv = [{module!r}, *{rest!r}, '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "finally: assert not {'torch', 'mindspore', 'mindformers', 'transformers', 'polars'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in HELP[command]:
        assert words in done.stdout
