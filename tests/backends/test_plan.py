import json

import pytest

from backends.cuda.__main__ import main
from backends.recipe.load import load_recipe
from backends.recipe.types import ModelConfig
from backends.run.plan import (
    cpu_seconds_a_token,
    fitting_micro_batch,
    make_plan,
    memory_line,
    plan,
    recipe_shape,
)
from backends.run.speed import CoreSpeed, core_speed
from backends.weights.llama import LlamaShape
from backends.weights.model_config import model_shape
from converters.common.errors import UserError


def test_llama3_8b_as_the_contest_counts(capsys):
    assert main(["plan", "--rows", "99992"]) == 0
    table = capsys.readouterr().out
    assert "3,407,872 of 8,030,261,248" in table
    assert "0.000424 of 8.03e9" in table
    assert "7,810" in table
    assert "1,562 an epoch, 234 of warm-up" in table
    assert "predictions (not measured)" in table


@pytest.mark.parametrize(
    ("targets", "rank", "count"),
    [
        (".*wq|.*wv", 8, 3_407_872),
        (".*wq|.*wv", 4, 1_703_936),
        (".*wq|.*wv", 16, 6_815_744),
        (".*wq|.*wv|.*wo", 8, 5_505_024),
        ("wq|wk|wv|wo", 16, 13_631_488),
        ("wq|wk|wv|wo", 64, 54_525_952),
    ],
)
def test_trainable_parameters_of_the_contests_teams(targets, rank, count):
    changes = [
        f"model.model_config.pet_config.{key}={value}"
        for key, value in (("target_modules", f"'{targets}'"), ("lora_rank", rank))
    ]
    recipe = load_recipe(None, changes)
    assert make_plan(recipe, recipe_shape(recipe)).trainable == count


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (
            {
                "model_type": "llama",
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "intermediate_size": 11008,
                "vocab_size": 32000,
            },
            6_738_415_616,
        ),  # Llama-2-7B
        (
            {
                "model_type": "qwen2",
                "hidden_size": 896,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "intermediate_size": 4864,
                "vocab_size": 151936,
                "tie_word_embeddings": True,
            },
            494_032_768,
        ),  # Qwen2-0.5B
        (
            {
                "model_type": "gemma",
                "hidden_size": 2048,
                "num_hidden_layers": 18,
                "num_attention_heads": 8,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "intermediate_size": 16384,
                "vocab_size": 256000,
            },
            2_506_172_416,
        ),  # Gemma-2B
    ],
)
def test_parameters_of_published_models(config, count, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_shape(tmp_path).parameters == count


def test_without_lora_everything_is_trained_and_costs_more():
    tuned, full = load_recipe(), load_recipe(None, ["model.model_config.pet_config=null"])
    sizes = LlamaShape.from_recipe(ModelConfig())
    small, large = make_plan(tuned, sizes, rows=640), make_plan(full, sizes, rows=640)
    assert large.trainable == large.parameters == small.parameters
    assert large.flop_per_token == small.flop_per_token * 3 / 2
    for name, predicted in small.predicted_bytes.items():
        assert predicted < large.predicted_bytes[name]
    assert small.predicted_bytes["accelerator, checkpointing"] < small.predicted_bytes["accelerator"]


def test_real_tokens_are_counted_from_the_data(make_recipe, capsys):
    path = make_recipe(
        **{
            "run_mode": "train",
            "model.model_config.hidden_size": 32,
            "model.model_config.num_layers": 2,
            "model.model_config.num_heads": 4,
            "model.model_config.vocab_size": 300,
        }
    )
    assert main(["plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["steps_per_epoch"], plan["steps"]) == (60, 7, 14)
    assert plan["padded_tokens"] == 14 * 8 * 128
    assert plan["supervised_tokens"] < plan["real_tokens"] < plan["padded_tokens"] / 2
    assert next(row["device"] for row in plan["predictions"]) == "this CPU"


def test_too_few_rows_and_too_many_recipes(capsys):
    assert main(["plan", "--rows", "10"]) == 0
    assert "fewer rows than runner_config.batch_size 64" in capsys.readouterr().out
    from converters.common.errors import UsageError

    with pytest.raises(UsageError, match="one recipe at a time"):
        main(["plan", "a.yaml", "b.yaml"])
    with pytest.raises(UsageError, match="--rows 0"):
        main(["plan", "--rows", "0"])


def test_torch_is_not_imported_for_a_plan(tmp_path):
    import subprocess
    import sys

    code = "import sys; from backends.cuda.__main__ import main; main(['plan']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_called_from_python_it_returns_the_figures(capsys):
    recipe = load_recipe()
    figures = plan(recipe, rows=640)
    assert main(["plan", "--rows", "640", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    stated = json.loads(json.dumps(figures.as_json()))
    assert printed.keys() == stated.keys()
    assert [row["device"] for row in printed.pop("predictions")] == [row["device"] for row in stated.pop("predictions")]
    assert printed == stated
    assert "3,407,872 of 8,030,261,248" in figures.as_text()


SMOL = LlamaShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, tied=True)


@pytest.mark.parametrize(
    ("rank", "tokens", "measured"),
    [
        # peak resident sizes of `train` on SmolLM2-135M, rows of up to 253 tokens, float32, one thread
        (16, 1024, 2.837e9),
        (64, 256, 1.764e9),
    ],
)
def test_the_memory_of_a_real_model_is_predicted_within_15_percent(rank, tokens, measured):
    pet = "model.model_config.pet_config"
    layers = [f"{pet}.target_modules='.*'", f"{pet}.lora_rank={rank}", f"{pet}.lora_dropout=0"]
    recipe = load_recipe(None, [*layers, f"data.micro_batch_tokens={tokens}"])
    at_zero, of_token = memory_line(SMOL, make_plan(recipe, SMOL), 0.776, accelerator=False)
    assert at_zero + of_token * tokens == pytest.approx(measured, rel=0.15)


def test_the_time_of_two_models_is_predicted_within_25_percent():
    # tokens a processor-second of `train`, float32, and the core's rates as core_speed gave them
    pet = "model.model_config.pet_config"
    recipe = load_recipe(None, [f"{pet}.target_modules='.*'", f"{pet}.lora_dropout=0"])
    tiny = LlamaShape(layers=4, hidden=192, intermediate=512, heads=6, kv_heads=2, head_dim=32, vocab=2048, tied=True)
    for shape, speed, measured in (
        (SMOL, CoreSpeed(76.7e9, 9.6e9), 81.5),
        (tiny, CoreSpeed(84.6e9, 11.4e9), 3139),
    ):
        assert 1 / cpu_seconds_a_token(shape, make_plan(recipe, shape), speed) == pytest.approx(measured, rel=0.25)


def test_micro_batches_shrink_to_the_memory_and_one_row_that_does_not_fit_is_refused(make_recipe):
    from backends.run.rows import load_rows

    recipe = load_recipe(make_recipe(), ["data.micro_batch_tokens=1000"])
    data = load_rows(recipe)
    at_zero, of_token = memory_line(SMOL, make_plan(recipe, SMOL, data=data), 0.5, accelerator=False)
    longest = int(data.tokens.max())
    assert fitting_micro_batch(recipe, SMOL, data, "float32", 50e9) == 1000
    some = fitting_micro_batch(recipe, SMOL, data, "float32", at_zero + 2.5 * longest * of_token)
    assert 2 * longest < some < 3 * longest
    with pytest.raises(UserError, match=rf"training with one row of {longest} tokens at a time needs about .* GB"):
        fitting_micro_batch(recipe, SMOL, data, "float32", at_zero)


def test_a_card_that_holds_the_whole_model_is_said_to():
    figures = plan(load_recipe(None, ["use_parallel=True", "parallel_config.model_parallel=1"]), rows=640)
    cut = plan(load_recipe(None, ["use_parallel=True", "parallel_config.model_parallel=4"]), rows=640)
    whole = figures.predicted_bytes["accelerator, checkpointing"]
    assert figures.predictions[-1]["memory"] == f"{whole / 1e9:,.1f} GB a card"
    assert cut.predictions[-1]["memory"] == f"{whole / 4e9:,.1f} GB a card"


def test_one_core_is_measured_without_its_neighbours_load():
    speed = core_speed(192, 512)
    # between a slow core and one beyond any there is
    assert 1e9 < speed.products < 1e12
    assert 1e8 < speed.values < 1e12
