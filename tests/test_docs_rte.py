"""docs/rte.md: its commands run as they stand there, on a few rows in GLUE's form."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "rte.md").read_text(encoding="utf-8")
SMALL, _, FULL = PAGE.partition("## At full size\n")


def commands(text: str) -> list[list[str]]:
    """The words of every command in the bash blocks of a text."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if line.strip()]


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """A directory with RTE and CoLA in the form of GLUE's files, a few rows each, and what the repository brings."""
    for name in ("models", "yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for task in ("RTE", "CoLA"):
        (tmp_path / task).mkdir()
    for part, count in (("train", 40), ("dev", 6)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for i in range(count):
            label = "entailment" if i % 3 else "not_entailment"
            lines.append(f'{i}\tThe "train" no. {i} is late, it was said.\tTrain {i} is late.\t{label}')
        (tmp_path / "RTE" / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [f"gj04\t{i % 4 and 1}\t{'' if i % 4 else '*'}\tSentence {i} is fine." for i in range(count)]
        (tmp_path / "CoLA" / f"in_domain_{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``python -m MODULE …`` in this process: torch is imported once and not ten times."""
    assert words[:2] == ["python", "-m"]
    monkeypatch.setattr(sys, "argv", words[2:])
    code: object = 0
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    assert code in (0, None), f"{shlex.join(words)}: exit {code}"


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_from_glues_files_to_the_table(glue, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(glue)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for words in commands(SMALL):
        # the page takes 4,000 of CoLA's rows; there are 40 here
        run(["32" if word == "4000" else word for word in words], monkeypatch)
    for way in ("generate", "loglik"):
        table = json.loads((glue / f"runs/table-{way}/table.json").read_text())
        assert list(table["accuracy"]) == ["base", "rte", "cola", "half"]
        assert set(table["n"]["half"]) == {"rte", "cola"}
        assert set(table["n"]["half"].values()) == {6}
    # the untuned base knows nothing of the form; choosing by likelihood always names a choice
    assert (
        json.loads((glue / "runs/table-loglik/base/rte/results.json").read_text())["counts"]["choice_dev"]["unparsed"]
        == 0
    )
    config = json.loads((glue / "runs/half/adapter_config.json").read_text())
    assert config["r"] == 16, "ranks beside each other: 8 and 8"
    said = capsys.readouterr()
    assert "accuracy %" in said.out
    assert "±" in said.out


def test_every_option_of_the_page_is_known():
    checked = 0
    helps: dict[tuple[str, ...], str] = {}
    for words in [*commands(SMALL), *commands(FULL)]:
        if words[:2] != ["python", "-m"]:
            continue
        subcommands = {"backends.cuda": 1, "backends.ascend": 1, "backends.exchange": 1, "converters.glue": 1}
        module = tuple(words[2 : 3 + subcommands.get(words[2], 0)])
        if module not in helps:
            done = subprocess.run(
                [sys.executable, "-m", *module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
            )
            helps[module] = done.stdout
        for word in words:
            if word.startswith("--"):
                assert word in helps[module], f"{shlex.join(words)}: {word}"
            if word.endswith(".yaml"):
                assert (ROOT / word).is_file(), f"{shlex.join(words)}: {word}"
        checked += 1
    assert checked > 12
