"""A model's own chat template through both backends: trained in, stored, asked in, and merged."""

import json
import shutil

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.backend, pytest.mark.filterwarnings("ignore::UserWarning")]

from training import train

from backends.checkpoint.resolve import open_checkpoint
from backends.cuda.__main__ import main
from backends.merge.run import merge
from backends.run.directory import Run
from converters.common.errors import UserError
from converters.text.chat_template import ChatTemplate
from converters.text.conversation import Turn

CHAT = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>Count well<|eot_id|>' }}{% endif %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}{% endif %}"
)
ASKED = (
    "<|start_header_id|>system<|end_header_id|>Count well<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>1 + 1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
)


@pytest.fixture
def chatty(tiny_llama, tmp_path):
    """The small Llama with a chat template of its own."""
    folder = shutil.copytree(tiny_llama, tmp_path / "chatty")
    set_template(folder, CHAT)
    return folder


def set_template(folder, text):
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"chat_template": text}
    file.write_text(json.dumps(config))


def recipe_for(make_recipe, model, **changes):
    return str(make_recipe(**{"load_checkpoint": str(model), "data.tokenizer": None, **changes}))


def asked(files):
    return "".join(one.text for one in files.template.prompt([Turn("user", "1 + 1?")]))


def test_a_model_directory_is_asked_in_its_own_template(chatty, capsys):
    assert main(["generate", "--ckpt", str(chatty), "--prompt", "1 + 1?", "--device", "cpu"]) == 0
    assert "chatty: asked in its own chat template (" in capsys.readouterr().err
    files = open_checkpoint(chatty)
    assert asked(files) == ASKED
    assert files.stop_ids == [1, 5]
    assert files.identity["template"] == f"tokenizer {files.template.hash[:16]}"
    assert open_checkpoint(chatty, template="tokenizer").template == files.template
    capsys.readouterr()
    # what is asked for by name is taken, and how it differs is said
    assert open_checkpoint(chatty, template="llama3").template.name == "llama3"
    said = capsys.readouterr().err
    assert "note: template llama3 is not" in said
    assert "Count well" in said


def test_a_run_keeps_the_template_that_it_was_trained_in(make_recipe, chatty, tmp_path, capsys):
    recipe = recipe_for(make_recipe, chatty, **{"data.template": "tokenizer"})
    assert main(["train", recipe, "--device", "cpu"]) == 0
    run = Run.open(tmp_path / "run")
    assert isinstance(run.template, ChatTemplate)
    data = json.loads((run.path / "data.json").read_text())
    assert data["template"] == {"name": "tokenizer", "hash": run.template.hash}
    files = open_checkpoint(run.path)
    assert asked(files) == ASKED
    assert open_checkpoint(run.path, template="tokenizer").template == run.template

    # the base's authors publish another text: the run goes on with what it has learned
    set_template(chatty, CHAT.replace("Count well", "Count badly"))
    capsys.readouterr()
    assert asked(open_checkpoint(run.path)) == ASKED
    assert "chatty has another chat template (" in capsys.readouterr().err
    assert asked(open_checkpoint(run.path, template="tokenizer")) == ASKED
    (run.path / "result.json").unlink()
    with pytest.raises(UserError, match=r"cannot be resumed: template: the run is in tokenizer \("):
        main(["train", recipe, "--device", "cpu", "--resume"])
    moved = chatty.rename(tmp_path / "moved")
    (moved / "tokenizer_config.json").unlink()
    assert asked(open_checkpoint(run.path, base=str(moved))) == ASKED
    assert "moved has no chat template" in capsys.readouterr().err
    with pytest.raises(UserError, match="was trained in template tokenizer"):
        open_checkpoint(run.path, base=str(moved), template="llama3")


def test_a_named_template_that_differs_is_said_once(make_recipe, chatty, capsys):
    assert main(["train", recipe_for(make_recipe, chatty), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert said.count("note: template bare is not") == 1
    assert "data.template=tokenizer takes its own" in said


def test_merged_weights_carry_it(make_recipe, chatty, tmp_path):
    assert main(["train", recipe_for(make_recipe, chatty, **{"data.template": "tokenizer"}), "--device", "cpu"]) == 0
    merge(tmp_path / "run", tmp_path / "merged", base=chatty)
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == CHAT
    assert "chat_template" not in json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
    files = open_checkpoint(tmp_path / "merged")
    assert files.template == Run.open(tmp_path / "run").template
    modelfile = (tmp_path / "merged" / "Modelfile").read_text()
    assert "<|start_header_id|>system<|end_header_id|>{{ $.System }}<|eot_id|>" in modelfile
    assert (
        "system<|end_header_id|>Count well<|eot_id|><|start_header_id|>user<|end_header_id|>{{ .Content }}" in modelfile
    )
    assert 'PARAMETER stop "<|eot_id|>"' in modelfile


def test_both_backends_train_on_the_same_rows_and_ask_alike(make_recipe, chatty, tmp_path):
    pytest.importorskip("mindspore")
    recipe = recipe_for(
        make_recipe, chatty, **{"data.template": "tokenizer", "data.packing": False, "runner_config.epochs": 1}
    )
    found = {}
    for backend in ("cuda", "ascend"):
        out = tmp_path / backend
        said = train(backend, recipe, f"output_dir={out}")
        assert "Traceback" not in said
        files = open_checkpoint(out)
        assert asked(files) == ASKED
        record = json.loads((out / "data.json").read_text())
        log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        found[backend] = (record["rows_sha256"], record["template"], [row["loss"] for row in log])
    assert found["cuda"][:2] == found["ascend"][:2]
    assert found["ascend"][2] == pytest.approx(found["cuda"][2], rel=1e-3)


def test_a_rotary_base_in_the_spelling_of_transformers_5_is_the_one_computed_with(tiny_llama, tmp_path):
    """transformers 4 takes 10,000 instead, silently."""
    from backends.cuda.model import read_config

    folder = shutil.copytree(tiny_llama, tmp_path / "five")
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        config.pop(key, None)
    config["rope_parameters"] = {"rope_theta": 100000.0, "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps(config))
    read = read_config(folder)
    parameters = getattr(read, "rope_parameters", None) or {}
    assert getattr(read, "rope_theta", parameters.get("rope_theta")) == 100000.0
