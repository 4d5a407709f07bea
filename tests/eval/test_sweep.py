"""Every checkpoint of a run: figures by step, the best, the plot, and going on."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest

from backends.run.directory import Run
from converters.common.errors import GateNotPassed, UsageError
from converters.text.template import get_template
from eval import sweep
from eval.sweep import Point, choose_best, places, table, verdict_line
from eval.sweep import __main__ as command

BASE = Point(0, 0.1, 60.0, 40.0)
EARLY = Point(100, 0.5, 59.0, 39.0, 59 / 60, 39 / 40, True, 0.6499)
LATE = Point(200, 0.7, 50.0, 30.0, 50 / 60, 30 / 40, False, 0.7899)
MIDDLE = Point(150, 0.6, 58.0, 38.0, 58 / 60, 38 / 40, True, 0.7199)


def test_the_best_has_the_highest_score_of_those_that_keep_enough():
    assert choose_best([BASE, EARLY, MIDDLE, LATE]) == MIDDLE
    assert choose_best([BASE, LATE]) is None
    same = Point(300, 0.6, 58.0, 38.0, 1.0, 1.0, True, 0.7199)
    assert choose_best([BASE, MIDDLE, same]) == MIDDLE


def test_without_a_base_all_are_able():
    points = [Point(step, 0.1 * step, 50.0, 40.0, score=0.07 * step) for step in (1, 2)]
    assert choose_best(points) == points[1]


def test_the_table_and_the_verdict():
    header, rows = table([BASE, EARLY, LATE])
    assert header == ["step", "accuracy %", "F1", "EM", "F1 kept %", "EM kept %", "gate", "score"]
    assert rows[0] == ["0 (base)", "10.0", "60.00", "40.00", "-", "-", "-", "-"]
    assert rows[2] == ["200", "70.0", "50.00", "30.00", "83.3", "75.0", "NOT passed", "0.789900"]
    said = verdict_line([BASE, EARLY, LATE], EARLY, 0.9)
    assert said == "best: step 100, accuracy 50.0 %, score 0.649900; below the gate of 0.9: 200"
    assert verdict_line([BASE, LATE], None, 0.9).startswith("NOT passed: no checkpoint keeps 0.9")


MEASURED = [
    replace(BASE, loss=2.7),
    replace(EARLY, loss=2.73, loss_rise=0.03),
    replace(MIDDLE, loss=2.8, loss_rise=0.1),
]


def test_a_measured_loss_has_columns_of_its_own():
    header, rows = table(MEASURED)
    assert header[6:8] == ["nats a token", "rise"]
    assert [row[6:8] for row in rows] == [["2.7000", "-"], ["2.7300", "+0.0300"], ["2.8000", "+0.1000"]]
    assert verdict_line([BASE], None, 0.9, 0.05).endswith("with a loss at most 0.05 nats a token above its own")


def test_a_gate_on_a_loss_needs_a_text(empty_run, tmp_path):
    with pytest.raises(UsageError, match="--loss-gate needs --text FILE"):
        command.main(["--ckpt", str(empty_run), "--math", "x", "--loss-gate", "0.1"])


@pytest.mark.parametrize(
    "points", [[BASE, EARLY, MIDDLE, LATE], MEASURED, [EARLY], [Point(1, 0.1, 5.0, 4.0), Point(2, 0.2, 4.0, 3.0)]]
)
def test_the_plot_is_a_png(points, tmp_path):
    pytest.importorskip("matplotlib")
    sweep.plot(points, choose_best(points), tmp_path / "sweep.png", "run", 0.9)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def empty_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("{}")
    return tmp_path / "run"


def test_a_run_without_checkpoints(empty_run, tmp_path):
    problems = tmp_path / "math.jsonl"
    problems.write_text('{"problem": "1 + 1", "solution": "2"}\n')
    with pytest.raises(UsageError, match="no checkpoints there"):
        command.main(["--ckpt", str(empty_run), "--math", str(problems)])


def test_not_a_run(tmp_path):
    with pytest.raises(UsageError, match="not a run directory"):
        command.main(["--ckpt", str(tmp_path), "--math", "x"])


def checkpoint(run, step):
    folder = run / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return folder


def test_the_base_comes_first_and_steps_in_order(empty_run, capsys):
    for step in (200, 50):
        (checkpoint(empty_run, step) / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/b"}')
    found = places(Run(empty_run), None)
    assert [step for step, _ in found] == [0, 50, 200]
    assert found[0][1] == "/models/b"
    assert places(Run(empty_run), "here")[0] == (0, "here")


def test_whole_models_have_no_before_and_that_is_said(empty_run, capsys):
    checkpoint(empty_run, 10)
    assert [step for step, _ in places(Run(empty_run), None)] == [10]
    assert "no before" in capsys.readouterr().err


@pytest.mark.backend
class TestWithAModel:
    @pytest.fixture
    def run(self, tiny_llama, empty_run):
        """A run of two checkpoints: at step 2 an adapter that adds nothing, at step 4 one that adds noise."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaForCausalLM

        (empty_run / "template.json").write_text(json.dumps(get_template("bare").to_json()))
        shutil.copy(tiny_llama / "tokenizer.json", empty_run)
        shutil.copy(tiny_llama / "tokenizer_config.json", empty_run)
        for step, noise in ((2, 0.0), (4, 2.0)):
            torch.manual_seed(step)
            model = LlamaForCausalLM.from_pretrained(tiny_llama)
            tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=noise)
            folder = checkpoint(empty_run, step)
            tuned.save_pretrained(folder)
        return empty_run

    @pytest.fixture
    def problems(self, tmp_path):
        path = tmp_path / "math.jsonl"
        rows = [{"problem": f"计算 {n} + 1 等于多少？", "solution": f"{n} + 1 = {n + 1}"} for n in range(4)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def sweep(self, run, problems, data, *more):
        words = ["--ckpt", run, "--math", problems, "--squad", data, "--max-new-tokens", 6, "--device", "cpu", *more]
        return command.main([str(word) for word in words])

    @pytest.fixture
    def answerable(self, run, problems, small, tmp_path):
        """The small reading set with the base's own answers as the right ones: it keeps all, a changed model less."""
        from eval.squad import __main__ as squad

        out = tmp_path / "ask"
        base = json.loads((run / "checkpoints" / "step-000002" / "adapter_config.json").read_text())
        words = ["--ckpt", base["base_model_name_or_path"], "--template", "bare", "--data", small, "--out", out]
        squad.main([str(word) for word in [*words, "--device", "cpu"]])
        answers = json.loads((out / "answers.json").read_text())
        assert all(answers.values())
        data = json.loads(small.read_text())
        for paragraph in data["data"][0]["paragraphs"]:
            first = paragraph["qas"][0]
            first["answers"] = [{"text": answers[first["id"]], "answer_start": 0}]
        small.write_text(json.dumps(data), encoding="utf-8")
        return small

    def test_learning_against_forgetting(self, run, problems, answerable, capsys):
        assert self.sweep(run, problems, answerable) == 0
        out = run / "eval" / "sweep"
        found = json.loads((out / "sweep.json").read_text())
        base, nothing, noise = found["points"]
        assert [point["step"] for point in found["points"]] == [0, 2, 4]
        assert (base["f1"], base["em"], base["score"]) == (100, 100, None)
        assert (nothing["f1_kept"], nothing["em_kept"], nothing["passed"]) == (1, 1, True)
        assert noise["passed"] is False
        assert noise["f1_kept"] < 0.9
        assert found["best"] == 2
        meta = json.loads((out / "step-000002" / "math" / "results.json").read_text())["config"]["parameters"]
        trainable, everything = meta["trainable"], meta["base"]
        assert nothing["score"] == pytest.approx((1 - trainable / everything) * 0.3 + nothing["accuracy"] * 0.7)
        captured = capsys.readouterr()
        assert "best: step 2" in captured.out
        assert "below the gate of 0.9: 4" in captured.out
        assert "step 4 (3 of 3)" in captured.err
        assert (out / "sweep.png").is_file()
        assert "| 2 |" in (out / "sweep.md").read_text()
        assert (out / "step-000004" / "squad.txt").read_text().startswith("protocol")

        # again: everything is there, the same comes out
        before = (out / "sweep.json").read_text()
        assert self.sweep(run, problems, answerable) == 0
        captured = capsys.readouterr()
        assert captured.err.count("0 to go") == 6
        assert "loading" not in captured.err
        assert (out / "sweep.json").read_text() == before

    def test_the_loss_of_a_text_beside_it(self, run, problems, answerable, tmp_path, capsys):
        text = tmp_path / "book.txt"
        text.write_text("The answer is here.\n\nOakdale lies on the Alder.\n\nThe fair is in May.")
        assert self.sweep(run, problems, answerable, "--text", text, "--loss-gate", 0.01) == 0
        base, nothing, noise = json.loads((run / "eval/sweep/sweep.json").read_text())["points"]
        assert base["loss_rise"] is None
        # an adapter that adds nothing forgets nothing
        assert nothing["loss_rise"] == pytest.approx(0, abs=1e-6)
        assert (nothing["passed"], noise["passed"]) == (True, False)
        assert noise["loss_rise"] == pytest.approx(noise["loss"] - base["loss"])
        assert abs(noise["loss_rise"]) > 0.1
        assert "nats a token" in capsys.readouterr().out

    def test_answers_may_be_as_long_as_the_runs_longest_row(self, run, problems, small):
        (run / "data.json").write_text(json.dumps({"audit": {"longest": 140, "seq_length": 256}}))
        words = ["--ckpt", run, "--math", problems, "--squad", small, "--limit", 1, "--device", "cpu"]
        with contextlib.suppress(GateNotPassed):
            command.main([str(word) for word in words])
        assert json.loads((run / "eval/sweep/sweep.json").read_text())["max_new_tokens"] == 140

    def test_when_none_keeps_enough_it_leaves_with_3(self, run, problems, answerable):
        shutil.rmtree(run / "checkpoints" / "step-000002")
        with pytest.raises(GateNotPassed, match=r"no checkpoint keeps 0\.9"):
            self.sweep(run, problems, answerable)
        assert json.loads((run / "eval" / "sweep" / "sweep.json").read_text())["best"] is None

    def test_the_contests_own_form_by_name(self, run, problems, small):
        self.sweep(run, problems, small, "--squad-template", "squad", "--limit", 1, "--threshold", 1e-9)
        for step in (0, 2, 4):
            folder = run / "eval" / "sweep" / f"step-{step:06d}"
            hashes = json.loads((folder / "squad" / "results.json").read_text())["hashes"]
            assert hashes["template"].startswith("squad ")
            assert hashes["rows"] == 1
            assert json.loads((folder / "math" / "results.json").read_text())["hashes"]["template"].startswith("bare ")
