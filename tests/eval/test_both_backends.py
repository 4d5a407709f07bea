"""One trained adapter, evaluated by both backends: the same rows, the same tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from eval.choice import __main__ as choice
from eval.loss import __main__ as loss
from eval.math import __main__ as eval_math
from eval.squad import __main__ as squad
from eval.sweep import __main__ as sweep

pytestmark = pytest.mark.backend
pytest.importorskip("mindspore")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PROBLEMS = 50


def run_module(*words):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of some 24 steps of the demo's recipe on the shipped small base, and problems it has not seen."""
    folder = tmp_path_factory.mktemp("trained")
    raw, train, test = (folder / f"{name}.jsonl" for name in ("raw", "train", "test"))
    run_module("converters.arithmetic", "synthesize", "--seed", 3, "--rows", 3000, "-o", raw)
    convert = ["convert", raw, "--steps", "worked", "--rows", 25 * 32, "--holdout", PROBLEMS, "--holdout-out", test]
    run_module("converters.arithmetic", *convert, "-o", train)
    recipe = yaml.safe_load((ROOT / "yaml" / "demo.yaml").read_text(encoding="utf-8"))
    recipe["callbacks"] = [{"type": "CheckpointMonitor", "save_checkpoint_steps": 12, "keep_checkpoint_max": 2}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    settings = [f"data.train={train}", f"output_dir={folder / 'run'}"]
    run_module("backends.cuda", "train", folder / "recipe.yaml", *settings, "--device", "cpu")
    return folder / "run", test


def evaluate(module, capsys, backend, *words):
    """Run an evaluation and return what it prints."""
    module.main([*map(str, words), "--backend", backend, "--device", "cpu"])
    return capsys.readouterr().out


def without_time(path):
    value = json.loads(path.read_text())
    return {key: value[key] for key in ("results", "n-samples", "configs") if key in value}


def test_math_tables_are_identical(trained, tmp_path, capsys):
    run, test = trained
    out = {name: tmp_path / name for name in ("cuda", "ascend")}
    options = ["--ckpt", run, "--data", test, "--max-new-tokens", 80]
    tables = [evaluate(eval_math, capsys, name, *options, "--out", out[name]) for name in out]
    assert tables[0] == tables[1]
    rows = [[json.loads(line) for line in (out[name] / "predictions.jsonl").open()] for name in out]
    assert rows[0] == rows[1]
    assert len(rows[0]) == PROBLEMS
    assert len({row["predict"] for row in rows[0]}) > PROBLEMS // 2
    assert without_time(out["cuda"] / "results.json") == without_time(out["ascend"] / "results.json")
    assert json.loads((out["ascend"] / "results.json").read_text())["hashes"]["backend"] == "ascend"

    # the same command again asks nothing; the other backend's answers are not taken for its own
    evaluate(eval_math, capsys, "ascend", *options, "--out", out["ascend"])
    with pytest.raises(Exception, match="was made with backend cuda, not ascend"):
        evaluate(eval_math, capsys, "ascend", *options, "--out", out["cuda"])
    eval_math.main(["--compare", str(out["cuda"]), str(out["ascend"])])
    assert "note: backend was cuda before and ascend after" in capsys.readouterr().out


def test_reading_figures_are_identical(trained, small, tmp_path, capsys):
    run, _ = trained
    options = ["--ckpt", run, "--data", small, "--protocol", "both"]
    tables = [evaluate(squad, capsys, name, *options, "--out", tmp_path / name) for name in ("cuda", "ascend")]
    assert tables[0] == tables[1]


def test_losses_of_text_are_equal(trained, small, tmp_path):
    run, _ = trained
    found = {}
    for name in ("cuda", "ascend"):
        words = ["--ckpt", run, "--data", small, "--out", tmp_path / name, "--backend", name, "--device", "cpu"]
        loss.main([str(word) for word in words])
        rows = [json.loads(line)["scores"]["loss"] for line in (tmp_path / name / "predictions.jsonl").open()]
        found[name] = [(row["nats"] / row["tokens"], row["tokens"]) for row in rows]
    for one, other in zip(found["cuda"], found["ascend"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
        assert one[1] > 5


@pytest.mark.parametrize("way", ["loglik", "generate"])
def test_choices_are_identical(trained, tmp_path, capsys, way):
    run, test = trained
    data = tmp_path / "choices.jsonl"
    problems = [json.loads(line)["problem"] for line in test.open()]
    rows = [{"instruction": problem, "output": ("1", "12", "3.5")[i % 3]} for i, problem in enumerate(problems)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    options = ["--ckpt", run, "--data", data, "--way", way, "--limit", 12]
    tables = [evaluate(choice, capsys, name, *options, "--out", tmp_path / name) for name in ("cuda", "ascend")]
    assert tables[0] == tables[1]
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").open()] for name in ("ascend", "cuda")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("logprobs", {}) == pytest.approx(other.pop("logprobs", {}), abs=1e-4)
        assert one == other


def test_a_sweep_loads_each_checkpoint_once(trained, small, tmp_path, capsys, monkeypatch):
    from backends.generation import registry

    run, test = trained
    loaded = []
    load = registry.load_generator
    monkeypatch.setattr(
        registry, "load_generator", lambda files, runtime: loaded.append(files.path) or load(files, runtime)
    )
    options = [
        "--math",
        test,
        "--squad",
        small,
        "--limit",
        2,
        "--max-new-tokens",
        8,
        "--threshold",
        0,
        "--out",
        tmp_path,
    ]
    evaluate(sweep, capsys, "ascend", "--ckpt", run, *options)
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert len(points) == len(loaded) >= 2
    assert len(set(loaded)) == len(loaded)
