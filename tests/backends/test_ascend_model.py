"""mindformers' Llama from Hugging Face files: the same logits as torch's, and one line for what does not fit."""

import json
import shutil

import numpy as np
import pytest

from backends.ascend.model import lora_config, model_config
from backends.checkpoint.resolve import open_checkpoint
from backends.weights.safetensors_files import open_tensors
from converters.common.errors import UsageError, UserError

pytestmark = pytest.mark.backend
pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "tied": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "grouped": ("llama", {"num_key_value_heads": 2, "rope_theta": 500000.0}),
    "llama3-rope": ("llama", {"num_key_value_heads": 1, "rope_scaling": LLAMA3_ROPE}),
    "bias": ("llama", {"num_key_value_heads": 2, "attention_bias": True}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}


@pytest.fixture(scope="module", autouse=True)
def mindspore():
    from backends.ascend.device import start

    assert start("cpu") == "cpu"


@pytest.fixture(scope="module")
def make_model(tiny_tokenizer, tmp_path_factory):
    """Write a Hugging Face model directory with random weights, biases included."""

    def make(kind, **options):
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

        config, network = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        }[kind]
        torch.manual_seed(0)
        model = network(config(**SIZES, **options))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.3)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        for file in tiny_tokenizer.iterdir():
            shutil.copy(file, folder)
        return folder

    return make


@pytest.fixture
def model(make_model):
    return make_model("llama", num_key_value_heads=2)


def adapter_on(folder, target, **options):
    """Write a PEFT adapter whose matrices are far from zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder)
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options))
    tuned.save_pretrained(target)
    return target


def torch_logits(folder, ids, base=None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base or folder).eval()
    if base:
        model = PeftModel.from_pretrained(model, folder).eval()
    with torch.inference_mode():
        return model(torch.tensor(ids)).logits.numpy()


def cached_logits(folder, ids, *, parts):
    """All logits, reading the text in parts."""
    from backends.ascend.generate.cached_forward import CachedForward
    from backends.ascend.model import load_network

    forward = CachedForward(load_network(open_checkpoint(folder, template="bare"), "float32"))
    b, s = ids.shape
    cache, found = forward.empty(b), []
    for start, end in parts:
        sees = np.broadcast_to(np.tril(np.ones((s, s), dtype=bool))[start:end, :end], (b, end - start, end))
        positions = np.broadcast_to(np.arange(start, end), (b, end - start))
        n = end - start
        logits, cache = forward.run(ids[:, start:end], positions, sees, np.arange(b * n), cache)
        found.append(logits.reshape(b, n, -1))
    return np.concatenate(found, 1)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 300, (3, 40))


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_torch(name, make_model, ids, tmp_path):
    kind, options = MODELS[name]
    folder = make_model(kind, **options)
    adapter = adapter_on(folder, tmp_path / "adapter")
    expected = torch_logits(adapter, ids, base=folder)
    found = cached_logits(adapter, ids, parts=[(0, 33), (33, 34), (34, 40)])
    assert np.abs(expected).max() > 5
    assert np.abs(found - expected).max() < 1e-4
    # the adapter does change them
    assert np.abs(expected - torch_logits(folder, ids)).max() > 0.1


def test_the_cached_pass_is_mindformers_own(model, ids):
    import mindspore as ms

    from backends.ascend.model import load_network

    ids = ids[:1, :12]
    network = load_network(open_checkpoint(model, template="bare"), "float32", seq_length=ids.shape[1])
    own = network(ms.Tensor(ids.astype(np.int32)))[0].asnumpy().reshape(*ids.shape, -1)
    assert np.abs(cached_logits(model, ids, parts=[(0, 8), (8, 12)]) - own).max() < 1e-5 * np.abs(own).max()


def test_positions_beyond_those_of_the_model_are_computed_too(model):
    ids = np.random.default_rng(1).integers(3, 300, (1, 80))
    found = cached_logits(model, ids, parts=[(0, 60), (60, 80)])
    assert np.abs(found - torch_logits(model, ids)).max() < 1e-4


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gemma2"}, r"config\.json: model_type 'gemma2'; the ascend backend runs llama and qwen2"),
        ({"head_dim": 16}, "head_dim is 16; mindformers' Llama has 8 only"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; mindformers' Llama has 'silu' only"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"vocab_size": None, "rms_norm_eps": None}, r"config\.json: no vocab_size, rms_norm_eps there"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary scaling 'yarn'"),
    ],
)
def test_models_that_mindformers_cannot_compute_are_refused_in_one_line(model, values, message):
    change(model, **values)
    with pytest.raises(UserError, match=message) as caught:
        model_config(model)
    assert "\n" not in str(caught.value)


def test_what_a_configuration_may_leave_out(model):
    whole = model_config(model)
    optional = ("hidden_act", "mlp_bias", "head_dim", "attention_bias", "rope_scaling", "tie_word_embeddings")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in optional}))
    assert model_config(model) == whole


def test_angles_are_scaled_by_a_table_longer_than_the_rows(model):
    from backends.ascend.sizes import model_sizes
    from backends.recipe.load import load_recipe

    def table():
        recipe = load_recipe("yaml/demo.yaml", [f"load_checkpoint={model}", "model.model_config.seq_length=8"])
        return model_sizes(recipe)["max_position_embedding"]

    assert table() == 8
    change(model, rope_scaling=LLAMA3_ROPE)
    assert table() == SIZES["max_position_embeddings"]


def test_both_spellings_of_the_rotary_base_are_read(model):
    change(model, rope_theta=7000.0)
    assert model_config(model)["theta"] == 7000.0
    change(model, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 9000.0})
    assert model_config(model)["theta"] == 9000.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_rslora": True}, "use_rslora is True; the ascend backend runs plain LoRA"),
        ({"use_dora": True}, "use_dora is True"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is"),
    ],
)
def test_other_kinds_of_adapter_are_refused(model, tmp_path, options, message):
    adapter = adapter_on(model, tmp_path / "adapter", **options)
    with pytest.raises(UserError, match=message):
        lora_config(adapter, open_tensors(adapter))


def load(folder, **options):
    from backends.ascend.backend import BACKEND

    return BACKEND.load_generator(open_checkpoint(folder, template="bare"), device="cpu", **options)


def test_every_tensor_must_fit(model, tmp_path):
    from safetensors.numpy import load_file, save_file

    whole = load_file(model / "model.safetensors")
    last = "model.layers.1.mlp.up_proj.weight"
    for tensors, message in (
        ({name: value for name, value in whole.items() if name != last}, r"1 tensors of the model are missing, .*w3"),
        ({**whole, "model.layers.2.mlp.up_proj.weight": whole[last]}, r"layers\.2\.mlp\.up_proj\.weight has no place"),
        ({**whole, last: whole[last][:, :31].copy()}, r"up_proj\.weight is \[64, 31\], where the model has \[64, 32\]"),
        ({**whole, "model.extra": whole[last]}, "model.extra: not the name of a weight"),
    ):
        save_file(tensors, model / "model.safetensors")
        with pytest.raises(UserError, match=message):
            load(model)


def test_an_adapter_of_another_rank_or_with_layers_missing_is_an_error(model, tmp_path):
    from safetensors.numpy import load_file, save_file

    adapter = adapter_on(model, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(UserError, match=r"lora_A\.weight is \[4, \d+\], where the model has \[8, \d+\]"):
        load(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    file = adapter / "adapter_model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if ".layers.1.self_attn.q_proj" not in name}
    save_file(kept, file)
    with pytest.raises(UserError, match=r"adapter: 2 tensors of the model are missing, .*wq\.mindpet_delta_lora_a"):
        load(adapter)


def test_half_precision_on_the_cpu_is_refused(model):
    with pytest.raises(UsageError, match="--dtype bfloat16: MindSpore's CPU build"):
        load(model, dtype="bfloat16")


def test_a_head_of_its_own_in_a_tied_model_is_said(make_model, capsys):
    from safetensors.numpy import load_file, save_file

    folder = make_model("llama", num_key_value_heads=2, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    load(folder)
    assert "lm_head.weight is left out, since config.json ties it" in capsys.readouterr().err
