"""Where recipes and the small base are found: the user's own first, then what the project ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.checkpoint.resolve import open_checkpoint
from backends.exchange.convert import to_mindformers
from backends.exchange.weights_report import inspect
from backends.merge.base import open_base
from backends.recipe.load import load_recipe
from converters.common import shipped
from converters.common.shipped import SHIPPED, locate_model, locate_recipe, shipped_recipes
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.segments import TokenLimit
from mindrecord.commands import write_mindrecord


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    shipped._say_once.cache_clear()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "yaml/demo.yaml", "yaml/demo"])
def test_a_recipe_is_found_by_name_from_any_folder(name, capsys):
    assert locate_recipe(name) == SHIPPED / "yaml" / "demo.yaml"
    assert f"{name}: not in this directory; the shipped one is used" in capsys.readouterr().err
    assert "yaml/demo.yaml" in shipped_recipes()


def test_the_users_own_file_comes_first(tmp_path, capsys):
    for file in (tmp_path / "yaml" / "demo.yaml", tmp_path / "models" / "tiny" / "config.json"):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    assert locate_recipe("yaml/demo.yaml").read_text() == "{}"
    assert locate_model("models/tiny") == "models/tiny"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["nope", "nope.yaml", "other/demo.yaml", "../yaml/demo.yaml", "yaml/demo.json"])
def test_other_names_stay_as_they_are(name):
    assert str(locate_recipe(name)) == name


@pytest.mark.parametrize("path", ["", "models/other", "models", "x/models/tiny", "./runs/a/", "models/tiny/absent"])
def test_other_models_stay_as_they_are(path):
    assert locate_model(path) == path


def test_the_small_base_is_found_from_any_folder_and_said_once(capsys):
    recipe = load_recipe("demo")
    assert recipe.load_checkpoint == str(SHIPPED / "models" / "tiny")
    assert load_tokenizer("models/tiny").hash == load_tokenizer(SHIPPED / "models" / "tiny").hash
    locate_model("models/tiny")
    said = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("models/tiny: not in this directory") for line in said) == 1


def test_every_command_that_reads_a_model_finds_it(tmp_path):
    """Each asks for the small base by its short name in a folder that has none."""
    rows = tmp_path / "rows.jsonl"
    row = {"instruction": "1 + 1 =", "input": "", "output": "2"}
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert open_checkpoint("models/tiny").path == SHIPPED / "models" / "tiny"
    assert inspect(Path("models/tiny")).adapter is None
    assert open_base("models/tiny").config["model_type"] == "llama"
    assert to_mindformers("models/tiny", tmp_path / "tiny.safetensors").kind == "hf"
    assert write_mindrecord([rows], tmp_path / "rows.mindrecord", tokenizer="models/tiny", template="bare").rows == 1
    assert TokenLimit(64, Path("models/tiny"), "bare").lengths([("1 + 1 =", "2")]) == [10]
