"""A task of one file, as docs/adding_a_task.md has it: found by name, asked, graded, compared."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from backends.generation.types import Runtime
from converters.common.errors import UsageError, UserError
from converters.text.conversation import Turn
from eval import Results, Task, compare, evaluate, grade_predictions
from eval.__main__ import main
from eval.retention import retention
from eval.task import TASKS, Row, get_task

ROOT = Path(__file__).parents[2]
ROWS = [
    {"predict": "5 + 2 = 7", "label": "5 + 2 = 7"},
    {"predict": "about 8.0 cats", "label": "6 + 2 = 8"},
    {"predict": "3 or 4", "label": "1 + 2 = 3"},
    {"predict": "many", "label": "2 + 2 = 4"},
]


@pytest.fixture
def task_file(tmp_path, monkeypatch):
    """The page's task, saved under the name it says."""
    page = (ROOT / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(# (\w+\.py)\n.*?)```", page, re.S)
    assert len(found[1].splitlines()) < 100
    (tmp_path / found[2]).write_text(found[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return found[2]


@pytest.fixture
def questions(tmp_path):
    rows = [{"question": f"Ann has {n} cats and gets 2 more?", "answer": f"{n} + 2 = {n + 2}"} for n in range(6)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "questions.jsonl"


@pytest.fixture
def predictions(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "p.jsonl"


def test_predictions_are_graded(task_file, predictions, tmp_path, capsys):
    assert main([task_file, "--predictions", str(predictions), "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["right", "4", "50.0"]
    assert lines[3].split() == ["answered", "4", "75.0"]
    assert lines[5] == "right: 50.0 % (95 %: 15.0 to 85.0)"
    value = json.loads((tmp_path / "out" / "results.json").read_text())
    assert value["results"]["word_problems"]["right,none"] == 0.5
    assert value["higher_is_better"] == {"word_problems": {"right": True, "answered": True}}
    assert value["n-samples"] == {"word_problems": {"original": 4, "effective": 4}}
    assert (tmp_path / "out" / "table.md").read_text().startswith("# word_problems: p.jsonl\n\n| measure | n | % |")


def test_grading_a_task_of_a_file_imports_no_framework(task_file, predictions):
    line = [sys.executable, "-X", "importtime", "-m", "eval", task_file, "--predictions", str(predictions)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "mindspore", "numpy", "tokenizers", "peft"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mat", r"no task 'mat' \(did you mean 'math'\?\); math, squad, choice, webqa, loss or FILE.py"),
        ("nothing.py", "nothing.py: no such file of a task"),
        (str(ROOT / "eval/math/rules.py"), "rules.py: 0 classes of tasks; one is expected"),
    ],
)
def test_a_task_that_is_not_there(name, message):
    with pytest.raises(UsageError, match=message):
        get_task(name)


def test_a_file_that_is_no_python_is_one_line(tmp_path):
    (tmp_path / "bad.py").write_text("class Bad(Task)\n")
    with pytest.raises(UserError, match=r"bad\.py:1: expected ':'"):
        get_task(str(tmp_path / "bad.py"))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found_by_name(name):
    assert get_task(name).name == name
    assert isinstance(get_task(get_task(name)), Task)


def test_options_of_a_task_are_checked():
    assert get_task("math", rule="exact").rule == "exact"
    with pytest.raises(UsageError, match=r"the task math has no option 'rul' \(did you mean 'rule'\?\)"):
        get_task("math", rul="exact")
    with pytest.raises(UsageError, match="options go to the task itself"):
        get_task(get_task("math"), rule="exact")
    for task, option in (("math", "rule"), ("squad", "protocol"), ("choice", "way")):
        with pytest.raises(UsageError, match=f"--{option} x: .* expected"):
            get_task(task, **{option: "x"})


def test_data_for_predictions_that_have_labels_are_refused(task_file, predictions):
    with pytest.raises(UsageError, match="predictions have their labels beside them"):
        grade_predictions(task_file, predictions, "questions.jsonl")


def test_a_missing_answer_or_no_row_is_said(task_file, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"predict": "1"}\n')
    with pytest.raises(UserError, match="row 1: a text under label"):
        grade_predictions(task_file, path)
    path.write_text("[]")
    with pytest.raises(UsageError, match="no prediction in it"):
        grade_predictions(task_file, path)


def test_two_results_of_arithmetic_are_compared_from_python(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"predict": "x = 2", "label": "方程的解为：2.0"}\n')
    found = grade_predictions("math", path, out=tmp_path / "out", rule="exact")
    assert found.figures["math"]["exact,none"] == 1.0
    comparison = compare(tmp_path / "out", tmp_path / "out", "exact")
    assert comparison.rows[-1][:3] == ["total", 1, "100.0"]
    with pytest.raises(UsageError, match="--rule x"):
        compare(tmp_path / "out", tmp_path / "out", "x")


@pytest.mark.backend
class TestWithAModel:
    def ask(self, task_file, tiny_llama, questions, out, **more) -> Results:
        return evaluate(task_file, tiny_llama, questions, out=out, template="bare", max_new_tokens=6, **more)

    def test_it_is_asked_once_and_graded_from_the_file(self, task_file, tiny_llama, questions, tmp_path, capsys):
        found = self.ask(task_file, tiny_llama, questions, "out", limit=4)
        assert [row["id"] for row in found.rows] == ["1", "2", "3", "4"]
        assert set(found.rows[0]["scores"]["word_problems"]) == {"right", "answered"}
        assert json.loads(Path("out/results.json").read_text())["hashes"]["max_new_tokens"] == 6
        assert grade_predictions(task_file, "out/predictions.jsonl").figures == found.figures
        capsys.readouterr()
        assert self.ask(task_file, tiny_llama, questions, "out", limit=4).text == found.text
        assert "4 of 4 rows are there already, 0 to go" in capsys.readouterr().err
        with pytest.raises(UserError, match="was made with rows 4, not 6"):
            self.ask(task_file, tiny_llama, questions, "out")

    def test_by_default_results_go_below_runs(self, task_file, tiny_llama, questions):
        found = self.ask(task_file, tiny_llama, questions, None, limit=2)
        assert found.folder == Path("runs/eval") / tiny_llama.name / "word_problems-questions-limit2"

    def test_what_was_kept_is_paired_row_by_row(self, task_file, tiny_llama, questions):
        for name in ("before", "after"):
            self.ask(task_file, tiny_llama, questions, name)
        found = retention("before", "after")
        assert found.passed
        assert [(one.task, one.measure, one.paired) for one in found.kept] == [
            ("word_problems", "right", True),
            ("word_problems", "answered", True),
        ]

    def test_several_tasks_share_one_loaded_model(self, task_file, tiny_llama, questions, small):
        from backends.checkpoint.resolve import open_checkpoint
        from backends.generation.registry import load_generator

        files = open_checkpoint(tiny_llama, template="bare")
        loaded = []
        load = cache(lambda: loaded.append(1) or load_generator(files))
        evaluate(task_file, files, questions, out="words", max_new_tokens=4, generator=load)
        evaluate("squad", files, small, out="reading", max_new_tokens=4, generator=load)
        evaluate("squad", files, small, out="again", max_new_tokens=4, generator=load())
        assert loaded == [1]
        assert (Path("reading/predictions.jsonl").read_bytes()) == Path("again/predictions.jsonl").read_bytes()


class Spelling(Task):
    """A task whose behaviour each test sets."""

    name = "spelling"
    rows = (Row(0, (Turn("user", "a?"),), "a"), Row(1, (Turn("user", "b?"),), "b"))
    value = 1.0

    def read_data(self, path, limit):
        return list(self.rows)

    def grade(self, predict, label):
        return {"right": self.value}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ()}, "no row to ask"),
        ({"name": ""}, "has no name"),
        ({"rows": (Spelling.rows[0], Spelling.rows[0])}, "two rows have idx 0"),
        ({"rows": (Row(0, (Turn("user", "a?"),), None),)}, "row 0 has no label"),
    ],
)
def test_what_cannot_be_graded_is_refused_before_a_model_is_asked(tmp_path, change, said):
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    task = type("Changed", (Spelling,), change)()
    with pytest.raises(UserError, match=said):
        evaluate(task, "no-such-model", data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [7.0, -0.1, float("nan")])
def test_a_grade_is_a_share(value):
    task = type("Changed", (Spelling,), {"value": value})()
    with pytest.raises(UserError, match="spelling: row 3: right is"):
        task.grade_row({"idx": 3, "predict": "a", "label": "a"})


@pytest.mark.backend
def test_answers_of_another_task_or_wording_are_not_continued(tmp_path):
    """The data's hash does not say what a task of one's own asks of them."""
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    options = {"out": tmp_path / "out", "max_new_tokens": 2, "runtime": Runtime("cuda", "cpu")}
    first = evaluate(Spelling(), "models/tiny", data, template="bare", **options)
    assert evaluate(Spelling(), "models/tiny", data, template="bare", **options).rows == first.rows
    reworded = (Row(0, (Turn("user", "A?"),), "a"), Spelling.rows[1])
    for change, key in (({"rows": reworded}, "prompts"), ({"name": "other"}, "task")):
        with pytest.raises(UserError, match=f"was made with {key}"):
            evaluate(type("Changed", (Spelling,), change)(), "models/tiny", data, template="bare", **options)
