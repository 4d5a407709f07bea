"""The README's commands do what it says: the small ones are run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITH_SUBCOMMANDS = ("converters.arithmetic", "backends.cuda", "backends.ascend", "mindrecord")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str) -> list[str]:
    """The commands of the first bash block under a heading."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.S)
    assert commands is not None
    return commands.group(1).replace("\\\n", " ").strip().splitlines()


@pytest.mark.backend
def test_the_steps_of_the_demo_run_one_by_one(tmp_path: Path) -> None:
    for name in ("models", "yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in block("The steps of the demo, one by one"):
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    for name in ("adapter_model.safetensors", "adapter_config.json", "loss.png", "train_log.jsonl", "template.json"):
        assert (tmp_path / "runs/first/run" / name).is_file()


def test_every_command_of_the_readme_knows_its_options() -> None:
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    checked = 0
    for command in text.strip().splitlines():
        words = shlex.split(command)
        if words[:2] != ["python", "-m"]:
            continue
        subcommand = [words[3]] if words[2] in WITH_SUBCOMMANDS else []
        done = subprocess.run(
            [sys.executable, "-m", words[2], *subcommand, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for word in words:
            if word.startswith("--"):
                assert word in done.stdout, f"{command}: {word}"
        checked += 1
    assert checked > 8


def test_help_answers_at_once() -> None:
    """Less than half a second of processor time; a wall clock would measure the machine's other work."""
    import resource

    for module in ("converters.arithmetic", "mindrecord", "backends.cuda", "eval.math"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert used < 0.5, f"{module}: {used:.2f} s"
        loaded = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert not re.search(r"\| +(torch|transformers|mindspore|polars)$", loaded.stderr, re.M), module
