"""The blocks of the README and of the documentation, as the tests read and run them.

A bash or Python block of a page is run as it stands, in a folder that holds what the page names; only sizes of commands
are made small. A block whose first line is ``# needs: …`` is not run: it needs a card, a download or hours. Its
commands and their options must exist all the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
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
    return ["python", "-m", module, *rest]


def pages() -> list[str]:
    """Every page of the documentation: the Markdown files at the top and those below docs/."""
    files = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in files]


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


def runnable(page: str) -> list[Block]:
    """The blocks of a page that a reader runs: bash and Python."""
    return [block for block in fenced(page) if block.language in ("bash", "python")]


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
    if separate or words[:2] != ["python", "-m"] or (on_ascend(words) and "--help" not in words):
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


def run_python(block: Block, names: dict[str, object]) -> str:
    """Run a Python block in this process and return what it printed; ``names`` goes from one block to the next.

    A block whose first line is ``# FILE.py`` is that file: it is written and not run.
    """
    if name := re.match(r"# (\w+\.py)\n", block.text):
        Path(name[1]).write_text(block.text, encoding="utf-8")
        return ""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
    return out.getvalue()


def write_site(folder: Path, material: Path) -> None:
    """Fill a folder with what the repository brings, and with small data under every name that the pages use.

    Args:
        folder: an empty folder.
        material: a folder with ``raw.jsonl``, ``rows.jsonl`` and ``heldout.jsonl`` of arithmetic.
    """
    for name in ("models", "yaml", "benchmarks", "eval"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("BASE", "DIR", "MODEL"):
        (folder / name).symlink_to(ROOT / "models/tiny")
    shutil.copy(material / "raw.jsonl", folder / "train.json")
    for name in ("train.jsonl", "rows.jsonl"):
        shutil.copy(material / "rows.jsonl", folder / name)
    shutil.copy(material / "heldout.jsonl", folder)
    write_glue(folder)
    webqa = {
        f"Q{i}": {
            "question": f"第{i}城？",
            "evidences": {f"Q{i}#00": {"answer": [f"{i}号"], "evidence": f"这里是{i}号。"}},
        }
        for i in range(300)
    }
    (folder / "me_test.ann.json").write_text(json.dumps(webqa))
    chapters = [
        f"第{i}章 山路\n"
        + "".join(f"　　这是第{i}章第{j}段，少年走在山路上。“你去哪里？”老人问。\n" for j in range(40))
        for i in range(1, 9)
    ]
    (folder / "novel.txt").write_text("\n".join(chapters), encoding="gb18030")
    reading = json.loads((ROOT / "eval/data/reading.json").read_text(encoding="utf-8"))
    reading["data"] = reading["data"][:2]
    (folder / "dev-v1.1.json").write_text(json.dumps(reading))
    questions = [q for a in reading["data"] for p in a["paragraphs"] for q in p["qas"]]
    (folder / "answers.json").write_text(json.dumps({q["id"]: q["answers"][0]["text"] for q in questions}))
    pairs = [{"pred": "the red fox", "label": "a red fox"}, {"pred": "", "label": "Rome"}]
    (folder / "contest-log.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def write_glue(folder: Path) -> None:
    """RTE, CoLA and QQP in the forms of GLUE's files and of the exam's, and labelled rows for entailment."""
    for task in ("RTE", "CoLA"):
        (folder / task).mkdir()
    for part, count in (("train", 40), ("dev", 6)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for i in range(count):
            label = "entailment" if i % 3 else "not_entailment"
            lines.append(f'{i}\tThe "train" no. {i} is late, it was said.\tTrain {i} is late.\t{label}')
        (folder / "RTE" / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [f"gj04\t{i % 4 and 1}\t{'' if i % 4 else '*'}\tSentence {i} is fine." for i in range(count)]
        (folder / "CoLA" / f"in_domain_{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for part, count in (("train", 1300), ("dev", 12)):
        rows = [f"gj04\t{int(i % 10 < 7)}\t\tSentence {i} is fine." for i in range(count)]
        (folder / f"CoLA_{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        lines = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
        lines += [f'{i}\t1\t2\tWhy is "{i}?\tWhat is {i}?\t{int(i % 3 == 0)}' for i in range(count // 10 + 3)]
        (folder / f"QQP_{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "CoLA_answers.txt").write_text("1\n0\n" * 6)
    (folder / "QQP_answers.txt").write_text("1\n0\n" * 2)
    questions = [{"instruction": "Same?", "input": f"question {i}", "output": "", "idx": i} for i in range(4)]
    (folder / "QQP_dev.json").write_text(json.dumps(questions))
    for task, labels in (("rte", ("yes", "no")), ("mnli", ("yes", "no", "maybe"))):
        rows = [
            {
                "conversations": [
                    {"from": "human", "value": f"Is {i} late?"},
                    {"from": "gpt", "value": labels[i % len(labels)]},
                ]
            }
            for i in range(6)
        ]
        (folder / f"{task}_dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_weights(site: Path) -> None:
    """A small model or adapter in every layout that the page converts from."""
    from exchange_files import write_adapter, write_ckpt, write_hf_model, write_llama2c, write_meta, write_vocabulary
    from gguf_files import LLAMA, bpe_fields, train_bpe, weights, write_gguf_file

    from backends.weights.names import peft_to_mindformers

    write_hf_model(site / "llama3-8b", dtype="bfloat16")
    write_adapter(site / "RUN", rank=8)
    (site / "rank_0").mkdir()
    arrays = write_adapter(site / "trained", rank=8)
    write_ckpt(site / "rank_0/lora-5_200.ckpt", {peft_to_mindformers(name): array for name, array in arrays.items()})
    (site / "Meta-Llama-3-8B").mkdir()
    write_meta(site / "Meta-Llama-3-8B/original")
    write_llama2c(site / "stories260K.bin", vocab=259)
    write_vocabulary(site / "tok512.bin")
    library = train_bpe(site / "tokenizer", "smollm")
    small = {name: array * 0.2 for name, array in weights(LLAMA).items()}
    write_gguf_file(site / "model.Q4_K_M.gguf", LLAMA, small, lambda writer: bpe_fields(writer, library, "smollm", 320))


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
