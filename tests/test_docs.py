"""The README and docs/: their commands run, the others exist, their links and names resolve."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import documentation
import pytest
from documentation import (
    COMMAND,
    ROOT,
    Setting,
    bash,
    fenced,
    links,
    module_of,
    on_ascend,
    pages,
    read,
    run,
    subcommand_of,
)

from backends.recipe.load import load_recipe
from converters.arithmetic.problems import CHINESE, parse, solution_text
from converters.arithmetic.steps import get_style
from converters.arithmetic.synthesize import synthesize

LIMITS = ["--limit", "4", "--max-new-tokens", "8", "--device", "cpu"]
BASE = str(ROOT / "models/tiny")
SETTINGS = {
    # the quick start runs as it stands
    "README.md": Setting(separate=True),
    "docs/ascend.md": Setting(more={"backends.ascend": ["runner_config.batch_size=8"]}),
    # at small size; what forgets how much in five steps is not this test's matter, so the gate may stay shut
    "docs/contest.md": Setting(
        words={
            "DIR": BASE,
            "load_checkpoint=DIR": f"load_checkpoint={BASE}",
            "100000": "48",
            "2000": "8",
            "--workers": "--device",
            "4": "cpu",
            "dev-v1.1.json": str(ROOT / "eval/data/reading.json"),
        },
        more={
            "backends.ascend": ["runner_config.batch_size=8", "model.model_config.compute_dtype=float32"],
            "eval.sweep": ["--limit", "4", "--max-new-tokens", "24", "--device", "cpu"],
        },
        codes={"eval.sweep": (3,)},
        separate=True,
    ),
    "docs/exchange.md": Setting(),
    "docs/mindrecord.md": Setting(),
    "docs/merge.md": Setting(runs=("demo/run", "runs/rte", "runs/mnli")),
    "docs/novel.md": Setting(rows=32),
    "docs/qqp_cola.md": Setting(rows=32),
    "docs/retention.md": Setting(
        runs=("RUN",),
        more={"eval.squad": LIMITS[:2], "eval.sweep": LIMITS},
        codes={"eval.squad": (3,), "eval.sweep": (3,), "eval.retention": (3,)},
        results={
            "BEFORE": "python -m eval.squad --ckpt models/tiny --limit 4",
            "AFTER": "python -m eval.squad --ckpt RUN --limit 4",
        },
    ),
    "docs/report.md": Setting(
        runs=("RUN", "demo/run", "runs/rte", "runs/mnli"),
        more={"eval.choice": ["--limit", "4"], "eval.table": ["--limit", "4"]},
        results={
            "demo/before": "python -m eval.math --ckpt models/tiny --data heldout.jsonl --limit 4 --max-new-tokens 8",
            "demo/after": "python -m eval.math --ckpt demo/run --data heldout.jsonl --limit 4 --max-new-tokens 8",
            "demo/reading-before": "python -m eval.squad --ckpt models/tiny --limit 4",
            "demo/reading-after": "python -m eval.squad --ckpt demo/run --limit 4",
        },
    ),
    "docs/rte.md": Setting(words={"4000": "32"}),
    "docs/steps.md": Setting(),
    "docs/webqa.md": Setting(rows=32),
}
OTHERWISE = Setting(runs=("RUN",), more={"eval.squad": LIMITS[:2], "eval.math": LIMITS, "eval.sweep": LIMITS}, rows=32)
# marked blocks that run at small size all the same
SMALL_TOO = {"docs/contest.md"}
WITHOUT_TORCH = {"docs/mindrecord.md"}
WITH_BLOCKS = [page for page in pages() if bash(page)]


def needs_torch(page: str) -> object:
    """The page as a parameter, in the tier that its commands belong to."""
    return pytest.param(page, marks=[] if page in WITHOUT_TORCH else pytest.mark.backend)


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with arithmetic rows and a run that was trained on them, made once."""
    folder = tmp_path_factory.mktemp("material")
    synthesize(folder / "raw.jsonl", 300, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make = "python -m converters.arithmetic convert raw.jsonl --rows 40 --multiple-of 8"
        run(f"{make} --holdout 8 --holdout-out heldout.jsonl -o rows.jsonl".split())
    return folder


@pytest.fixture(scope="session")
def trained(material: Path) -> Path:
    """One step of LoRA on the small base, shared by every page that asks a run."""
    pytest.importorskip("torch")
    recipe = str(ROOT / "yaml/demo.yaml")
    settings = [f"load_checkpoint={BASE}", f"data.train={material / 'rows.jsonl'}", f"output_dir={material / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        run(["python", "-m", "backends.cuda", "train", recipe, *settings])
    return material / "run"


@pytest.fixture
def site(tmp_path: Path, material: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run a page in: what the repository brings, and small data under every name that the pages use."""
    for name in ("models", "yaml", "benchmarks", "eval"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("BASE", "DIR", "MODEL"):
        (tmp_path / name).symlink_to(BASE)
    shutil.copy(material / "raw.jsonl", tmp_path / "train.json")
    for name in ("train.jsonl", "rows.jsonl"):
        shutil.copy(material / "rows.jsonl", tmp_path / name)
    shutil.copy(material / "heldout.jsonl", tmp_path)
    write_glue(tmp_path)
    webqa = {
        f"Q{i}": {
            "question": f"第{i}城？",
            "evidences": {f"Q{i}#00": {"answer": [f"{i}号"], "evidence": f"这里是{i}号。"}},
        }
        for i in range(300)
    }
    (tmp_path / "me_test.ann.json").write_text(json.dumps(webqa))
    chapters = [
        f"第{i}章 山路\n"
        + "".join(f"　　这是第{i}章第{j}段，少年走在山路上。“你去哪里？”老人问。\n" for j in range(40))
        for i in range(1, 9)
    ]
    (tmp_path / "novel.txt").write_text("\n".join(chapters), encoding="gb18030")
    reading = json.loads((ROOT / "eval/data/reading.json").read_text(encoding="utf-8"))
    reading["data"] = reading["data"][:2]
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(reading))
    questions = [q for a in reading["data"] for p in a["paragraphs"] for q in p["qas"]]
    (tmp_path / "answers.json").write_text(json.dumps({q["id"]: q["answers"][0]["text"] for q in questions}))
    pairs = [{"pred": "the red fox", "label": "a red fox"}, {"pred": "", "label": "Rome"}]
    (tmp_path / "contest-log.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


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


def shorten(path: Path, rows: int) -> None:
    """Keep the first rows of a training file: few say as much about the commands."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:rows]))
    else:
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]), encoding="utf-8")


@pytest.mark.parametrize("page", [needs_torch(page) for page in WITH_BLOCKS])
@pytest.mark.filterwarnings("ignore")
def test_every_block_runs_or_says_what_it_needs(
    page: str, site: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = SETTINGS.get(page, OTHERWISE)
    commands = [words for block in bash(page) if not block.needs or page in SMALL_TOO for words in block.commands]
    # looked for and not imported: mindformers writes its log into the folder that imports it
    if any(map(on_ascend, commands)) and importlib.util.find_spec("mindformers") is None:
        pytest.skip("mindformers is not installed")
    if commands and page not in WITHOUT_TORCH:
        pytest.importorskip("torch")
        if page == "docs/exchange.md":
            monkeypatch.syspath_prepend(ROOT / "tests/backends")
            before_exchange(site)
        for name in setting.runs:
            shutil.copytree(request.getfixturevalue("trained"), site / name)
        for folder, command in setting.results.items():
            run([*command.split(), "--out", folder])
    said = []
    for words in commands:
        if setting.rows and "train" in words:
            for file in [word.removeprefix("data.train=") for word in words if word.startswith("data.train=")]:
                shorten(site / file, setting.rows)
        codes = setting.codes.get(module_of(words), ())
        said.append(run(setting.small(words), codes, separate=setting.separate))
    if page in PRODUCTS:
        PRODUCTS[page](site, said)


def before_exchange(site: Path) -> None:
    """A small model or adapter in every layout that the page converts from."""
    from exchange_files import write_adapter, write_ckpt, write_hf_model, write_llama2c, write_meta, write_vocabulary

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


def after_exchange(site: Path, said: list[str]) -> None:
    from exchange_files import read_all

    assert read_all(site / "adapter") == read_all(site / "trained")
    assert "LoRA: rank 8, alpha 16, scaling 2" in said[-1]
    assert len(said) == 7


def after_readme(site: Path, said: list[str]) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "loss.png", "train_log.jsonl", "template.json"):
        assert (site / "runs/first/run" / name).is_file()


def after_contest(site: Path, said: list[str]) -> None:
    points = json.loads((site / "runs/contest/eval/sweep/sweep.json").read_text())["points"]
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 5]
    assert "lora_A" in said[-1]


def after_novel(site: Path, said: list[str]) -> None:
    assert (site / "runs/novel/run/adapter_model.safetensors").is_file()
    assert (site / "runs/novel/test.jsonl").is_file()


def after_qqp_cola(site: Path, said: list[str]) -> None:
    for name in ("QQP_train.json", "QQP_dev.json", "CoLA_dev.json", "result_CoLA.txt"):
        assert (site / "runs/002" / name).is_file(), name
    assert len((site / "runs/002/result_CoLA.txt").read_text().splitlines()) == 12
    assert len(json.loads((site / "runs/002/CoLA_heldout.json").read_text())) == 200


def after_rte(site: Path, said: list[str]) -> None:
    for way in ("generate", "loglik"):
        table = json.loads((site / f"runs/table-{way}/table.json").read_text())
        assert list(table["accuracy"]) == ["base", "rte", "cola", "half"]
        assert set(table["n"]["half"]) == {"rte", "cola"}
        assert set(table["n"]["half"].values()) == {6}
    # the untuned base knows nothing of the form; choosing by likelihood always names a choice
    results = json.loads((site / "runs/table-loglik/base/rte/results.json").read_text())
    assert results["counts"]["choice_dev"]["unparsed"] == 0
    config = json.loads((site / "runs/half/adapter_config.json").read_text())
    assert config["r"] == 16, "ranks beside each other: 8 and 8"
    assert "accuracy %" in "".join(said)
    assert "±" in "".join(said)


def after_steps(site: Path, said: list[str]) -> None:
    assert "contest mix" in said[-1]


def after_webqa(site: Path, said: list[str]) -> None:
    assert (site / "runs/webqa/run/eval/webqa-test/results.json").is_file()
    assert (site / "runs/webqa/run/adapter_model.safetensors").is_file()


PRODUCTS: dict[str, Callable[[Path, list[str]], None]] = {
    "README.md": after_readme,
    "docs/contest.md": after_contest,
    "docs/exchange.md": after_exchange,
    "docs/novel.md": after_novel,
    "docs/qqp_cola.md": after_qqp_cola,
    "docs/rte.md": after_rte,
    "docs/steps.md": after_steps,
    "docs/webqa.md": after_webqa,
}

HELP: dict[tuple[str, ...], str] = {}


def help_of(program: tuple[str, ...]) -> str:
    """The help of a module or script and its subcommand, on one line, asked for once."""
    if program not in HELP:
        launch = [sys.executable, *program] if program[0].endswith(".py") else [sys.executable, "-m", *program]
        done = subprocess.run([*launch, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{program}: {done.stderr}"
        HELP[program] = done.stdout
    return HELP[program]


def check_command(words: list[str], where: str) -> None:
    """Check that a command's module, subcommand, options, recipe and settings exist.

    Raises:
        AssertionError: one of them does not; the message says which.
    """
    if words[0] in ("python", "torchrun", "msrun") and ("-m" in words or words[1].endswith(".py")):
        program = module_of(words) or words[1]
        options = words[words.index(program) + 1 :]
        text = help_of((program, *subcommand_of(words)))
        for option in [word.partition("=")[0] for word in options if re.match(r"--?[a-z]", word)]:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{where}: {program} has no {option}"
        recipes = [word for word in options if word.startswith("yaml/")]
        for recipe in recipes:
            load_recipe(ROOT / recipe, [word for word in options if re.match(r"[a-z_]+(\.\w+)*=", word)])
    elif words[0] == "make":
        for target in words[1:]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"{where}: no target {target}"
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            assert set(extra.split(",")) <= set(extras), f"{where}: no extra {extra}"
    elif words[0] == "lm-eval":
        tasks = "".join(file.read_text() for file in (ROOT / "eval/tasks").glob("*.yaml"))
        assert f"task: {words[words.index('--tasks') + 1]}" in tasks, f"{where}: no such task"
    else:
        assert words[0] in ("source", "git", "cd"), f"{where}: {words[0]} is no command of this project"


@pytest.mark.backend
def test_every_command_exists() -> None:
    checked = 0
    for page in WITH_BLOCKS:
        for block in bash(page):
            for words in block.commands:
                check_command(words, f"{page}:{block.line}")
                checked += 1
    for recipe in sorted((ROOT / "yaml").glob("*.yaml")):
        for words in documentation.recipe_commands(recipe):
            check_command(words, f"yaml/{recipe.name}")
            checked += 1
    assert checked > 60


def test_no_command_hides_in_another_block() -> None:
    for page in pages():
        for block in fenced(page):
            if block.language != "bash":
                hidden = [line for line in block.text.splitlines() if COMMAND.match(line)]
                assert not hidden, f"{page}:{block.line}: a block of commands begins with ```bash"


@pytest.mark.parametrize("page", pages())
def test_links_and_anchors_resolve(page: str) -> None:
    for file, anchor in links(page):
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {file}"
        if anchor:
            text = re.sub(r"^```.*?^```$", "", target.read_text(encoding="utf-8"), flags=re.M | re.S)
            anchors = {documentation.slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}
            assert anchor in anchors, f"{page}: {file}#{anchor}"


NAME = re.compile(r"(?<![\w./`-])(?:backends|benchmarks|converters|eval|mindrecord)(?:\.(?!md\b)[a-z_]\w*)+")
PATH = re.compile(r"(?<![\w./-])(?:backends|benchmarks|converters|docs|eval|mindrecord|models|tests|yaml)/[\w./-]*\w")


@pytest.mark.parametrize("page", [*pages(), "models/tiny/README.md", *(f"yaml/{p.name}" for p in ROOT.glob("yaml/*"))])
def test_named_modules_and_files_exist(page: str) -> None:
    text = read(page).replace("`", " ")
    for name in NAME.findall(text):
        parts = name.split(".")
        path = ROOT / "/".join(parts)
        owner = ROOT / "/".join(parts[:-1])
        sources = [owner.with_suffix(".py"), owner / "__init__.py"]
        defined = any(re.search(rf"\b{parts[-1]}\b", file.read_text()) for file in sources if file.is_file())
        assert path.is_dir() or path.with_suffix(".py").is_file() or defined, f"{page}: no module {name}"
    for name in PATH.findall(text):
        assert (ROOT / name).exists(), f"{page}: no file {name}"


@pytest.mark.parametrize("page", [*pages(), "models/tiny/README.md"])
def test_lines_of_prose_are_short(page: str) -> None:
    text = documentation.FENCE.sub(lambda block: block[0] if block[1] == "bash" else "", read(page))
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|") and "](" not in line]
    assert not long, f"{page}: over 120 characters: {long[0]}"


STYLES = {
    "worked": "## `worked`\n",
    "compact": "## `compact`\n",
    "seed": "`seed`:\n",
    "decompose": "\n`decompose`, where",
}


def examples(style: str) -> list[tuple[str, str]]:
    """Problem and answer of each example block of a style in docs/steps.md."""
    part = read("docs/steps.md").partition(STYLES[style])[2]
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
