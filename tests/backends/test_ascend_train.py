"""Whole training runs on MindSpore through the command, on the CPU, and what they leave behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training import command, environment, train

from backends.run.directory import Run, read_log
from backends.weights.safetensors_files import ShardWriter, open_tensors

pytestmark = pytest.mark.backend
pytest.importorskip("mindspore")
pytest.importorskip("torch")

CONTEST = Path(__file__).parents[1] / "data" / "run_llama3_8b_8k_800T_A2_64G_lora_dis_256.yaml"
LORA = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "target_modules": ".*w[qv]"}


@pytest.fixture(scope="module")
def recipe(tiny_llama, rows_file, tmp_path_factory):
    """A recipe of 14 steps on the small Llama."""
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    content = {
        "load_checkpoint": str(tiny_llama),
        "runner_config": {"epochs": 2, "batch_size": 8},
        "optimizer": {"type": "AdamW", "weight_decay": 0.01},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 0.005, "warmup_ratio": 0.1},
        "model": {"model_config": {"seq_length": 64, "pet_config": LORA}},
        "data": {"train": str(rows_file), "template": "bare"},
    }
    file.write_text(json.dumps(content))
    return file


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """An uninterrupted run, and what it said."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    here = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        command("ascend", recipe, f"output_dir={folder}"), capture_output=True, text=True, env=environment(), cwd=here
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(here.iterdir()) == []  # mindformers would leave ./output behind
    return Run.open(folder), done.stderr


def losses(folder):
    return [row["loss"] for row in read_log(folder / "train_log.jsonl")]


def test_a_run_directory_is_whole(finished, tiny_llama):
    run, said = finished
    assert run.result["steps"] == 14
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 6, 8, 11, 14]
    for name in ("loss.png", "data.json", "environment.json", "template.json", "tokenizer.json"):
        assert (run.path / name).stat().st_size > 100
    assert run.base == str(tiny_llama)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["mindformers"] == "1.9.0"
    assert not (run.path / "mindformers" / "start").exists()  # a copy of the base is not kept
    log = read_log(run.log)
    assert [row["step"] for row in log] == list(range(1, 15))
    assert log[-1]["loss"] < log[0]["loss"]
    assert "packing: off, rows are padded to 64 tokens" in said
    assert "[WARNING]" not in said


def test_mindformers_own_checkpoint_lies_beside_the_adapter(finished):
    from backends.weights.names import mindformers_to_peft

    run, _ = finished
    own, peft = open_tensors(run.path / "mindformers.safetensors"), open_tensors(run.path / "adapter_model.safetensors")
    assert sorted(map(mindformers_to_peft, own.names())) == sorted(peft.names())
    for name in own.names():
        assert np.array_equal(own.read(name), peft.read(mindformers_to_peft(name)))


def test_a_finished_run_is_not_trained_again(finished, recipe):
    run, _ = finished
    before = (run.path / "adapter_model.safetensors").stat().st_mtime_ns
    assert "this run is finished" in train("ascend", recipe, f"output_dir={run.path}", "--resume")
    assert "--resume goes on with it" in train("ascend", recipe, f"output_dir={run.path}", code=1)
    assert (run.path / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_killed_run_goes_on_to_the_same_bits(finished, recipe, tmp_path):
    whole, _ = finished
    run = Run(tmp_path / "run")
    arguments = [recipe, f"output_dir={run.path}"]
    process = subprocess.Popen(command("ascend", *arguments), stderr=subprocess.DEVNULL, env=environment())
    while process.poll() is None and len(run.checkpoints()) < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run.result is None
    assert "resumed from" in train("ascend", *arguments, "--resume")
    assert losses(run.path) == losses(whole.path)
    for name in ("adapter_model.safetensors", "mindformers.safetensors"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 6, 8, 11, 14]
    for mine, theirs in zip(run.checkpoints(), whole.checkpoints(), strict=True):
        name = "optimizer.safetensors"
        assert (mine.path / name).read_bytes() == (theirs.path / name).read_bytes()


def test_a_run_of_the_other_backend_is_not_resumed(finished, recipe, tmp_path):
    shutil.copytree(finished[0].path, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    said = train("cuda", recipe, f"output_dir={tmp_path / 'run'}", "--resume", code=1)
    assert "backend: the run was trained by backends.ascend" in said


def test_two_workers_are_one_with_all_rows(finished, recipe, tmp_path):
    run = tmp_path / "run"
    said = train("ascend", recipe, f"output_dir={run}", "--workers", "2")
    assert "workers: 2, started by msrun" in said
    # each has half of a step's rows, and the mean is over the tokens of both
    assert losses(run) == pytest.approx(losses(finished[0].path), rel=1e-5)
    one, two = (open_tensors(path / "adapter_model.safetensors") for path in (finished[0].path, run))
    for name in one.names():
        assert np.linalg.norm(one.read(name) - two.read(name)) < 1e-2 * np.linalg.norm(one.read(name))


def test_the_contests_yaml_trains_a_small_model(tiny_llama, rows_file, tmp_path):
    said = train(
        "ascend",
        CONTEST,
        f"load_checkpoint={tiny_llama}",
        f"data.train={rows_file}",
        "data.template=bare",
        "model.model_config.seq_length=64",
        "runner_config.batch_size=8",
        "runner_config.epochs=1",
        f"output_dir={tmp_path / 'run'}",
    )
    assert "FP32StateAdamWeightDecay → AdamW" in said
    assert "model: the recipe says hidden_size 4096 → 32" in said
    assert "train-fastchat256.mindrecord is not read, data.train names the rows" in said
    assert len(losses(tmp_path / "run")) == 7


def test_a_mindrecord_file_gives_the_same_run(finished, recipe, tmp_path):
    run, _ = finished
    source = run.path / "mindformers" / "train.mindrecord"
    loader = f"train_dataset.data_loader={{type: MindDataset, dataset_dir: {source}}}"
    train("ascend", recipe, f"output_dir={tmp_path / 'run'}", loader, "data.train=[]")
    assert losses(tmp_path / "run") == losses(run.path)
    said = train(
        "ascend",
        recipe,
        f"output_dir={tmp_path / 'other'}",
        loader,
        "data.train=[]",
        "model.model_config.seq_length=32",
        code=1,
    )
    assert "rows of 65 ids are for seq_length=64, not 32" in said
    said = train(
        "ascend", recipe, f"output_dir={tmp_path / 'other'}", loader, "data.train=[]", "data.template=vicuna", code=1
    )
    assert "written with another template" in said
    assert not (tmp_path / "other").exists()


def test_training_stops_at_a_loss_that_is_not_finite(tiny_llama, recipe, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    tensors = open_tensors(tiny_llama)
    with ShardWriter(broken) as writer:
        for name in tensors.names():
            values = tensors.read(name)
            writer.add(name, values * np.nan if name == "model.norm.weight" else values)
    said = train("ascend", recipe, f"load_checkpoint={broken}", f"output_dir={tmp_path / 'run'}", code=1)
    assert "error: step 1: the loss is nan; rows row-" in said
    assert Run(tmp_path / "run").checkpoints() == []


def test_every_parameter_is_trained_without_lora(recipe, tmp_path):
    for backend in ("cuda", "ascend"):
        train(
            backend,
            recipe,
            f"output_dir={tmp_path / backend}",
            "model.model_config.pet_config=null",
            "model.model_config.param_init_type=float32",
            "runner_config.epochs=1",
        )
    assert losses(tmp_path / "ascend") == pytest.approx(losses(tmp_path / "cuda"), rel=1e-4)
    cuda, ascend = (open_tensors(tmp_path / backend / "model.safetensors") for backend in ("cuda", "ascend"))
    assert set(cuda.names()) == set(ascend.names())
    for name in cuda.names():
        assert np.linalg.norm(cuda.read(name) - ascend.read(name)) < 1e-2 * np.linalg.norm(cuda.read(name))
    config = json.loads((tmp_path / "ascend" / "config.json").read_text())
    assert config["model_type"] == "llama"
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ascend").num_parameters() > 30000


def test_doctor_takes_two_steps(tmp_path):
    run = [sys.executable, "-m", "backends.ascend", "doctor", "--device"]
    done = subprocess.run([*run, "cpu"], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "two LoRA steps of a tiny model: loss" in done.stdout
    assert done.stdout.endswith("ok\n")
    assert list(tmp_path.iterdir()) == []
    done = subprocess.run([*run, "npu"], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 1
    assert "CANN" in done.stdout
    assert "no Ascend card; looked for /dev/davinci0" in done.stderr
