import json
import subprocess
import sys

import pytest

from backends.recipe.load import load_recipe
from backends.run.directory import Run, read_log, write_recipe
from backends.weights.files import writing_directory
from converters.common.errors import UsageError, UserError


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: no such run directory"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"not a run directory \(it has no recipe\.yaml\)"):
        Run.open(tmp_path)


def test_a_run_reads_back_its_recipe_and_base(tmp_path):
    recipe = load_recipe(None, ["load_checkpoint=some/base", "runner_config.epochs=2"])
    write_recipe(recipe, tmp_path / "recipe.yaml")
    run = Run.open(tmp_path)
    assert run.recipe == recipe
    assert run.result is None
    assert run.base is None
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    assert run.base == "some/base"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    assert run.base == "/elsewhere"


def test_checkpoints_are_whole_or_absent(tmp_path):
    run = Run(tmp_path)
    for step in (20, 3, 100):
        with run.writing_checkpoint(step) as folder:
            (folder / "state.json").write_text(json.dumps({"step": step}))
    with pytest.raises(json.JSONDecodeError), run.writing_checkpoint(7):
        json.loads("{")
    (tmp_path / "checkpoints" / "step-000005").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert [(checkpoint.step, checkpoint.state["step"]) for checkpoint in run.checkpoints()] == [
        (3, 3),
        (20, 20),
        (100, 100),
    ]
    assert not list(tmp_path.rglob(".tmp-*"))
    run.remove_checkpoint(run.checkpoints()[0])
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [20, 100]


def test_a_directory_is_replaced_only_when_the_new_one_is_complete(tmp_path):
    final = tmp_path / "thing"
    with writing_directory(final) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(UserError, match=r"thing: could not be written .*; nothing was left"), writing_directory(final):
        raise OSError(28, "No space left on device")
    assert (final / "a").read_text() == "1"
    with writing_directory(final) as folder:
        (folder / "b").write_text("2")
    assert [path.name for path in final.iterdir()] == ["b"]


def test_a_log_that_was_cut_short_is_read_up_to_there(tmp_path):
    log = tmp_path / "train_log.jsonl"
    assert read_log(log) == []
    log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(log) == [{"step": 1}, {"step": 2}]


@pytest.mark.backend
@pytest.mark.parametrize("command", [[], ["train"], ["plan"], ["doctor"], ["generate"], ["chat"]])
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys\n"
        "from backends.cuda.__main__ import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'polars', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m backends.cuda" in done.stdout
    assert "examples:" in done.stdout
