"""``python -m backends.exchange``: what a path is, is seen; options without a use are refused; inspection counts."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from exchange_files import read_all, write_adapter, write_ckpt, write_hf_model, write_safetensors

from backends.exchange.__main__ import main
from backends.exchange.convert import hf_directory
from backends.exchange.models import write_hf
from backends.weights.names import peft_to_mindformers
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError


@pytest.fixture
def hf(tmp_path):
    write_hf_model(tmp_path / "hf")
    return tmp_path / "hf"


def run(*words):
    return main([str(word) for word in words])


def test_a_model_goes_there_and_back(tmp_path, hf, capsys):
    run("to-mindformers", hf, "-o", tmp_path / "m.ckpt")
    run("to-hf", tmp_path / "m.ckpt", "-o", tmp_path / "again", "--max-shard-size", "3KB")
    assert len(list((tmp_path / "again").glob("model-*.safetensors"))) > 1
    before, after = open_tensors(hf), open_tensors(tmp_path / "again")
    assert all(before.read(name).tobytes() == after.read(name).tobytes() for name in before)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(f"a Hugging Face model, 21 tensors → {tmp_path / 'm.ckpt'}")
    assert said[1].endswith(f"weights of mindformers, 21 tensors → {tmp_path / 'again'}")


def test_an_adapter_goes_there_and_back(tmp_path, capsys):
    write_adapter(tmp_path / "peft")
    run("to-mindformers", tmp_path / "peft", "-o", tmp_path / "lora.safetensors")
    run("to-hf", tmp_path / "lora.safetensors", "-o", tmp_path / "again")
    assert read_all(tmp_path / "again") == read_all(tmp_path / "peft")
    assert "a LoRA of mindformers, rank 2 of q_proj, v_proj" in capsys.readouterr().err


def test_of_a_file_with_both_the_lora_is_taken_or_the_weights(tmp_path, hf, capsys):
    from backends.weights.names import to_mindformers

    tensors = open_tensors(hf)
    both = {to_mindformers(name): tensors.read(name) for name in tensors}
    lora = write_adapter(tmp_path / "peft")
    file = write_ckpt(tmp_path / "m.ckpt", both | {peft_to_mindformers(name): array for name, array in lora.items()})
    run("to-hf", file, "-o", tmp_path / "lora", "--lora-alpha", "16", "--base", hf)
    assert read_all(tmp_path / "lora") == read_all(tmp_path / "peft")
    run("to-hf", file, "-o", tmp_path / "weights", "--weights", "--config", hf)
    assert read_all(tmp_path / "weights") == read_all(hf)
    assert "left out 8 LoRA matrices" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["to-mindformers", "hf", "-o", "x.ckpt", "--base", "hf"], "--base has no use here: .* a Hugging Face model"),
        (["to-mindformers", "peft", "-o", "x.ckpt", "--tokenizer", "hf"], "--tokenizer has no use here"),
        (["to-mindformers", "m.ckpt", "-o", "x.ckpt"], "is weights of mindformers already"),
        (["to-hf", "hf", "-o", "x"], "is a Hugging Face model already"),
        (["to-hf", "peft", "-o", "x"], "is a PEFT adapter already"),
        (["to-hf", "m.ckpt", "-o", "x", "--lora-alpha", "3"], "--lora-alpha has no use here"),
        (["to-hf", "m.ckpt", "-o", "x", "--weights"], "--weights has no use here"),
        (["to-hf", "m.ckpt", "-o", "hf"], "is there already"),
        (["to-hf", "m.ckpt", "-o", "x", "--max-shard-size", "big"], "expected a size such as 5GB"),
        (["to-hf", "absent.ckpt", "-o", "x"], "no such file"),
        (["to-hf", "consolidated.00.pth", "-o", "x"], "name its directory"),
        (["to-hf", "hf/model.safetensors", "-o", "x"], "name the directory with their config.json"),
        (["to-hf", "peft/adapter_model.safetensors", "-o", "x"], "name the directory with its adapter_config.json"),
        (["to-hf", "odd.safetensors", "-o", "x"], "neither weights of Hugging Face or mindformers nor a LoRA"),
        (["inspect", "absent"], "no such file or directory"),
    ],
)
def test_wrong_use_is_said_in_one_line(tmp_path, monkeypatch, hf, words, problem):
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "peft")
    run("to-mindformers", hf, "-o", "m.ckpt")
    write_safetensors(tmp_path / "odd.safetensors", {"layer": np.ones(3)})
    with pytest.raises(UsageError, match=problem):
        main(words)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.ckpt").exists()


def test_a_tokenizer_can_be_put_beside_a_model(tmp_path, hf):
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok/tokenizer.json").write_text('{"model": {"mine": true}}')
    run("to-mindformers", hf, "-o", tmp_path / "m.ckpt", "--tokenizer", tmp_path / "tok")
    assert "mine" in (tmp_path / "m.ckpt.hf/tokenizer.json").read_text()
    assert (tmp_path / "m.ckpt.hf/template.json").is_file()
    with pytest.raises(UserError, match="no tokenizer files there"):
        run("to-mindformers", hf, "-o", tmp_path / "n.ckpt", "--tokenizer", tmp_path / "absent")


def inspected(capsys, path, *words):
    run("inspect", path, *words)
    return capsys.readouterr().out


def test_an_adapter_is_listed(tmp_path, capsys):
    write_adapter(tmp_path / "peft", base="Qwen2.5-3B")
    text = inspected(capsys, tmp_path / "peft")
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert [line.split() for line in text.splitlines() if line.startswith(first)] == [[first, "[2,", "16]", "F32"]]
    assert "8 tensors, 224 parameters (F32 224)" in text
    assert "LoRA: rank 2, alpha 16, scaling 8; q_proj, v_proj in 2 layers" in text
    assert "base: Qwen2.5-3B" in text
    report = json.loads(inspected(capsys, tmp_path / "peft", "--json"))
    assert report["total"] == {"tensors": 8, "parameters": 224, "bytes": 896, "dtypes": {"F32": 224}}
    assert report["adapter"] == {
        "rank": 2,
        "lora_alpha": 16,
        "scaling": 8.0,
        "target_modules": ["q_proj", "v_proj"],
        "layers": 2,
        "base": "Qwen2.5-3B",
    }
    assert report["tensors"][0] == {"name": first, "shape": [2, 16], "dtype": "F32"}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_mindformers_lora_is_listed(tmp_path, capsys, suffix):
    write_adapter(tmp_path / "peft")
    run("to-mindformers", tmp_path / "peft", "-o", tmp_path / f"lora{suffix}")
    adapter = json.loads(inspected(capsys, tmp_path / f"lora{suffix}", "--json"))["adapter"]
    assert (adapter["rank"], adapter["scaling"], adapter["layers"]) == (2, 8.0, 2)


def test_a_foreign_lora_has_no_scaling(tmp_path, capsys):
    arrays = write_adapter(tmp_path / "peft")
    file = write_ckpt(tmp_path / "x.ckpt", {peft_to_mindformers(name): array for name, array in arrays.items()})
    assert "LoRA: rank 2, alpha is not recorded; q_proj, v_proj in 2 layers" in inspected(capsys, file)


def test_rank_stabilised_scaling_is_by_the_root(tmp_path, capsys):
    write_adapter(tmp_path / "peft", rank=4, use_rslora=True)
    assert "scaling 8;" in inspected(capsys, tmp_path / "peft")


def test_a_model_is_listed(tmp_path, hf, capsys):
    text = inspected(capsys, hf)
    assert "21 tensors, 5,200 parameters (F32 5,200)" in text
    assert "LoRA" not in text


def test_a_mindformers_file_is_converted_once(tmp_path, hf, capsys):
    run("to-mindformers", hf, "-o", tmp_path / "m.ckpt")
    home = hf_directory(tmp_path / "m.ckpt")
    assert read_all(home) == read_all(hf)
    assert "converting into" in capsys.readouterr().err
    changed = (home / "model.safetensors").stat().st_mtime_ns
    assert hf_directory(tmp_path / "m.ckpt") == home
    assert (home / "model.safetensors").stat().st_mtime_ns == changed
    assert capsys.readouterr().err == ""
    os.utime(tmp_path / "m.ckpt", ns=(1, 1))
    hf_directory(tmp_path / "m.ckpt")
    assert "converting into" in capsys.readouterr().err
    assert read_all(home) == read_all(hf)
    assert (home / "tokenizer.json").is_file()


def test_of_two_at_once_one_converts_and_the_other_waits(tmp_path, hf, capsys, monkeypatch):
    run("to-mindformers", hf, "-o", tmp_path / "m.ckpt")
    capsys.readouterr()
    writes, running = [], threading.Lock()

    def slow(*given, **options):
        assert running.acquire(blocking=False), "two conversions at a time"
        writes.append(1)
        time.sleep(0.2)
        done = write_hf(*given, **options)
        running.release()
        return done

    monkeypatch.setattr("backends.exchange.convert.write_hf", slow)
    with ThreadPoolExecutor(3) as pool:
        homes = set(pool.map(hf_directory, [tmp_path / "m.ckpt"] * 3))
    assert len(homes) == len(writes) == 1
    assert read_all(homes.pop()) == read_all(hf)


def test_files_of_others_are_not_converted_for_reading(hf):
    with pytest.raises(UsageError, match="name the directory"):
        hf_directory(hf / "model.safetensors")


def test_the_command_answers_fast_and_fails_with_its_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "backends.exchange", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "examples:" in done.stdout
    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))
    assert "argparse" in imported
    assert not imported & {"torch", "mindspore", "transformers", "polars", "safetensors"}
    command = [sys.executable, "-m", "backends.exchange", "inspect", str(tmp_path / "absent")]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert len(failed.stderr.splitlines()) == 1
