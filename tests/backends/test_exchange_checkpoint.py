"""A mindformers file as ``--ckpt``: the same template rules, the same identity, its base found and converted too."""

import shutil

import pytest
import yaml
from exchange_files import read_all, write_adapter, write_ckpt, write_hf_model

from backends import exchange
from backends.checkpoint.resolve import open_checkpoint
from backends.weights.names import peft_to_mindformers
from converters.common.errors import UsageError, UserError
from converters.common.files import write_json
from converters.text.template import get_template


@pytest.fixture
def base(tmp_path, tiny_tokenizer):
    write_hf_model(tmp_path / "base")
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, tmp_path / "base")
    (tmp_path / "base/template.json").unlink()
    return tmp_path / "base"


@pytest.fixture
def run(tmp_path, base):
    """The directory of a LoRA run on Ascend, whose start was a mindformers file."""
    exchange.to_mindformers(base, tmp_path / "base.ckpt")
    folder = tmp_path / "run"
    (folder / "checkpoints/step-000005").mkdir(parents=True)
    pet = {"lora_rank": 2, "lora_alpha": 16, "target_modules": ".*wq|.*wv"}
    recipe = {"load_checkpoint": str(tmp_path / "base.ckpt"), "model": {"model_config": {"pet_config": pet}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_json(folder / "template.json", get_template("vicuna").to_json())
    arrays = write_adapter(tmp_path / "peft")
    lora = {peft_to_mindformers(name): array for name, array in arrays.items()}
    write_ckpt(folder / "checkpoints/step-000005/lora.ckpt", lora)
    return folder


def test_a_model_file_is_the_model(tmp_path, base):
    exchange.to_mindformers(base, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=r"no template\.json there"):
        open_checkpoint(tmp_path / "m.safetensors")
    files = open_checkpoint(tmp_path / "m.safetensors", template="bare")
    assert (files.path, files.base, files.run) == (tmp_path / "m.safetensors.hf", None, None)
    assert read_all(files.path) == read_all(base)
    assert files.tokenizer.eos_id == 1
    again = open_checkpoint(base, template="bare")
    assert files.identity == again.identity
    assert files.parameters == again.parameters


def test_a_lora_file_brings_the_runs_template_and_its_base(tmp_path, run, base):
    files = open_checkpoint(run / "checkpoints/step-000005/lora.ckpt")
    assert files.template == get_template("vicuna")
    assert files.run == run
    assert files.base == tmp_path / "base.ckpt.hf"
    assert read_all(files.base) == read_all(base)
    assert read_all(files.path) == read_all(tmp_path / "peft")
    with pytest.raises(UserError, match="was trained in template vicuna"):
        open_checkpoint(run / "checkpoints/step-000005/lora.ckpt", template="bare")


def test_a_base_can_be_named_as_a_file(tmp_path, run, base):
    write_adapter(tmp_path / "peft", base="gone")
    with pytest.raises(UserError, match="its base gone is not there"):
        open_checkpoint(tmp_path / "peft", template="bare")
    files = open_checkpoint(tmp_path / "peft", template="bare", base=str(tmp_path / "base.ckpt"))
    assert read_all(files.base) == read_all(base)


def test_a_file_in_a_folder_that_cannot_be_written_is_told_the_way(tmp_path, base, monkeypatch):
    exchange.to_mindformers(base, tmp_path / "m.ckpt")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"cannot be written.*backends\.exchange to-hf"):
        open_checkpoint(tmp_path / "m.ckpt", template="bare")


def test_what_is_no_mindformers_file_is_refused(tmp_path, base):
    with pytest.raises(UsageError, match=r"name the directory with their config\.json"):
        open_checkpoint(base / "model.safetensors", template="bare")
    with pytest.raises(UsageError, match=r"no such run or model directory, nor a \.ckpt"):
        open_checkpoint(tmp_path / "absent.ckpt", template="bare")
