import json

import pytest

from backends.checkpoint.fingerprint import count_parameters, fingerprint
from backends.checkpoint.resolve import open_checkpoint
from converters.common.errors import UsageError, UserError
from converters.text.template import get_template


def safetensors(path, shapes, fill=0):
    """Write a safetensors file by hand, of float32 zeros or ``fill`` bytes."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes([fill]) * end)


@pytest.fixture
def base(tmp_path, tiny_tokenizer):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    safetensors(folder / "model.safetensors", {"a": [10, 20], "b": [5]})
    for file in tiny_tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def adapter(tmp_path, base):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    safetensors(folder / "adapter_model.safetensors", {"lora_A": [2, 10], "lora_B": [20, 2]})
    (folder / "template.json").write_text(json.dumps(get_template("vicuna").to_json()))
    return folder


def test_a_model_directory_needs_a_template(base):
    with pytest.raises(UsageError, match=r"no template.json there .* --template \(bare, alpaca, vicuna"):
        open_checkpoint(base)
    files = open_checkpoint(base, template="llama3")
    assert files.template.name == "llama3"
    assert (files.base, files.run) == (None, None)
    assert files.stop_ids == [1, 5]
    assert files.parameters == {"trainable": None, "base": 205}


def test_an_adapter_brings_template_base_and_ratio(adapter, base):
    files = open_checkpoint(adapter)
    assert files.template == get_template("vicuna")
    assert files.base == base
    assert files.stop_ids == [1]
    assert files.parameters == {"trainable": 60, "base": 205}
    assert files.identity["template"].startswith("vicuna ")
    assert files.identity["base"] != files.identity["checkpoint"]
    assert open_checkpoint(adapter, template="vicuna").identity == files.identity


def test_another_template_is_refused_unless_allowed(adapter, capsys):
    with pytest.raises(
        UserError, match=r"was trained in template vicuna \(\w+\), not alpaca \(\w+\): leave --template"
    ):
        open_checkpoint(adapter, template="alpaca")
    files = open_checkpoint(adapter, template="alpaca", allow_mismatch=True)
    assert files.template.name == "alpaca"
    assert "asking in alpaca all the same" in capsys.readouterr().err


def test_a_checkpoint_inside_a_run_takes_what_lies_at_the_top(adapter, base):
    (adapter / "recipe.yaml").write_text("")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).rename(adapter / name)
    inner = adapter / "checkpoints" / "step-000010"
    inner.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (inner / name).write_bytes((adapter / name).read_bytes())
    files = open_checkpoint(inner)
    assert (files.path, files.run, files.base) == (inner, adapter, base)
    assert files.template.name == "vicuna"
    assert files.tokenizer.source.parent == adapter


def test_answers_may_be_as_long_as_what_the_run_was_trained_on(adapter):
    from backends.generation.types import answer_limits

    def limit(audit, given=None):
        (adapter / "recipe.yaml").write_text("")
        (adapter / "data.json").write_text(json.dumps({"audit": audit}))
        return answer_limits(open_checkpoint(adapter), given).max_new

    assert limit({"seq_length": 256, "longest": 900}) == 257
    assert limit({"seq_length": 256, "longest": 200}) == 200
    assert limit({"seq_length": None, "longest": 900}) == 900
    assert limit({"seq_length": 256, "longest": 60}) == 128
    assert limit({"seq_length": 256, "longest": 900}, 20) == 20
    (adapter / "data.json").unlink()
    assert open_checkpoint(adapter).longest_row is None


def test_a_fully_trained_model_counts_all_its_parameters(base):
    (base / "recipe.yaml").write_text("")
    (base / "template.json").write_text(json.dumps(get_template("bare").to_json()))
    assert open_checkpoint(base).parameters == {"trainable": 205, "base": 205}


def test_another_base_may_be_named(adapter, base, tmp_path):
    moved = base.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"its base .*base is not there; name it with --base DIR"):
        open_checkpoint(adapter)
    assert open_checkpoint(adapter, base=str(moved)).base == moved
    with pytest.raises(UserError, match="its base nowhere is not there"):
        open_checkpoint(adapter, base="nowhere")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"its base \(not recorded\) is not there"):
        open_checkpoint(adapter)


def test_what_is_no_checkpoint_is_said(tmp_path, base):
    with pytest.raises(UsageError, match="no such run or model directory"):
        open_checkpoint(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"neither adapter_config.json nor config.json"):
        open_checkpoint(empty)
    (empty / "recipe.yaml").write_text("")
    with pytest.raises(UsageError, match=r"no weights yet; its checkpoints are under"):
        open_checkpoint(empty)
    (base / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer.json or tokenizer.model"):
        open_checkpoint(base, template="bare")
    (base / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"model.safetensors: not a safetensors file"):
        count_parameters([base / "model.safetensors"])


def test_fingerprints_see_every_change_of_training(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors(file, {"a": [100]}, fill=1)
    first = fingerprint([file])
    assert fingerprint([file]) == first
    safetensors(file, {"a": [100]}, fill=2)
    assert fingerprint([file]) != first


def test_large_files_are_sampled_to_the_last_byte(tmp_path, monkeypatch):
    from backends.checkpoint import fingerprint as checkpoint

    monkeypatch.setattr(checkpoint, "WHOLE_FILE_BYTES", 10)
    monkeypatch.setattr(checkpoint, "SAMPLE_BYTES", 4)
    file = tmp_path / "model.safetensors"
    content = bytearray(range(256)) * 8
    file.write_bytes(content)
    first = fingerprint([file])
    for position in (0, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        assert fingerprint([file]) != first
    file.write_bytes(content + b"x")
    assert fingerprint([file]) != first


def test_a_base_that_changed_since_the_training_is_refused_unless_it_is_named(adapter, base, capsys):
    (adapter / "recipe.yaml").write_text(f"load_checkpoint: {base}\n")
    (adapter / "data.json").write_text(json.dumps({"base": fingerprint([base / "model.safetensors"])}))
    assert open_checkpoint(adapter).base == base
    safetensors(base / "model.safetensors", {"a": [10, 20], "b": [5]}, fill=1)
    with pytest.raises(UserError, match=r"was trained on weights [0-9a-f]{16}, .* has [0-9a-f]{16}: .* --base"):
        open_checkpoint(adapter)
    assert open_checkpoint(adapter, base=str(base)).base == base
    assert "taken all the same" in capsys.readouterr().err
