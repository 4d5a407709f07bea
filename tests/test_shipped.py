"""Where recipes and the small base are found: the user's own first, then what the project ships."""

from __future__ import annotations

import pytest

from backends.recipe.load import load_recipe
from converters.common import shipped
from converters.common.shipped import SHIPPED, locate_model, locate_recipe, shipped_recipes
from converters.tokenizers.load import load_tokenizer


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
