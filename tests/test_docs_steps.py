"""docs/steps.md: its commands run, and its examples are what the styles write."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from converters.arithmetic.problems import CHINESE, parse, solution_text
from converters.arithmetic.steps import get_style

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "steps.md").read_text(encoding="utf-8")
STYLES = {
    "worked": "## `worked`\n",
    "compact": "## `compact`\n",
    "seed": "`seed`:\n",
    "decompose": "\n`decompose`, where",
}


def examples(style: str) -> list[tuple[str, str]]:
    """Problem and answer of each example block of a style."""
    part = PAGE.partition(STYLES[style])[2]
    part = re.split(r"\n## |\n`decompose`, where", part)[0]
    return [tuple(block.rstrip("\n").split("\n", 1)) for block in re.findall(r"```\n(.*?)```", part, re.S)]


@pytest.mark.parametrize("style", STYLES)
def test_examples_are_what_the_style_writes(style: str) -> None:
    seen = set()
    for question, answer in examples(style):
        found = parse(question, "")
        assert found is not None
        problem = parse(question, solution_text(found.kind, found.operands))
        assert problem is not None
        assert get_style(style)[problem.kind](problem) == answer
        seen.add(problem.kind)
    assert seen == set(CHINESE) if style == "worked" else seen


def test_commands_run(tmp_path: Path) -> None:
    for name in ("models", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "python"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "contest mix" in done.stdout
