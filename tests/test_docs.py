"""docs/qqp_cola.md, webqa.md, novel.md: their small commands run as they stand, and all know their options."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("qqp_cola", "webqa", "novel")


def commands(page: str, *, small: bool) -> list[list[str]]:
    """The words of every command in a page's bash blocks, of the part before "At full size" or after it."""
    parts = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").partition("## At full size\n")
    text = parts[0] if small else parts[2]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if line.strip()]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with small data in the form of the reports', and what the repository brings."""
    for name in ("models", "yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for part, count in (("train", 1300), ("dev", 12)):
        rows = [f"gj04\t{int(i % 10 < 7)}\t\tSentence {i} is fine." for i in range(count)]
        (tmp_path / f"CoLA_{part}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        lines = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
        lines += [f'{i}\t1\t2\tWhy is "{i}?\tWhat is {i}?\t{int(i % 3 == 0)}' for i in range(count // 10 + 3)]
        (tmp_path / f"QQP_{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "CoLA_answers.txt").write_text("1\n0\n" * 6)
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
    return tmp_path


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``python -m MODULE …`` in this process: torch is imported once and not for each command."""
    assert words[:2] == ["python", "-m"]
    monkeypatch.setattr(sys, "argv", words[2:])
    code: object = None
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    assert code in (0, None), f"{shlex.join(words)}: exit {code}"


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_small_run_works(page: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(site)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = 0
    for words in commands(page, small=True):
        if words[2] == "backends.cuda" and words[3] == "train":
            # few rows say as much about the commands
            data = next(word for word in words if word.startswith("data.train=")).removeprefix("data.train=")
            shorten(Path(data), 32)
        run(words, monkeypatch)
        done += 1
    assert done >= 3
    expected = {
        "qqp_cola": [
            "runs/002/QQP_train.json",
            "runs/002/QQP_dev.json",
            "runs/002/CoLA_dev.json",
            "runs/002/result_CoLA.txt",
        ],
        "webqa": ["runs/webqa/run/eval/webqa-test/results.json", "runs/webqa/run/adapter_model.safetensors"],
        "novel": ["runs/novel/run/adapter_model.safetensors", "runs/novel/test.jsonl"],
    }
    for name in expected[page]:
        assert (site / name).is_file(), name
    if page == "qqp_cola":
        assert len((site / "runs/002/result_CoLA.txt").read_text().splitlines()) == 12
        assert len(json.loads((site / "runs/002/CoLA_heldout.json").read_text())) == 200


def shorten(path: Path, rows: int) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:rows]))
    else:
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]), encoding="utf-8")


@pytest.mark.backend
@pytest.mark.parametrize("page", PAGES)
def test_every_command_knows_its_options(page: str) -> None:
    checked = set()
    for words in [*commands(page, small=True), *commands(page, small=False)]:
        module, options = words[2], {word for word in words if word.startswith("--")}
        sub = [words[3]] if module in ("backends.cuda", "converters.glue") else []
        key = (module, *sub)
        done = subprocess.run(
            [sys.executable, "-m", module, *sub, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert not {option for option in options if option not in done.stdout}, key
        for word in words:
            if word.startswith("yaml/"):
                assert (ROOT / word).is_file(), word
        checked.add(key)
    assert len(checked) >= 4


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore")
def test_the_contest_page_from_raw_rows_to_the_best_checkpoint(tmp_path: Path) -> None:
    """Its commands in its order, on the small base: what needs cards or a large model is put in small."""
    # looked for and not imported: mindformers writes its log into the folder that imports it
    if importlib.util.find_spec("mindformers") is None:
        pytest.skip("mindformers is not installed")
    pytest.importorskip("torch")
    from converters.arithmetic.synthesize import synthesize

    synthesize(tmp_path / "train.json", 400, seed=3)
    page = (ROOT / "docs" / "contest.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    small = {
        "DIR": str(ROOT / "models/tiny"),
        "load_checkpoint=DIR": f"load_checkpoint={ROOT / 'models/tiny'}",
        "100000": "48",
        "2000": "8",
        "--workers": "--device",
        "4": "cpu",
        "dev-v1.1.json": str(ROOT / "eval/data/reading.json"),
        "yaml/llama3_lora_worked.yaml": str(ROOT / "yaml/llama3_lora_worked.yaml"),
    }
    more = {
        "backends.ascend": ["runner_config.batch_size=8", "model.model_config.compute_dtype=float32"],
        "eval.sweep": ["--limit", "4", "--max-new-tokens", "24", "--device", "cpu"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for line in block.splitlines():
        words = [small.get(word, word) for word in shlex.split(line)]
        words += more.get(words[2], [])
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        # how much five steps forget is not this test's matter: the gate may stay shut
        assert done.returncode == 0 or (words[2] == "eval.sweep" and done.returncode == 3), f"{line}\n{done.stderr}"
    points = json.loads((tmp_path / "runs/contest/eval/sweep/sweep.json").read_text())["points"]
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 5]
    assert "lora_A" in done.stdout
