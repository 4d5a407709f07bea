"""The recipes of the reports: sizes of the real models, shapes of the adapters, settings that the reports state."""

import json

import pytest

from backends.cuda.__main__ import main
from backends.recipe.load import load_recipe
from backends.run.plan import make_plan, recipe_shape
from backends.weights.llama import LlamaShape
from backends.weights.model_config import model_shape
from converters.common.shipped import DEFAULT_RECIPE

RECIPES = DEFAULT_RECIPE.parent
QWEN3B = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
QWEN18B = QWEN3B | {
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "intermediate_size": 5504,
    "tie_word_embeddings": False,
}
GEMMA2B = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 16384,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
LLAMA2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
# recipe → the published config.json of its model, all parameters, tensors of its adapter, parameters of its adapter
REPORTS = {
    "qwen2_5_3b_rte": (QWEN3B, 3_085_938_688, 144, 1_843_200),
    "qwen2_5_3b_mnli": (QWEN3B, 3_085_938_688, 144, 1_843_200),
    "qwen1_8b_novel": (QWEN18B, 1_836_828_672, 336, 7_495_680),
    "gemma_2b_qqp": (GEMMA2B, 2_506_172_416, 252, 9_805_824),
    "gemma_2b_cola": (GEMMA2B, 2_506_172_416, 252, 9_805_824),
    "llama2_7b_webqa": (LLAMA2_7B, 6_738_415_616, 448, 159_907_840),
}
by_recipe = pytest.mark.parametrize("name", REPORTS)


@by_recipe
def test_plan_without_weights(name, capsys):
    _, parameters, tensors, trainable = REPORTS[name]
    assert main(["plan", str(RECIPES / f"{name}.yaml"), "--rows", "4000", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["parameters"], plan["adapter_tensors"], plan["trainable"]) == (parameters, tensors, trainable)
    shapes = [shape for both in plan["adapter"].values() for shape in both.values()]
    layers = tensors // len(shapes)
    assert layers * sum(a * b for a, b in shapes) == trainable


def test_the_adapter_that_report_000_lists(capsys):
    assert main(["plan", str(RECIPES / "qwen2_5_3b_rte.yaml"), "--rows", "2490"]) == 0
    table = capsys.readouterr().out
    for expected in ("144", "36 layers × 2 × (A, B)", "B [2048, 8]", "B [256, 8]", "380", "38 an epoch, 20 of warm-up"):
        assert expected in table
    recipe = load_recipe(RECIPES / "qwen2_5_3b_rte.yaml")
    plan = make_plan(recipe, recipe_shape(recipe))
    assert plan.adapter == {
        "wq": {"A": (8, 2048), "B": (2048, 8)},
        "wv": {"A": (8, 2048), "B": (256, 8)},
    }


@by_recipe
def test_the_recipe_states_the_sizes_of_the_published_model(name, tmp_path):
    published = REPORTS[name][0]
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = load_recipe(RECIPES / f"{name}.yaml").model.model_config
    assert LlamaShape.from_recipe(config) == model_shape(tmp_path)
    assert config.rms_norm_eps == published["rms_norm_eps"]
    assert config.theta == published["rope_theta"]
    assert config.max_position_embedding == published["max_position_embeddings"]


@by_recipe
def test_every_recipe_opens_with_how_to_run_it(name):
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"python -m backends.cuda train yaml/{name}.yaml load_checkpoint=DIR" in text.split("\nseed:")[0]


def test_the_settings_that_the_reports_state():
    rte, mnli = (load_recipe(RECIPES / f"qwen2_5_3b_{task}.yaml") for task in ("rte", "mnli"))
    for recipe, epochs, warmup in ((rte, 10, 20), (mnli, 1, 100)):
        assert (recipe.runner_config.epochs, recipe.lr_schedule.warmup_steps) == (epochs, warmup)
        assert recipe.lr_schedule.warmup_ratio is None
        assert recipe.runner_config.batch_size == 4 * 4 * 4
        assert (recipe.lr_schedule.learning_rate, recipe.optimizer.weight_decay) == (5e-6, 0.1)
        assert recipe.optimizer.adam_betas == (0.9, 0.999)
        assert (recipe.pet.lora_rank, recipe.pet.lora_alpha, recipe.pet.lora_dropout) == (8, 16, 0.0)
    novel = load_recipe(RECIPES / "qwen1_8b_novel.yaml")
    assert (novel.runner_config.epochs, novel.runner_config.batch_size) == (3, 4 * 4)
    assert novel.lr_schedule.learning_rate == 1e-4
    webqa = load_recipe(RECIPES / "llama2_7b_webqa.yaml")
    assert (webqa.runner_config.epochs, webqa.pet.lora_rank, webqa.pet.lora_alpha) == (1, 64, 128)
    templates = {name: load_recipe(RECIPES / f"{name}.yaml").data.template for name in REPORTS}
    assert set(templates.values()) == {"chatml", "alpaca", "llama2"}


def test_a_head_wider_than_its_share_of_the_hidden_size(tmp_path):
    """Gemma-7B: 16 heads of 256 over a hidden size of 3,072."""
    published = GEMMA2B | {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 24576,
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    changes = {"hidden_size": 3072, "num_layers": 28, "num_heads": 16, "n_kv_heads": 16, "intermediate_size": 24576}
    recipe = load_recipe(
        RECIPES / "gemma_2b_qqp.yaml", [f"model.model_config.{key}={value}" for key, value in changes.items()]
    )
    sizes = LlamaShape.from_recipe(recipe.model.model_config)
    assert sizes == model_shape(tmp_path)
    assert sizes.parameters == 8_537_680_896
    assert sizes.lora_shapes(["wq", "wo"], 8) == {
        "wq": {"A": (8, 3072), "B": (4096, 8)},
        "wo": {"A": (8, 4096), "B": (3072, 8)},
    }


@pytest.mark.backend
@by_recipe
def test_transformers_and_peft_make_what_plan_says(name):
    """The published configuration on torch's meta device, which has shapes and no memory."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    from backends.weights.lora import LINEAR_LAYERS, hf_modules

    published, parameters, tensors, trainable = REPORTS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**published))
    assert sum(p.numel() for p in model.parameters()) == parameters
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    settings = LoraConfig(r=recipe.pet.lora_rank, target_modules=hf_modules(recipe.pet), task_type="CAUSAL_LM")
    with torch.device("meta"):
        tuned = get_peft_model(model, settings)
    stored = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    assert len(stored) == tensors
    assert sum(tensor.numel() for tensor in stored.values()) == trainable
    plan = make_plan(recipe, recipe_shape(recipe))
    for layer in range(published["num_hidden_layers"]):
        for name_of, both in plan.adapter.items():
            for which, shape in both.items():
                key = f"base_model.model.model.layers.{layer}.{LINEAR_LAYERS[name_of]}.lora_{which}.weight"
                assert tuple(stored.pop(key).shape) == shape
    assert not stored


@pytest.mark.backend
@pytest.mark.parametrize("model_type", ["llama", "gemma", "qwen2"])
@pytest.mark.parametrize("biased", [True, False])
def test_biases_are_counted_as_the_network_has_them(model_type, biased, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = GEMMA2B | {"model_type": model_type, "num_hidden_layers": 2, "vocab_size": 300, "num_key_value_heads": 2}
    config |= {"tie_word_embeddings": model_type == "gemma"} | ({"attention_bias": True} if biased else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert model_shape(tmp_path).parameters == sum(p.numel() for p in model.parameters())
