"""GGUF files given straight to the backends: the logits of the model that they were made from."""

import json

import numpy as np
import pytest
from gguf_files import GEMMA, LLAMA, LLAMA3_ROPE, QWEN2, bpe_fields, train_bpe, weights, write_gguf_file, write_model
from training import train

from backends.checkpoint.fingerprint import base_fingerprint
from backends.checkpoint.resolve import open_checkpoint
from backends.exchange.forward import mean_nll
from backends.exchange.to_gguf import write_gguf_lora
from backends.weights.mindspore_ckpt import open_weights
from backends.weights.model_config import load_config, model_shape
from converters.tokenizers.load import load_tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.backend

FAMILIES = {
    "llama": LLAMA,
    "llama3": {**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "head_dim": 64},
    "qwen2": QWEN2,
    "gemma": GEMMA,
}
IDS = [5, 17, 300, 4, 4, 250, 80, 31, 9, 200, 11, 12]


@pytest.fixture(params=FAMILIES)
def models(request, tmp_path):
    """A model directory, and the GGUF file that llama.cpp's converter would make of it."""
    config = FAMILIES[request.param]
    pre = "qwen2" if request.param == "qwen2" else "smollm"
    arrays = weights(config)
    folder = write_model(tmp_path / "hf", config, arrays)
    library = train_bpe(folder, pre)
    file = tmp_path / "m.gguf"
    write_gguf_file(file, config, arrays, lambda writer: bpe_fields(writer, library, pre, 320))
    return folder, file


def logits(path):
    from backends.cuda.model import read_model

    with torch.no_grad():
        return read_model(path, torch.float32, "sdpa").eval()(torch.tensor([IDS])).logits[0].numpy()


def test_logits_of_a_file_are_those_of_the_directory(models):
    folder, file = models
    expected = logits(folder)
    # Gemma's norms went through + 1 and − 1
    np.testing.assert_allclose(logits(file), expected, atol=1e-4)
    chosen = torch.log_softmax(torch.tensor(expected[:-1]), -1)[range(len(IDS) - 1), IDS[1:]]
    for path in models:
        assert mean_nll(open_weights(path), load_config(path), IDS) == pytest.approx(-float(chosen.mean()), rel=1e-4)


def test_a_file_is_a_checkpoint(models):
    folder, file = models
    found = open_checkpoint(file, template="bare")
    assert (found.path, found.base, found.run) == (file, None, None)
    assert found.positions == 64
    assert found.parameters == {"trainable": None, "base": model_shape(folder).parameters}
    assert found.identity["checkpoint"] != open_checkpoint(folder, template="bare").identity["checkpoint"]
    assert found.stop_ids == [1]
    assert not [path.name for path in file.parent.iterdir() if path.name not in ("hf", "m.gguf")]


def test_a_file_is_asked_in_its_own_chat_template(tmp_path, capsys):
    library, file = train_bpe(tmp_path / "hf", "smollm"), tmp_path / "m.gguf"
    chat = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    chat += "{% if add_generation_prompt %}<assistant>{% endif %}"

    def fields(writer):
        bpe_fields(writer, library, "smollm", 320)
        writer.add_chat_template(chat)

    write_gguf_file(file, LLAMA, weights(LLAMA), fields)
    assert open_checkpoint(file).template.name == "tokenizer"
    assert "m.gguf: asked in its own chat template" in capsys.readouterr().err


def test_a_run_on_a_file_names_it_as_its_base(tmp_path, make_recipe):
    file, run = small_llama(tmp_path), tmp_path / "run"
    recipe = make_recipe(load_checkpoint=str(file), **{"data.tokenizer": str(file)})
    train("cuda", recipe, "runner_config.epochs=1", "data.packing=False")
    assert (run / "adapter_model.safetensors").is_file()
    found = open_checkpoint(run)
    assert found.base == file.resolve()
    assert found.tokenizer.hash == load_tokenizer(file).hash
    assert json.loads((run / "data.json").read_text())["base"] == base_fingerprint(str(file))
    # the adapter alone and the model that it makes, both for llama.cpp
    done = write_gguf_lora(run, tmp_path / "lora.gguf")
    assert (done.rank, done.alpha, done.layers) == (4, 8.0, 4)


def test_the_ascend_backend_reads_a_file(tmp_path):
    pytest.importorskip("mindspore")
    from backends.ascend.device import start
    from backends.ascend.generate.cached_forward import CachedForward
    from backends.ascend.model import load_network

    start("cpu")
    file = small_llama(tmp_path)
    forward = CachedForward(load_network(open_checkpoint(file, template="bare"), "float32"))
    n = len(IDS)
    sees = np.tril(np.ones((1, n, n), dtype=bool))
    found, _ = forward.run(np.array([IDS]), np.arange(n)[None], sees, np.arange(n), forward.empty(1))
    np.testing.assert_allclose(found.reshape(n, -1), logits(file), atol=1e-4)


def small_llama(tmp_path):
    library = train_bpe(tmp_path / "hf", "smollm")
    file = tmp_path / "m.gguf"
    return write_gguf_file(file, LLAMA, weights(LLAMA), lambda writer: bpe_fields(writer, library, "smollm", 320))
