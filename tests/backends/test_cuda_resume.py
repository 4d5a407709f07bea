"""A run that was stopped, however it was stopped, goes on as if it had not been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore::UserWarning")]

from backends.cuda.__main__ import main
from backends.run.directory import Run, read_log
from converters.common.errors import UserError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
WITHOUT_TIME = ("step", "total", "epoch", "loss", "lr", "grad_norm", "tokens", "supervised_tokens")


@pytest.fixture
def recipe(make_recipe, tiny_llama):
    return make_recipe(
        load_checkpoint=str(tiny_llama),
        callbacks=[{"type": "CheckpointMonitor", "save_checkpoint_steps": 4, "keep_checkpoint_max": 2}],
        **{"runner_config.epochs": 8, "model.model_config.pet_config.lora_dropout": 0.2},
    )


def command(recipe, folder, *options):
    return [
        *(sys.executable, "-m", "backends.cuda", "train", str(recipe), f"output_dir={folder}"),
        *("--device", "cpu", *options),
    ]


def product(folder):
    """What must not differ between two runs: the weights' bytes and the log without its times."""
    log = [{key: row[key] for key in WITHOUT_TIME} for row in read_log(folder / "train_log.jsonl")]
    return (folder / "adapter_model.safetensors").read_bytes(), log


def test_killed_at_random_moments_the_run_ends_with_the_same_bits(recipe, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(recipe, whole), check=True, env=ENVIRONMENT, capture_output=True, timeout=300)
    draw = random.Random()
    moments = sorted(draw.sample(range(1, 54), 2))
    for moment in moments:
        with subprocess.Popen(command(recipe, broken, "--resume"), env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 120
            while len(read_log(broken / "train_log.jsonl")) < moment and process.poll() is None:
                assert time.monotonic() < until, "the run does not come on"
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        for checkpoint in Run(broken).checkpoints():
            assert checkpoint.state["step"] == checkpoint.step
    ended = subprocess.run(command(recipe, broken, "--resume"), env=ENVIRONMENT, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    assert product(broken) == product(whole), f"killed after {moments} steps"
    assert not list(broken.rglob(".tmp-*"))


def test_an_interruption_says_how_to_go_on(recipe, tmp_path, monkeypatch):
    from backends.cuda.train.optimizer import Optimizer

    arguments = command(recipe, tmp_path / "run")[3:]
    steps, original = [], Optimizer.step

    def step(self, rate):
        steps.append(rate)
        if len(steps) in (2, 9):
            raise KeyboardInterrupt
        original(self, rate)

    monkeypatch.setattr(Optimizer, "step", step)
    with pytest.raises(KeyboardInterrupt, match=r"run: the same command with --resume goes on from the beginning"):
        main(arguments)
    with pytest.raises(KeyboardInterrupt, match=r"run: the same command with --resume goes on after step 4$"):
        main([*arguments, "--resume"])
    assert main([*arguments, "--resume"]) == 0


def test_a_finished_run_says_so(recipe, tmp_path, capsys):
    arguments = command(recipe, tmp_path / "run")[3:]
    assert main([*arguments, "runner_config.epochs=1"]) == 0
    assert main([*arguments, "runner_config.epochs=1", "--resume"]) == 0
    assert "this run is finished (7 steps); nothing to resume" in capsys.readouterr().err


@pytest.fixture
def unfinished(recipe, tmp_path):
    """A run whose last three steps were lost, and the arguments that made it."""
    arguments = [*command(recipe, tmp_path / "run")[3:], "runner_config.epochs=1"]
    main(arguments)
    run = Run.open(tmp_path / "run")
    for name in ("result.json", "adapter_model.safetensors", "checkpoints/step-000007"):
        path = run.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run, arguments


def test_only_whole_checkpoints_are_taken(unfinished, capsys):
    run, arguments = unfinished
    before = read_log(run.log)
    torn = run.path / "checkpoints" / "step-000006"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    (run.path / "checkpoints" / ".tmp-1-step-000005").mkdir()
    with run.log.open("a") as file:
        file.write('{"step": 8, "lo')
    assert main([*arguments, "--resume"]) == 0
    assert "step-000004: 4 steps done, 3 to go" in capsys.readouterr().err
    environment = json.loads((run.path / "environment.json").read_text())
    assert [part["after_step"] for part in environment["resumed"]] == [4]
    assert "--resume" not in environment["command"]
    after = read_log(run.log)
    assert [row["loss"] for row in after] == [row["loss"] for row in before]
    assert not list(run.path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1", r"seed: the run has 0, the recipe now says 1"),
        ("lr_schedule.learning_rate=0.5", r"lr_schedule\.learning_rate: the run has 0\.01, the recipe now says 0\.5"),
        ("data.template=alpaca", r"data\.template: the run has 'bare', the recipe now says 'alpaca'"),
        ("runner_config.epochs=3", r"runner_config\.epochs: the run has 1, the recipe now says 3"),
    ],
)
def test_another_recipe_is_refused_with_both_values(unfinished, change, message):
    run, arguments = unfinished
    with pytest.raises(UserError, match=message):
        main([*arguments, change, "--resume"])
    assert len(read_log(run.log)) == 7


def test_other_rows_weights_or_precision_are_refused(unfinished, rows_file, tmp_path):
    run, arguments = unfinished
    with pytest.raises(UserError, match=r"dtype: the run has float32, now it is bfloat16"):
        main([*arguments, "--resume", "--dtype", "bfloat16"])
    text = rows_file.read_text()
    try:
        rows_file.write_text(text.replace("= 1", "= 2", 1))
        with pytest.raises(UserError, match=r"data: the run has rows \w{12} of .*rows\.jsonl, these are \w{12}"):
            main([*arguments, "--resume"])
    finally:
        rows_file.write_text(text)
    weights = tmp_path / "other"
    shutil.copytree(run.base, weights)
    content = bytearray((weights / "model.safetensors").read_bytes())
    content[-1] ^= 1
    with pytest.raises(UserError, match=r"load_checkpoint: the run has"):
        main([*arguments, "--resume", f"load_checkpoint={weights}"])


def test_a_run_goes_on_in_its_own_precision(make_recipe, tiny_llama, tmp_path):
    # begun where bfloat16 is the default, resumed where it is not
    recipe = str(make_recipe(load_checkpoint=str(tiny_llama), **{"runner_config.epochs": 1}))
    arguments = ["train", recipe, f"output_dir={tmp_path / 'run'}", "--device", "cpu"]
    main([*arguments, "--dtype", "bfloat16"])
    (tmp_path / "run" / "result.json").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert Run.open(tmp_path / "run").result["steps"] == 7


def test_without_resume_a_run_is_not_overwritten(unfinished):
    run, arguments = unfinished
    with pytest.raises(UserError, match=r"a run of 7 steps is there already; --resume goes on with it"):
        main(arguments)
    assert len(read_log(run.log)) == 7


def test_another_layout_is_said(unfinished, capsys):
    _, arguments = unfinished
    assert main([*arguments, "--resume", "data.micro_batch_tokens=64"]) == 0
    assert "the same run to rounding, not to the bit" in capsys.readouterr().err


def test_checkpoints_are_evenly_spaced_or_every_n_steps(make_recipe):
    from backends.recipe.load import load_recipe
    from backends.run.resume import checkpoint_steps

    def at(total, **callback):
        path = make_recipe(callbacks=[{"type": "CheckpointMonitor", **callback}])
        return sorted(checkpoint_steps(load_recipe(path), total))

    assert at(7810) == [1562, 3124, 4686, 6248, 7810]
    assert at(7810, save_checkpoint_steps=-1, keep_checkpoint_max=2) == [3905, 7810]
    assert at(10, save_checkpoint_steps=4) == [4, 8, 10]
    assert at(3) == [1, 2, 3]
