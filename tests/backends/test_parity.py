"""One recipe, two backends: the same loss curve, and each backend can use the other's adapter.

Both run as commands on the CPU in float32, without dropout, from the same recipe, rows and start.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import environment, train

from backends.run.directory import read_log
from backends.weights.files import ADAPTER_WEIGHTS

pytestmark = pytest.mark.backend
pytest.importorskip("mindspore")
torch = pytest.importorskip("torch")

STORIES = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared/data")) / "stories"
MODELS = {
    # grouped queries, an output head of its own: Llama 3
    "llama3": ("llama", {"num_key_value_heads": 2, "rope_theta": 500000.0}),
    # every query has its key: Llama 2; the head is the embedding, as in the small base
    "llama2-tied": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    # a bias on q, k and v
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LOGITS = """
import sys
import numpy as np
from pathlib import Path
from backends.ascend.device import start
start("cpu", threads=1)
from mindspore import Tensor
from backends.ascend.model import load_network
from backends.checkpoint.resolve import open_checkpoint
ids = np.load(sys.argv[2])
network = load_network(open_checkpoint(sys.argv[1]), "float32", seq_length=ids.shape[1], batch_size=len(ids))
network.set_train(False)
logits = network(Tensor(ids))
logits = logits[0] if isinstance(logits, tuple) else logits
np.save(sys.argv[3], logits.asnumpy().reshape(*ids.shape, -1))
"""


def write_model(kind, options, tokenizer, folder):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config, network = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    torch.manual_seed(1)
    model = network(config(**SIZES, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def stories_model(folder):
    """A small trained model with its own tokenizer, from llama2.c's file."""
    from backends.exchange.llama2c import llama2c_source, write_tokenizer
    from backends.exchange.models import write_hf

    if not (STORIES / "stories260K.bin").is_file():
        pytest.skip(f"no stories260K.bin in {STORIES}; SHARED_DATA=DIR says where it is")
    write_hf(llama2c_source(STORIES / "stories260K.bin"), folder)
    write_tokenizer(STORIES / "tok512.bin", folder)
    return folder


@pytest.fixture(scope="module", params=[*MODELS, "stories"])
def runs(request, tiny_tokenizer, rows_file, tmp_path_factory):
    """Two runs of one recipe: 21 steps over three epochs of shuffled rows."""
    folder = tmp_path_factory.mktemp(request.param)
    base = folder / "base"
    if request.param == "stories":
        stories_model(base)
    else:
        write_model(*MODELS[request.param], tiny_tokenizer, base)
    recipe = {
        "seed": 3,
        "load_checkpoint": str(base),
        "runner_config": {"epochs": 3, "batch_size": 8},
        "optimizer": {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 0.005, "lr_end": 1e-5, "warmup_ratio": 0.2},
        "runner_wrapper": {"type": "MFTrainOneStepCell", "use_clip_grad": True},
        "model": {
            "model_config": {
                "seq_length": 128,
                "compute_dtype": "float32",
                "pet_config": {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "target_modules": ".*w[qv1]"},
            }
        },
        "data": {"train": str(rows_file), "template": "bare"},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    for backend in ("cuda", "ascend"):
        train(backend, file, f"output_dir={folder / backend}")
    return folder


def compared(runs, key):
    """Every step's value on both backends."""
    cuda, ascend = (read_log(runs / backend / "train_log.jsonl") for backend in ("cuda", "ascend"))
    assert len(cuda) == len(ascend) == 21
    return [(one[key], other[key]) for one, other in zip(cuda, ascend, strict=True)]


def test_every_loss_is_the_same_to_1e_4(runs):
    pairs = compared(runs, "loss")
    assert max(abs(one - other) / one for one, other in pairs) < 1e-4
    assert pairs[-1][0] < 0.95 * pairs[0][0]  # it did learn


def test_every_rate_is_the_same_to_1e_9(runs):
    pairs = compared(runs, "lr")
    assert max(abs(one - other) for one, other in pairs) < 1e-9
    assert pairs[0][0] == 0
    assert max(one for one, _ in pairs) > 0.0049


def test_every_gradient_norm_is_the_same_to_1e_3(runs):
    pairs = compared(runs, "grad_norm")
    assert max(abs(one - other) / one for one, other in pairs) < 1e-3
    assert any(one > 1 for one, _ in pairs)  # clipping was at work


@pytest.mark.parametrize("key", ["step", "total", "epoch", "tokens", "supervised_tokens"])
def test_steps_have_the_same_rows(runs, key):
    assert all(one == other for one, other in compared(runs, key))


def test_adapters_are_alike(runs):
    from safetensors.numpy import load_file

    cuda, ascend = (load_file(runs / backend / ADAPTER_WEIGHTS) for backend in ("cuda", "ascend"))
    assert list(cuda) == list(ascend)
    for name, values in cuda.items():
        assert values.shape == ascend[name].shape
        assert values.dtype == ascend[name].dtype == np.float32
        # AdamW divides by the gradient's own size: where that is rounding, the update is too
        assert np.linalg.norm(values - ascend[name]) < 1e-2 * np.linalg.norm(values)
    settings = [json.loads((runs / backend / "adapter_config.json").read_text()) for backend in ("cuda", "ascend")]
    assert all(settings[0][key] == value for key, value in settings[1].items() if key != "auto_mapping")


def test_run_directories_hold_the_same(runs):
    def held(backend):
        names = {str(file.relative_to(runs / backend)) for file in (runs / backend).rglob("*") if file.is_file()}
        return {name for name in names if not name.startswith("mindformers")}

    assert held("cuda") == held("ascend")
    cuda, ascend = (json.loads((runs / backend / "data.json").read_text()) for backend in ("cuda", "ascend"))
    assert cuda == ascend


@pytest.mark.parametrize("trained_by", ["cuda", "ascend"])
def test_each_adapter_works_in_the_other_backend(runs, trained_by, tmp_path):
    from backends.cuda.model import load_model

    draw = np.random.default_rng(0)
    ids = draw.integers(6, 300, (4, 32)).astype(np.int32)  # no pad among them: mindformers masks it wherever it stands
    np.save(tmp_path / "ids.npy", ids)
    arguments = [runs / trained_by, tmp_path / "ids.npy", tmp_path / "logits.npy"]
    done = subprocess.run(
        [sys.executable, "-c", LOGITS, *map(str, arguments)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    model, loaded = load_model(runs / trained_by, torch.device("cpu"), torch.float32)
    assert loaded.adapter_tensors in (12, 30)  # a and b of three layers in two decoder layers, or in five
    with torch.no_grad():
        ours = model(torch.from_numpy(ids).long()).logits.numpy()
        with model.disable_adapter():
            base = model(torch.from_numpy(ids).long()).logits.numpy()
    theirs = np.load(tmp_path / "logits.npy")
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(ours - base).max() > 0.1  # the adapter counts


def test_both_curves_end_where_a_plain_loop_does(runs):
    """The parity is not that of two backends with the same fault: a loop in ten lines of torch has the first losses."""
    from transformers import AutoModelForCausalLM

    from backends.recipe.load import load_recipe
    from backends.run.rows import load_rows
    from mindrecord.tokens.order import rows_of_step

    recipe = load_recipe(runs / "recipe.yaml")
    data = load_rows(recipe, quiet=True)
    model = AutoModelForCausalLM.from_pretrained(recipe.load_checkpoint, dtype=torch.float32)
    losses, tokens = 0.0, 0
    for row in rows_of_step(len(data.rows), 8, 0, recipe.seed, shuffle=True):
        ids, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in data.rows.row(int(row)))
        with torch.no_grad():
            logits = model(ids).logits
        losses += float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))
        tokens += int((labels[0, 1:] != -100).sum())
    assert math.isclose(losses / tokens, compared(runs, "loss")[0][1], rel_tol=1e-5)
