"""The blocks of the README and of the documentation, as the tests read and run them.

A bash block of a page is run as it stands, in a folder that holds what the page names; only sizes are made small. A
block whose first line is ``# needs: …`` is not run: it needs a card, a download or hours. Its commands and their
options must exist all the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eval.console import resolve

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NEEDS = "# needs: "
COMMAND = re.compile(r"^(python|pip|make|torchrun|msrun|lm-eval|twinlora|source|git|cd) ")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        page: path below the repository's root.
        line: where the block begins, counted from 1.
        language: the word behind the opening fence, often empty.
        text: the lines between the fences.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def needs(self) -> str:
        """What the block needs before it can run as it stands; empty where the tests run it."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(NEEDS) if first.startswith(NEEDS) else ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command, comments left out and continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(re.sub(r"(^|\s)#\s.*", "", line)) for line in lines]
        return [as_module(words) for words in found if words]


def as_module(words: list[str]) -> list[str]:
    """A ``twinlora`` command as the ``python -m MODULE`` that it stands for; any other command as it is."""
    if words[0] != "twinlora":
        return words
    module, rest = resolve(words[1:])
    return ["python", "-m", module.removesuffix(".__main__"), *rest]


def pages() -> list[str]:
    """Every page of the documentation: the Markdown files at the top and those in docs/."""
    return [path.relative_to(ROOT).as_posix() for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = read(page)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in FENCE.finditer(text)]


def bash(page: str) -> list[Block]:
    """The bash blocks of a page."""
    return [block for block in fenced(page) if block.language == "bash"]


def recipe_commands(recipe: Path) -> list[list[str]]:
    """The commands in the comment that opens a recipe."""
    head = re.match(r"(#.*\n)*", recipe.read_text(encoding="utf-8"))
    assert head is not None
    text = re.sub(r"^# ?", "", head[0], flags=re.M).replace("\\\n", " ").replace(" …", "")
    return [shlex.split(line) for line in text.splitlines() if COMMAND.match(line.strip())]


@dataclass(frozen=True)
class Setting:
    """How a page's commands are made small.

    Attributes:
        words: word of a command → the word that takes its place.
        more: module → words added to its commands.
        codes: module → exit codes that are right besides 0.
        runs: names under which the page finds a trained run.
        results: folder → the command that evaluates into it before the page's blocks are run.
        rows: rows to which ``data.train`` is cut before training; None leaves it as it is.
        separate: run every command in a process of its own.
    """

    words: dict[str, str] = field(default_factory=dict)
    more: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    results: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    separate: bool = False

    def small(self, words: list[str]) -> list[str]:
        """A command with the page's words replaced and its additions behind."""
        return [self.words.get(word, word) for word in words] + self.more.get(module_of(words), [])


def module_of(words: list[str]) -> str:
    """The module of ``python -m MODULE …``, behind a launcher too; empty for anything else."""
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def on_ascend(words: list[str]) -> bool:
    """Whether a command needs MindSpore."""
    return "backends.ascend" in words or "ascend" in words


def subcommand_of(words: list[str]) -> list[str]:
    """The word behind the module where it looks like a subcommand."""
    rest = words[words.index("-m") + 2 :] if "-m" in words else words[2:]
    return rest[:1] if rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) else []


def run(words: list[str], codes: tuple[int, ...] = (), *, separate: bool = False) -> str:
    """Run a command in the current directory and return what it wrote to stdout and stderr.

    ``python -m MODULE`` runs in this process, so that torch is imported once. Scripts, MindSpore and launchers get a
    process of their own: mindformers changes the process that imports it.

    Raises:
        AssertionError: it ended with a code that is neither 0 nor among ``codes``.
    """
    said = shlex.join(words)
    if separate or words[:2] != ["python", "-m"] or on_ascend(words):
        program = [sys.executable, *words[1:]] if words[0] == "python" else words
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, *codes), f"{said}: exit {done.returncode}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr
    out, code = io.StringIO(), None
    before = sys.argv
    sys.argv = words[2:]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert (code or 0) in (0, *codes), f"{said}: exit {code}\n{out.getvalue()[-2000:]}"
    return out.getvalue()


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def links(page: str) -> Iterator[tuple[str, str]]:
    """File and anchor of every relative link of a page, images among them."""
    text = FENCE.sub("", read(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor
