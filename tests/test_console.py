"""The command ``twinlora``: what it dispatches to, and what it says of words it does not know."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from backends.generation.registry import missing
from converters.common.console import run_main
from converters.common.errors import UsageError, UserError
from eval import console

TARGETS = [module for members in (console.MODULES, *console.GROUPS.values()) for module, _ in members.values()]


@pytest.mark.parametrize("module", [*TARGETS, "backends.cuda", "backends.ascend"])
def test_every_command_has_a_main_that_takes_words(module):
    assert next(iter(inspect.signature(console.main_of(module)).parameters)) == "argv"


def test_help_is_a_map_of_all_commands(capsys):
    assert console.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in [*console.ON_A_BACKEND, *console.MODULES]:
        assert f"  {name} " in shown
    for group, members in console.GROUPS.items():
        for name in members:
            assert f"  {group} {name} " in shown


def test_the_documentation_shows_the_map_as_it_is():
    page = (Path(__file__).resolve().parents[1] / "docs" / "api" / "command.md").read_text(encoding="utf-8")
    assert f"```text\n{console.usage()}\n```" in page


def test_help_imports_no_framework():
    heavy = ("torch", "transformers", "mindspore", "matplotlib", "polars", "pydantic")
    script = (
        "import sys\nfrom eval.console import main\nmain(['--help'])\n"
        f"print('loaded:', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


def test_without_a_command_the_map_is_shown_and_the_use_is_wrong(capsys):
    assert console.main([]) == 2
    assert console.main(["eval"]) == 2
    assert "usage: twinlora" in capsys.readouterr().out


@pytest.mark.parametrize("main", [console.main, console.main_of("backends.cuda")])
def test_every_command_knows_the_version(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["any", "--version"])
    with pytest.raises(SystemExit) as end:
        run_main(main)
    assert end.value.code == 0
    assert capsys.readouterr().out == f"twinlora {metadata.version('twinlora')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], r"no command 'trian' \(did you mean 'train'\?\)"),
        (["eval", "skwad"], r"twinlora eval: no command 'skwad' \(did you mean 'squad'\?\)"),
        (["train", "--backend"], "--backend: a value is expected"),
        (["train", "--backend", "tpu"], "backend 'tpu': cuda, ascend or auto is expected"),
        (["plan", "--backend", "cuda", "nowhere.yaml"], r"nowhere\.yaml: no such recipe"),
    ],
)
def test_wrong_words_are_wrong_use(words, message):
    with pytest.raises(UsageError, match=message) as caught:
        console.main(words)
    assert caught.value.exit_code == 2


def test_the_backend_is_taken_out_wherever_it_stands_and_the_rest_passed_on():
    words = ["doctor", "--backend=ascend", "--device", "cpu"]
    assert console.resolve(words) == ("backends.ascend", ["doctor", "--device", "cpu"])
    assert console.resolve(["eval", "squad", "--backend", "cuda"]) == ("eval.squad", ["--backend", "cuda"])
    words = ["train", "demo", "--backend", "cuda", "seed=1", "--help"]
    assert console.resolve(words) == ("backends.cuda", ["train", "demo", "seed=1", "--help"])


def test_the_device_chooses_where_the_backend_is_left_open():
    if missing("ascend"):
        with pytest.raises(UserError, match="npu needs pip install"):
            console.resolve(["chat", "--device", "npu"])
    else:
        assert console.resolve(["chat", "--device", "npu"]) == ("backends.ascend", ["chat", "--device", "npu"])


def test_a_plan_needs_no_framework(monkeypatch):
    monkeypatch.setattr(console, "missing", lambda name: ["torch"])
    assert console.resolve(["plan", "demo"]) == ("backends.cuda", ["plan", "demo"])
    assert console.resolve(["train", "--help"]) == ("backends.cuda", ["train", "--help"])
    assert console.resolve(["doctor", "--backend", "ascend"]) == ("backends.ascend", ["doctor"])


def test_a_command_gets_its_words(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        console.main(["mindrecord", "info", str(tmp_path / "none.mindrecord")])
