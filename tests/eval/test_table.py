"""Adapters × data sets: names, means, the published table of entailment, cells from a tiny model."""

import json
import shutil
import subprocess
import sys

import pytest

from converters.common.errors import UsageError, UserError
from eval import table
from eval.choice.rules import Choices, Scores
from eval.table import __main__ as command

BINARY = Choices.of("yes,no")


def scores(right, n, unparsed=0):
    pairs = [("yes", "yes")] * right + [("no", None)] * unparsed + [("yes", "no")] * (n - right - unparsed)
    return Scores.of(BINARY, pairs)


# the published accuracies, in tenths of a percent
PUBLISHED = {
    "base": {"rte": scores(799, 1000), "mnli": scores(643, 1000)},
    "rte+10": {"rte": scores(855, 1000), "mnli": scores(782, 1000)},
    "mnli+1": {"rte": scores(845, 1000), "mnli": scores(861, 1000, unparsed=9)},
}


def test_the_published_table_with_its_means():
    header, lines = table.table(PUBLISHED)
    assert header == ["accuracy %", "rte", "mnli", "mean"]
    assert [[line[0], *(cell.split()[0] for cell in line[1:])] for line in lines] == [
        ["base", "79.9", "64.3", "72.10"],
        ["rte+10", "85.5", "78.2", "81.85"],
        ["mnli+1", "84.5", "86.1", "85.30"],
    ]
    assert lines[0][1] == "79.9 ±2.5"
    means = table.to_json(PUBLISHED, {}, {})["mean"]
    assert means == {
        name: pytest.approx(value) for name, value in {"base": 0.721, "rte+10": 0.8185, "mnli+1": 0.853}.items()
    }


def test_the_mean_counts_data_sets_and_not_rows():
    assert table.mean({"small": scores(1, 2).accuracy, "large": scores(1000, 1000).accuracy}) == 0.75


def test_notes_name_what_chance_would_give_and_what_was_unparsed():
    first, second = table.note_lines(PUBLISHED)
    assert first == "rte: 1000 rows, always 'yes' would be 100.0 %"
    assert second.endswith("; unparsed, counted as wrong: mnli+1 9")


def test_the_score_of_the_exam_is_70_times_the_accuracy():
    assert table.note_lines(PUBLISHED, 70)[2:] == [
        "score 002 of base: rte 55.93, mnli 45.01 of 70 points each",
        "score 002 of rte+10: rte 59.85, mnli 54.74 of 70 points each",
        "score 002 of mnli+1: rte 59.15, mnli 60.27 of 70 points each",
    ]


def test_markdown():
    header, lines = table.table(PUBLISHED)
    text = table.markdown(header, lines, ["a note"])
    assert text.splitlines()[:3] == [
        "| accuracy % | rte | mnli | mean |",
        "| --- | --: | --: | --: |",
        "| base | 79.9 ±2.5 | 64.3 ±3.0 | 72.10 |",
    ]
    assert text.endswith("- a note\n")


def test_names():
    assert command.named("runs/rte, base=models/x ,", "--rows") == {"rte": "runs/rte", "base": "models/x"}
    assert command.named("a/rte_dev.jsonl,b=c.json.gz", "--data") == {"rte_dev": "a/rte_dev.jsonl", "b": "c.json.gz"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , ", "--rows is empty"),
        ("a/run,b/run", "two are called run; name them, as in first=b/run"),
        ("=x", "NAME=PATH is expected"),
        ("x=", "NAME=PATH is expected"),
        ("a/b=x", "the name without a slash"),
        ("..=x", "NAME=PATH is expected"),
    ],
)
def test_names_that_cannot_be(text, message):
    with pytest.raises(UsageError, match=message):
        command.named(text, "--rows")


def test_help_is_light():
    line = [sys.executable, "-X", "importtime", "-m", "eval.table", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "polars", "tokenizers", "peft", "yaml"}
    assert "examples:" in done.stdout


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.backend
class TestWithModels:
    @pytest.fixture
    def adapter(self, tiny_llama, tmp_path):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    @pytest.fixture
    def data(self, tmp_path):
        for name, choices in (("rte", ["yes", "nay"]), ("mnli", ["yes", "nay", "who"])):
            rows = [{"instruction": f"{name} {i}?", "output": choices[i % len(choices)]} for i in range(12)]
            write_jsonl(tmp_path / f"{name}.jsonl", rows)
        return tmp_path

    def run(self, adapter, tiny_llama, data, *more):
        rows = f"base={tiny_llama},tuned={adapter}"
        sets = f"{data / 'rte.jsonl'},{data / 'mnli.jsonl'}"
        basis = ["--rows", rows, "--data", sets, "--template", "vicuna", "--way", "loglik", "--device", "cpu"]
        return command.main([*basis, "--out", str(data / "out"), *more])

    def test_the_table_is_its_cells(self, adapter, tiny_llama, data, capsys, monkeypatch):
        from backends.generation import registry

        loaded = []
        load = registry.load_generator
        monkeypatch.setattr(
            registry, "load_generator", lambda files, runtime: loaded.append(files.path) or load(files, runtime)
        )
        assert self.run(adapter, tiny_llama, data) == 0
        assert loaded == [tiny_llama, adapter]  # once a row
        captured = capsys.readouterr()
        whole = json.loads((data / "out" / "table.json").read_text())
        for row in ("base", "tuned"):
            for column, task in (("rte", "choice_rte"), ("mnli", "choice_mnli")):
                cell = json.loads((data / "out" / row / column / "results.json").read_text())
                assert whole["accuracy"][row][column] == cell["results"][task]["acc,none"]
                assert cell["n-samples"][task]["effective"] == 12
            assert whole["mean"][row] == pytest.approx(sum(whole["accuracy"][row].values()) / 2)
        header, _, *lines = captured.out.splitlines()
        assert header.split() == ["accuracy", "%", "rte", "mnli", "mean"]
        assert [line.split()[0] for line in lines[:2]] == ["base", "tuned"]
        assert (data / "out" / "table.md").read_text().startswith("| accuracy % | rte | mnli | mean |")
        predictions = [(data / "out" / row / "mnli" / "predictions.jsonl").read_text() for row in ("base", "tuned")]
        assert predictions[0] != predictions[1]

        # again: the same table, and nothing is loaded
        loaded.clear()
        self.run(adapter, tiny_llama, data)
        assert capsys.readouterr().out == captured.out
        assert loaded == []

    def test_wrong_input_costs_nothing(self, adapter, tiny_llama, data):
        with pytest.raises(UsageError, match="no such run or model directory"):
            self.run(data / "nowhere", tiny_llama, data)
        with pytest.raises(UserError, match=r"mnli\.jsonl: row 3: the label 'who' is none of yes, nay"):
            self.run(adapter, tiny_llama, data, "--choices", "yes,nay")
        write_jsonl(data / "rte.jsonl", [{"instruction": "?"}])
        with pytest.raises(UsageError, match="no answers in 1 rows"):
            self.run(adapter, tiny_llama, data)
        write_jsonl(data / "mnli.jsonl", [{"instruction": "?"}])
        with pytest.raises(UsageError, match=r"--data rte: .* has no labels to grade by"):
            self.run(adapter, tiny_llama, data, "--choices", "yes,no")
        assert not (data / "out").exists()

    @pytest.mark.parametrize("way", ["loglik", "generate"])
    def test_models_are_asked_in_their_own_chat_template(self, tiny_llama, data, capsys, way):
        model = data / "chat"
        shutil.copytree(tiny_llama, model)
        config = json.loads((model / "tokenizer_config.json").read_text())
        config["chat_template"] = (
            "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
            "{{ message['content'] }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
        )
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        words = ["--rows", f"one={model}", "--data", f"rte={data / 'rte.jsonl'}", "--way", way, "--score-002"]
        assert command.main([*words, "--device", "cpu", "--out", str(data / "own")]) == 0
        said = capsys.readouterr().out
        assert "score 002 of one: rte " in said
        row = json.loads((data / "own/one/rte/predictions.jsonl").read_text().splitlines()[0])
        assert row["prompt"].endswith(
            "<|start_header_id|>user<|end_header_id|>\n\nrte 0?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        results = json.loads((data / "own/one/rte/results.json").read_text())
        assert results["hashes"]["template"].startswith("tokenizer ")
        assert results["results"]["choice_rte"]["score_002,none"] == pytest.approx(
            70 * results["results"]["choice_rte"]["acc,none"]
        )
        # the same questions in the family's named template are the same prompts
        words = [*words, "--template", "llama3", "--device", "cpu", "--out", str(data / "named")]
        command.main(words)
        named = json.loads((data / "named/one/rte/predictions.jsonl").read_text().splitlines()[0])
        assert named["prompt"].removeprefix("<|begin_of_text|>") == row["prompt"].removeprefix("<|begin_of_text|>")
