"""``evaluate`` around the model: which rows are measured, how the figures add up, and what is refused."""

import importlib
import json
import math
import shutil

import pytest

from backends.generation import registry
from converters.common.errors import UsageError, UserError


@pytest.fixture
def model(tiny_tokenizer, tmp_path):
    """Whatever says that it is a model: nothing here reads its weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_tokenizer, folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def losses(monkeypatch):
    """A loaded model that gives each row a loss of half a nat a supervised token, or what ``change`` makes of it."""

    def use(change=lambda loss: loss):
        class Even:
            def losses(self, rows):
                for index, (_, labels) in reversed(rows.items()):
                    yield index, change(0.5 * int((labels != -100).sum()))

        monkeypatch.setattr(registry, "load_generator", lambda files, runtime: Even())
        monkeypatch.setattr(registry, "choose_backend", lambda name, device: ("cuda", None))

    return use


def write(path, *pairs):
    rows = [
        {
            "id": f"r{i}",
            "conversations": [{"from": "human" if j % 2 == 0 else "gpt", "value": text} for j, text in turns],
        }
        for i, turns in enumerate(enumerate(pair) for pair in pairs)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def measure(model, data, *words):
    main = importlib.import_module("backends.cuda.__main__").main
    return main(["evaluate", "--ckpt", str(model), "--template", "bare", "--data", str(data), *map(str, words)])


def test_every_token_counts_the_same(model, losses, tmp_path, capsys):
    losses()
    data = write(tmp_path / "rows.jsonl", ("1 + 1", "2"), ("2 + 2", "four, that is 4"), ("x" * 200, "long"))
    out = tmp_path / "figures.json"
    assert measure(model, data, "--seq-length", 60, "--out", out) == 0
    value = json.loads(out.read_text())
    figures = value["results"]["perplexity"]
    assert figures["nll"] == pytest.approx(0.5)
    assert figures["perplexity"] == pytest.approx(math.exp(0.5))
    assert (figures["rows"], figures["dropped"]) == (2, 1)
    assert figures["tokens"] > 10
    assert value["hashes"]["backend"] == "cuda"
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == ["rows", "supervised", "tokens", "nats", "a", "token", "perplexity"]
    assert "0.500000" in captured.out
    assert "1 dropped" in captured.err


@pytest.mark.parametrize(
    ("pairs", "words", "error", "message"),
    [
        ([("1 + 1", "2"), ("why?",)], [], UserError, r"rows\.jsonl: row 2 \(r1\) ends with a question"),
        ([("1 + 1", "2")], ["--seq-length", 1], UserError, "no row has a supervised token"),
        ([("1 + 1", "2")], ["--limit", 0], UsageError, "--limit 0: at least 1"),
        ([], [], UserError, r"rows\.jsonl"),
    ],
)
def test_data_that_cannot_be_measured_is_refused_in_one_line(model, losses, tmp_path, pairs, words, error, message):
    losses()
    with pytest.raises(error, match=message) as caught:
        measure(model, write(tmp_path / "rows.jsonl", *pairs), *words)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_names_the_row(model, losses, tmp_path):
    losses(lambda loss: math.nan)
    with pytest.raises(UserError, match="row r0: its loss is nan"):
        measure(model, write(tmp_path / "rows.jsonl", ("1 + 1", "2")))
