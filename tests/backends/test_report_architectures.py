"""Every architecture of the reports, tiny and with random weights, through its recipe: trained, graded, merged."""

import json

import pytest
from report_models import CASES, settings, write_model, write_rows

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore::UserWarning")]

from safetensors.torch import load_file

from backends.cuda.__main__ import main
from backends.run.directory import Run, read_log
from converters.common.shipped import DEFAULT_RECIPE

by_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def models(tiny_tokenizer, tmp_path_factory):
    """Model directories by case."""
    folder = tmp_path_factory.mktemp("models")
    for case in CASES:
        write_model(case, tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.json")


@pytest.fixture(scope="module")
def train(models, rows, tmp_path_factory):
    """Train a case through its recipe, once for each set of changes."""
    done = {}

    def run(case, *changes):
        if (case, changes) not in done:
            folder = tmp_path_factory.mktemp("run") / case
            recipe = DEFAULT_RECIPE.parent / f"{CASES[case][0]}.yaml"
            words = settings(case, models, rows, folder)
            assert main(["train", str(recipe), *words, *changes, "--device", "cpu"]) == 0
            done[case, changes] = Run.open(folder)
        return done[case, changes]

    return run


@by_case
def test_the_recipe_trains_its_architecture(case, train, models, capsys):
    run = train(case)
    log = read_log(run.log)
    assert len(log) == 72
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert run.template.name == CASES[case][1]
    adapter = load_file(run.path / "adapter_model.safetensors")
    config = json.loads((models / case / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rank = run.recipe.pet.lora_rank
    layer = "base_model.model.model.layers.1.self_attn"
    assert tuple(adapter[f"{layer}.q_proj.lora_B.weight"].shape) == (heads * head_dim, rank)
    assert tuple(adapter[f"{layer}.v_proj.lora_B.weight"].shape) == (kv_heads * head_dim, rank)
    assert all(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


@by_case
def test_packed_rows_are_separate_rows(case, train):
    packed, padded = train(case), train(case, "data.packing=False")
    losses = [[row["loss"] for row in read_log(run.log)] for run in (packed, padded)]
    # the same sums in another order drift apart as training goes on
    assert losses[0][:10] == pytest.approx(losses[1][:10], rel=1e-4)


def graded(run, rows, out, way):
    from eval.choice import __main__ as choice

    words = ["--ckpt", run, "--data", rows, "--choices", "yes,no", "--way", way, "--out", out, "--device", "cpu"]
    assert choice.main([str(word) for word in words]) == 0
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    [entry] = json.loads((out / "results.json").read_text())["results"].values()
    return entry["acc,none"], [row for row in predictions if "predict" in row]


@by_case
@pytest.mark.parametrize("way", ["generate", "loglik"])
def test_what_was_trained_is_what_is_asked(case, way, train, rows, tmp_path):
    """In its own template the tiny model says what it learned, and ends its answer there."""
    accuracy, predictions = graded(train(case).path, rows, tmp_path / "out", way)
    assert accuracy > 0.9
    if way == "generate":
        assert {row["finish_reason"] for row in predictions} == {"stop"}


@by_case
def test_the_merged_model_answers_as_the_adapter_does(case, train, rows, models, tmp_path):
    from backends.merge.__main__ import main as merge

    run = train(case)
    merged = tmp_path / "merged"
    words = ["--base", models / case, "--adapter", run.path, "--out", merged, "--device", "cpu"]
    assert merge([str(word) for word in words]) == 0
    config = json.loads((merged / "config.json").read_text())
    assert config["model_type"] == CASES[case][2]
    assert not (merged / "adapter_config.json").exists()
    found = [graded(path, rows, tmp_path / name, "loglik")[1] for path, name in ((run.path, "a"), (merged, "b"))]
    for tuned, whole in zip(*found, strict=True):
        assert whole["prompt"] == tuned["prompt"]
        assert whole["logprobs"] == pytest.approx(tuned["logprobs"], abs=1e-3)


def test_report_002_from_tsv_to_its_score(models, tmp_path, monkeypatch, capsys):
    """QQP with a tiny Gemma: rows of the report's form, its file of answers, its score."""
    from converters.glue import __main__ as glue
    from eval.choice import __main__ as choice

    monkeypatch.chdir(tmp_path)
    header, lines = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", []
    for i in range(40):
        lines.append(f"{i}\t{2 * i}\t{2 * i + 1}\tWhat is {i}?\tWhat {'is' if i % 3 else 'was'} {i}?\t{int(i % 3 > 0)}")
    (tmp_path / "QQP_train.tsv").write_text("\n".join([header, *lines]) + "\n")
    # rows to be predicted have no label
    unlabelled = [line.rpartition("\t")[0] for line in [header, *lines[:12]]]
    (tmp_path / "QQP_dev.tsv").write_text("\n".join(unlabelled) + "\n")
    held = ["--holdout", "8", "--holdout-out", "pre_data/QQP/QQP_heldout.json"]
    glue.main(["qqp", "QQP_train.tsv", "-o", "pre_data/QQP/", "--rows", "32", *held])
    glue.main(["qqp", "QQP_dev.tsv", "-o", "pre_data/QQP/"])
    assert sorted(json.loads((tmp_path / "pre_data/QQP/QQP_dev.json").read_text())[0]) == [
        "idx",
        "input",
        "instruction",
    ]

    words = ["data.train=pre_data/QQP/QQP_train.json", "output_dir=run", "runner_config.batch_size=8"]
    words += ["runner_config.epochs=6", "lr_schedule.learning_rate=0.01", f"load_checkpoint={models / 'gemma'}"]
    main(["train", str(DEFAULT_RECIPE.parent / "gemma_2b_qqp.yaml"), *words, "--device", "cpu"])
    words = ["--data", "pre_data/QQP/QQP_dev.json", "--choices", "0,1", "--limit", "10", "--out", "result_QQP.txt"]
    assert choice.main(["--ckpt", "run", *words, "--device", "cpu"]) == 0
    answers = (tmp_path / "result_QQP.txt").read_text().split()
    assert len(answers) == 10
    assert set(answers) <= {"0", "1"}, "the form of an answer is learned in a few steps"

    labels = [line.rpartition("\t")[2] for line in lines[:10]]
    (tmp_path / "answers.txt").write_text("\n".join(labels) + "\n")
    capsys.readouterr()
    scoring = ["--predictions", "result_QQP.txt", "--answers", "answers.txt", "--choices", "0,1", "--score-002"]
    assert choice.main(scoring) == 0
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    assert f"{right / 10:.4f} * 70 = {7 * right:.2f} of 70 points" in capsys.readouterr().out
