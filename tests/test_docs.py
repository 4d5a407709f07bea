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
    run_python,
    runnable,
    subcommand_of,
    write_site,
)

from backends.recipe.load import load_recipe
from converters.arithmetic import synthesize
from converters.arithmetic.problems import CHINESE, parse, solution_text
from converters.arithmetic.steps import get_style

LIMITS = ["--limit", "4", "--max-new-tokens", "8", "--device", "cpu"]
BASE = str(ROOT / "models/tiny")
SETTINGS = {
    # the quick start runs as it stands
    "README.md": Setting(),
    "docs/adding_a_task.md": Setting(
        runs=("RUN",), more={"eval": ["--max-new-tokens", "8", "--device", "cpu"]}, codes={"eval.retention": (3,)}
    ),
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
            "before": "python -m eval.squad --ckpt models/tiny --limit 4",
            "after": "python -m eval.squad --ckpt RUN --limit 4",
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
WITH_BLOCKS = [page for page in pages() if runnable(page)]


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
    """The current directory of a page's commands."""
    write_site(tmp_path, material)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


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
    blocks = [block for block in runnable(page) if not block.needs or page in SMALL_TOO]
    commands = [words for block in blocks if block.language == "bash" for words in block.commands]
    # looked for and not imported: mindformers writes its log into the folder that imports it
    if any(map(on_ascend, commands)) and importlib.util.find_spec("mindformers") is None:
        pytest.skip("mindformers is not installed")
    if blocks and page not in WITHOUT_TORCH:
        pytest.importorskip("torch")
        if page == "docs/exchange.md":
            monkeypatch.syspath_prepend(ROOT / "tests/backends")
            documentation.write_weights(site)
        for name in setting.runs:
            shutil.copytree(request.getfixturevalue("trained"), site / name)
        for folder, command in setting.results.items():
            run([*command.split(), "--out", folder])
    said: list[str] = []
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.language == "python":
            said.append(run_python(block, names))
            continue
        for words in block.commands:
            said.append(run_small(words, setting, site))
    if page in PRODUCTS:
        PRODUCTS[page](site, said)


def run_small(words: list[str], setting: Setting, site: Path) -> str:
    """Run a page's command with its sizes made small."""
    if setting.rows and "train" in words:
        for file in [word.removeprefix("data.train=") for word in words if word.startswith("data.train=")]:
            shorten(site / file, setting.rows)
    codes = setting.codes.get(module_of(words), ())
    return run(setting.small(words), codes, separate=setting.separate)


def after_exchange(site: Path, said: list[str]) -> None:
    from exchange_files import read_all

    assert read_all(site / "adapter") == read_all(site / "trained")
    assert "LoRA: rank 8, alpha 16, scaling 2" in said[-1]
    assert len(said) == 9
    assert "checked: perplexity" in said[6]


def after_readme(site: Path, said: list[str]) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "loss.png", "train_log.jsonl", "template.json"):
        assert (site / "runs/first/run" / name).is_file()


def after_contest(site: Path, said: list[str]) -> None:
    points = json.loads((site / "runs/contest/eval/sweep/sweep.json").read_text())["points"]
    assert [point["step"] for point in points] == [0, 1, 2, 4, 5, 6]
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
    """The help of a module or script and its subcommand, asked for once."""
    if program not in HELP:
        launch = ["python", *program] if program[0].endswith(".py") else ["python", "-m", *program]
        HELP[program] = run([*launch, "--help"])
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


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_command_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
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
            # a command's own help may begin a line with its name
            if block.language != "bash" and not block.text.startswith("usage: "):
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
    "copied": "## `copied`\n",
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
