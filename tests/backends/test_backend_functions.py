"""Training and asking from Python: the functions that ``backends`` offers, without a command line."""

import json
import subprocess
import sys

import pytest

import backends
from backends.generation import registry
from converters.common.errors import UsageError


def test_importing_them_costs_nothing():
    code = (
        "import sys, backends\n"
        "assert not {'torch', 'mindspore', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "assert all(callable(getattr(backends, name)) for name in backends.__all__)\n"
        "assert not {'torch', 'mindspore'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = backends.trian


def test_what_a_backend_does_not_offer_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(registry, "missing", lambda name: [])
    with pytest.raises(UsageError, match="dtype 'float16': training on the cuda backend has auto, float32, bfloat16"):
        backends.train(None, backend="cuda", dtype="float16")
    with pytest.raises(UsageError, match="dtype 'bfloat16': training on the ascend backend has auto"):
        backends.train(None, backend="ascend", dtype="bfloat16")
    with pytest.raises(UsageError, match="workers 2: the cuda backend is started several times by torchrun"):
        backends.train(None, backend="cuda", workers=2)


@pytest.mark.parametrize("name", registry.BACKENDS)
def test_every_backend_says_what_it_offers(name):
    backend = registry.backend_named(name)
    assert backend.name == name
    assert backend.devices[0] == "auto"
    assert f"python -m backends.{name} train" in backend.examples


@pytest.mark.backend
def test_train_then_ask_and_measure(make_recipe, tiny_llama, tmp_path, capsys):
    pytest.importorskip("torch")
    recipe = backends.load_recipe(make_recipe(**{"load_checkpoint": str(tiny_llama), "runner_config.epochs": 1}))
    assert backends.plan(recipe).steps == 7
    run = backends.train(recipe, backend="cuda", device="cpu")
    assert run.result["steps"] == 7
    assert backends.train(recipe, backend="cuda", device="cpu", resume=True).path == run.path
    files = backends.open_checkpoint(run.path)
    runtime = backends.Runtime("cuda", "cpu")
    questions = ["计算 1 + 2 等于多少？", "why?"]
    answers = backends.ask(run.path, questions, runtime=runtime, max_new_tokens=8)
    assert len(answers) == 2
    assert backends.ask(files, questions[1:], runtime=runtime, max_new_tokens=8) == answers[1:]
    data = tmp_path / "rows.jsonl"
    turns = [[{"from": "human", "value": text}, {"from": "gpt", "value": "3"}] for text in questions]
    data.write_text("".join(json.dumps({"id": str(i), "conversations": one}) + "\n" for i, one in enumerate(turns)))
    done = backends.generate_file(files, data, tmp_path / "out.jsonl", limits=backends.Limits(8), runtime=runtime)
    assert [row["predict"] for row in done.rows] == [str(answer) for answer in answers]
    assert done.cut == sum(answer.finish_reason == "length" for answer in answers)
    found = backends.perplexity(files, data, runtime=runtime)
    assert (found.rows, found.dropped) == (2, 0)
    assert found.tokens == found.as_json()["results"]["perplexity"]["tokens"] > 2
    assert found.hashes["backend"] == "cuda"
