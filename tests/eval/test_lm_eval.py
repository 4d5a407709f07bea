"""The lm-eval task files: the same checkpoint, the same answers and the same figures as our own commands."""

import json
import re
from pathlib import Path

import pytest

from converters.common.reader import read_json
from eval.math import __main__ as eval_math
from eval.math.rules import parse
from eval.squad import __main__ as squad
from eval.tasks import functions

ROWS = 50
BASIS = ["--template", "vicuna", "--device", "cpu", "--dtype", "float32"]


def test_graders_are_those_of_our_commands():
    assert functions.grade_math({"label": "1/3 = 0.3333333333333333"}, ["答案：0.3334"]) == {
        "exact": 0.0,
        "close": 1.0,
        "sig4": 0.0,
    }
    row = {"labels": ["the blue sky", "sky"]}
    assert functions.grade_squad(row, [" Sky!\nand more"]) == {"f1": 100.0, "em": 100.0}
    assert functions.grade_squad(row, ["blue"])["f1"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("name", ["math", "squad_v1"])
def test_task_files_name_what_there_is(name):
    yaml = pytest.importorskip("yaml")
    text = (functions_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    for function in re.findall(r"!function functions\.(\w+)", text):
        assert callable(getattr(functions, function))
    task = yaml.safe_load(text.replace("!function ", ""))
    measures = [one["metric"] for one in task["metric_list"]]
    assert measures == {"math": ["exact", "close", "sig4"], "squad_v1": ["f1", "em"]}[name]
    assert task["task"] == f"twinlora_{name}"


def functions_folder():
    return Path(functions.__file__).parent


def problems(path, solutions):
    rows = [{"problem": f"计算 {i} + {i * 7 % 10} 等于多少？", "solution": one} for i, one in enumerate(solutions)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def reading(path, golds):
    qas = [
        {"id": f"q{i}", "question": f"What is {i}?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        for i, texts in enumerate(golds)
    ]
    paragraphs = [{"context": f"The sky of passage {i} is blue.", "qas": [qa]} for i, qa in enumerate(qas)]
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")
    return str(path)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
class TestAgainstLmEval:
    @pytest.fixture(autouse=True)
    def lm_eval(self):
        return pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lm_eval)")

    def theirs(self, model, task, data):
        """Run lm-eval; return its figures and the answers it got, in the order of the rows."""
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        told = {"data": data, "template": "vicuna", "pretrained": str(model)}
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32", "add_bos_token": False},
            tasks=[task],
            task_manager=TaskManager(include_path=str(functions_folder()), metadata=told),
            batch_size=8,
            device="cpu",
            limit=ROWS,
            log_samples=True,
        )
        samples = sorted(found["samples"][task], key=lambda one: one["doc_id"])
        return found["results"][task], [one["resps"][0][0].strip() for one in samples]

    def test_arithmetic(self, tiny_llama, tmp_path):
        # what the model says decides what is right in every other row, or all figures would be 0
        data = problems(tmp_path / "p.jsonl", ["1"] * ROWS)
        ask = ["--ckpt", str(tiny_llama), *BASIS, "--data", data]
        eval_math.main([*ask, "--out", str(tmp_path / "first")])
        said = [parse(row["predict"]) for row in rows_of(tmp_path / "first")]
        assert sum(one is not None for one in said) > 10
        problems(tmp_path / "p.jsonl", [one.text if one and i % 2 else "7.25" for i, one in enumerate(said)])
        eval_math.main([*ask, "--out", str(tmp_path / "ours")])
        ours = read_json(tmp_path / "ours" / "results.json")["results"]["math"]
        figures, answers = self.theirs(tiny_llama, "twinlora_math", data)
        assert answers == [row["predict"] for row in rows_of(tmp_path / "ours")]
        assert 0 < ours["close,none"] < 1
        for rule in ("exact", "close", "sig4"):
            assert figures[f"{rule},none"] == pytest.approx(ours[f"{rule},none"], abs=1e-12)

    def test_reading(self, tiny_llama, tmp_path):
        data = reading(tmp_path / "d.json", [["blue"]] * ROWS)
        ask = ["--ckpt", str(tiny_llama), *BASIS, "--data", data, "--protocol", "official"]
        squad.main([*ask, "--out", str(tmp_path / "first")])
        lines = [row["predict"].split("\n")[0] for row in rows_of(tmp_path / "first")]
        golds = [["blue", line] if line and i % 3 else [line[:9] or "blue"] for i, line in enumerate(lines)]
        reading(tmp_path / "d.json", golds)
        squad.main([*ask, "--out", str(tmp_path / "ours")])
        ours = read_json(tmp_path / "ours" / "results.json")["results"]["squad_official"]
        figures, answers = self.theirs(tiny_llama, "twinlora_squad_v1", data)
        assert answers == [row["predict"] for row in rows_of(tmp_path / "ours")]
        assert 0 < ours["em,none"] < 100
        for measure in ("f1", "em"):
            assert figures[f"{measure},none"] == pytest.approx(ours[f"{measure},none"], abs=1e-9)
