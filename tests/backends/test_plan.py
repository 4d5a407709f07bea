import json

import pytest

from backends.cuda.__main__ import main
from backends.recipe.load import load_recipe
from backends.recipe.types import ModelConfig
from backends.run.plan import make_plan, plan, recipe_shape
from backends.weights.llama import LlamaShape
from backends.weights.model_config import model_shape


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
