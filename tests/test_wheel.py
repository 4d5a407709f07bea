"""The wheel, installed away from the repository, does from an empty folder what the checkout does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backends", "converters", "eval", "mindrecord")

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel; the libraries are those of this environment."""
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", str(ROOT), "--no-deps", "-w", str(built)], check=True)
    (wheel,) = built.glob("twinlora-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(site, *words, module=None, code=0):
    """Run ``twinlora WORDS``, or ``python -m MODULE WORDS``, of the wheel in the current directory."""
    command = [sys.executable, "-m", module] if module else [sys.executable, str(site / "bin" / "twinlora")]
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_wheel_and_not_the_checkout_is_imported(site, empty):
    names = ", ".join([*PACKAGES, "yaml"])
    script = f"import {names}; print(*(module.__file__ for module in ({names})))"
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    *own, pyyaml = done.stdout.split()
    assert own == [str(site / name / "__init__.py") for name in PACKAGES]
    assert pyyaml.endswith("yaml/__init__.py")
    assert not pyyaml.startswith(str(site))
    assert all((site / name / "py.typed").is_file() for name in PACKAGES)


def test_every_file_that_is_not_code_is_there(site):
    for folder in ("yaml", "models/tiny"):
        ours = {file.name: file.read_bytes() for file in (ROOT / folder).iterdir() if file.is_file()}
        theirs = {file.name: file.read_bytes() for file in (site / "converters/shipped" / folder).iterdir()}
        assert theirs == ours
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*") if "__pycache__" not in file.parts]
    names = [str(file.relative_to(ROOT)) for file in files if file.is_file()]
    assert "converters/novel/prompts/judge.txt" in names
    assert [name for name in names if not (site / name).is_file()] == []


def test_version_and_help(site, empty):
    assert run(site, "--version").stdout.startswith("twinlora 0.")
    assert "convert arithmetic" in run(site, "--help").stdout
    assert "did you mean 'train'?" in run(site, "trian", code=2).stderr


@pytest.mark.parametrize("recipe", [(), ("yaml/llama3_lora.yaml",), ("llama3_lora",)])
def test_plan_finds_the_default_recipe_by_any_name(site, empty, recipe):
    done = run(site, "plan", *recipe, "--backend", "cuda", "--rows", 1000, "--json")
    assert json.loads(done.stdout)["trainable"] == 3_407_872
    assert ("llama3_lora" in done.stderr) == bool(recipe)
    assert list(empty.iterdir()) == []


def test_train_and_evaluate_from_an_empty_folder(site, empty):
    run(site, "convert", "tiny", "corpus", "--mix", "reading", "--rows", 64, "--seed", 3, "-o", "rows.jsonl")
    trained = run(site, "train", "demo", "--backend", "cuda", "data.train=rows.jsonl", "output_dir=run")
    assert f"models/tiny: not in this directory; the shipped one is used ({site}" in trained.stderr
    assert (empty / "run/adapter_model.safetensors").is_file()
    made = json.loads((empty / "run/environment.json").read_text())
    assert made["packages"]["torch"]
    assert made["code"] is None  # the checkout would have named its commit
    loss = [json.loads(line)["loss"] for line in (empty / "run/train_log.jsonl").read_text().splitlines()]
    assert len(loss) == 2
    assert all(0 < value < 10 for value in loss)

    run(site, "--ckpt", "run", "--backend", "cuda", "--limit", 5, "--out", "after", module="eval.squad")
    run(site, "eval", "squad", "--ckpt", "models/tiny", "--backend", "cuda", "--limit", 5, "--out", "before")
    for name in ("before", "after"):
        assert len((empty / name / "predictions.jsonl").read_text().splitlines()) == 5
        results = json.loads((empty / name / "results.json").read_text())
        assert results["n-samples"]["squad_mindformers"]["effective"] == 5
        assert results["config"]["data"].startswith(str(site))
    assert not (empty / "models").exists()
