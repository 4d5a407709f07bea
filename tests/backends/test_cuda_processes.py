"""Two processes train as one."""

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.backend

from safetensors.torch import load_file

from backends.run.directory import read_log

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_two_gloo_processes_give_the_losses_of_one(make_recipe, tiny_llama, tmp_path):
    recipe = str(make_recipe(load_checkpoint=str(tiny_llama), **{"data.micro_batch_tokens": 150}))
    one, two = tmp_path / "one", tmp_path / "two"
    train = ["-m", "backends.cuda", "train", recipe, "--device", "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for launcher, folder in (([], one), (torchrun, two)):
        done = subprocess.run(
            [sys.executable, *launcher, *train, f"output_dir={folder}"],
            env=ENVIRONMENT,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode()
    logs = [read_log(folder / "train_log.jsonl") for folder in (one, two)]
    assert len(logs[0]) == len(logs[1]) == 14
    for key in ("loss", "grad_norm", "lr", "tokens", "supervised_tokens"):
        assert [row[key] for row in logs[1]] == pytest.approx([row[key] for row in logs[0]], rel=2e-5), key
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in (one, two)]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=1e-3, atol=1e-5)
    assert json.loads((two / "environment.json").read_text())["processes"] == 2
