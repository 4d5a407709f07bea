"""The page of a run: what is in it, what is missing, and hostile text."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_run import (
    HOSTILE,
    made,
    squad_results,
    turn,
    write_json,
)

from backends.run.log import running_mean
from converters.common.errors import UsageError, UserError
from converters.text.template import get_template
from eval.report import cli as report
from eval.report.build import build_report, script_json
from eval.report.compared import compare, rows_table, wrong_answers
from eval.report.data import find_evaluations, question_of
from eval.report.plots import Curve, loss_plots, plot


class Outline(html.parser.HTMLParser):
    """Collects tags, attributes and the text in order; complains of tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text, self.scripts = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += [(name, *pair) for pair in attributes]
        if name not in ("meta", "br", "input"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)
        elif self.open[-1] == "script":
            self.scripts.append(data)


def test_the_page_has_what_was_learned_and_kept(run, tmp_path):
    outline = Outline(made(run, "--before", tmp_path / "before"))
    text = re.sub(r"\s+", " ", " ".join(outline.text)).strip()
    assert text.startswith("my run: report my run LoRA on models/base, template vicuna, finished.")
    for found in (
        "10.0 → 75.0 % math, close",
        "40.0 → 80.0 % choice_rte, accuracy",
        "4.000 → 0.044 loss, first → last step",
        "81,920 trained parameters",
        "1 h 02 min time in steps",
        "eq solve (20) 10.0 75.0",
        "direct computation (20) 10.0 75.0",
        "all (40) 10.0 75.0",
        "label → yes → no → unparsed yes 8 0 2 no 0 16 4",
        "F1 92.0 % 88.0 % 0.957",
        "Kept : every measure must be at least 0.9",
        "row 30, eq solve 解方程 2x + 60 = 0 right 方程的解为：-30 answered",
        "[…cut at the limit]",
        "math: math1.jsonl: 10 of 10 wrong answers to 40 questions",
        "dropped 1 (rows r7, …)",
        "tokens 100, of them supervised 60 (60.0%)",
        "10 to 20 3 21 to 31 6",
        "load_checkpoint: models/base # <not a tag>",
        "packages torch 2.6",
    ):
        assert found in text
    assert "learning rate" in text
    assert outline.tags.count("svg") == 2
    assert "code None" not in text


def test_a_loss_stands_with_what_was_kept(run, tmp_path):
    from backends.checkpoint.fingerprint import fingerprint
    from eval.loss.task import LossTask
    from eval.run import grade_predictions

    own = fingerprint([run / "adapter_model.safetensors"])
    for folder, more, who in (
        (tmp_path / "before" / "loss", 0.0, {"checkpoint": "base-hash", "base": None}),
        (run / "eval" / "loss-book", 0.04, {"checkpoint": own, "base": "base-hash"}),
    ):
        pairs = [((2.5 + i / 10 + more) * n, n) for i, n in enumerate((100, 150, 50))]
        rows = [{"idx": i, "id": str(i), "prompt": "p", **LossTask().measured_row(*one)} for i, one in enumerate(pairs)]
        folder.mkdir()
        path = folder / "predictions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        identity = {"data": "book", "labels": "l", "rows": 3, **who}
        write_json(path.with_suffix(".meta.json"), {"complete": True, "identity": identity, "data": "book.txt"})
        grade_predictions(LossTask(), path, out=folder)
    page = made(run, "--before", tmp_path / "before", "--loss-gate", "0.05")
    text = re.sub(r"\s+", " ", " ".join(Outline(page).text))
    assert "2.5833 → 2.6233 loss of book, nats a token" in text
    assert "nats a token 2.5833 2.6233 +0.0400 +0.0400 to +0.0400 3" in text
    assert "Kept : the loss may rise by 0.05 nats a token at most." in text
    assert "loss of book: 0 of 0 wrong" not in text


def test_nothing_is_fetched_and_nothing_foreign_runs(run, tmp_path):
    whole = made(run, "--before", tmp_path / "before")
    outline = Outline(whole)
    assert not {"img", "link", "iframe", "object", "base", "form", "a"} & set(outline.tags)
    assert not [
        one for one in outline.attributes if one[1] in ("src", "href", "srcset", "action") or one[1][:2] == "on"
    ]
    assert "http://" not in whole
    assert "https://" not in whole
    assert "url(" not in whole
    assert "@import" not in whole
    # one script is data, the other is the one that the policy names
    assert len(outline.scripts) == 2
    digest = base64.b64encode(hashlib.sha256(outline.scripts[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("meta", "content", policy) in outline.attributes
    assert ("script", "type", "application/json") in outline.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in outline.attributes
    # what a model wrote is shown, not obeyed
    assert HOSTILE in "".join(outline.text)


def test_every_graded_row_is_in_the_page(run, tmp_path):
    data = json.loads(Outline(made(run, "--before", tmp_path / "before")).scripts[0])
    assert data["tasks"] == ["choice_rte", "math: math1.jsonl", "squad (official): reading.jsonl"]
    assert len(data["rows"]) == 30 + 40 + 50
    kinds = [(data["tasks"][row[0]], data["kinds"][row[1]], row[2]) for row in data["rows"]]
    assert kinds[0] == ("choice_rte", "label yes", 0)
    assert kinds[30] == ("math: math1.jsonl", "eq solve", 0)
    assert kinds[-1] == ("squad (official): reading.jsonl", "", 49)
    right = ["答案：-6", True, ""]
    wrong = [HOSTILE, False, ""]
    assert data["rows"][30 + 6][3:] == ["解方程 2x + 12 = 0", "方程的解为：-6", wrong, right]
    assert data["rows"][30 + 39][5:] == [[wrong[0], False, "cut at the limit"]] * 2
    assert data["rows"][70 + 45][3:] == ["?", "blue sky", ["blue sky", True, ""], ["green", False, ""]]


def test_grades_that_differ_from_the_verdict_are_said(run):
    [one] = find_evaluations([run / "eval" / "math-test"])
    one.predictions[0]["correct"] = {"exact": False, "close": True, "sig4": False}
    one.predictions[0]["finish_reason"] = "length"
    assert (one.rows(None)[0].correct, one.rows(None)[0].grades) == (True, "not exact, close, not sig4")
    assert rows_table(compare([one], []), None)["rows"][0][6][2] == "not exact, close, not sig4, cut at the limit"
    [one] = find_evaluations([run / "eval" / "squad-reading"])
    one.predictions[0]["scores"] = {"squad_official": {"f1": 200 / 3, "em": 0.0}}
    assert (one.rows(None)[0].correct, one.rows(None)[0].grades) == (False, "F1 67")


def test_rows_of_one_side_alone_are_in_the_table(run, tmp_path):
    [after] = find_evaluations([run / "eval" / "math-test"])
    assert [row[5] for row in rows_table(compare([after], []), None)["rows"]] == [None] * 40
    (run / "eval" / "math-test" / "predictions.jsonl").unlink()
    [after] = find_evaluations([run / "eval" / "math-test"])
    found = rows_table(compare([after], find_evaluations([tmp_path / "before"])), None)["rows"]
    assert [row[5][1] for row in found] == [True] * 4 + [False] * 36
    assert [row[6] for row in found] == [None] * 40


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_json_in_a_script_is_harmless_and_whole(value):
    value = [value, "</script><!-- ]]> & \u2028\u2029"]
    text = script_json(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: c not in "\r\x00")))
def test_text_is_escaped(text):
    picture = plot([Curve("mark", [(0, 1), (1, 2)])], title=text, height=80)
    assert "".join(Outline(picture).text).startswith(text)
    assert Outline(picture).tags.count("title") == 1


def test_before_is_found_by_itself_where_it_is_of_the_same_base(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "before" / "math", tmp_path / "runs" / "eval" / "base" / "math")
    assert "10.0 → 75.0 %" in made(run)
    assert "3 evaluations, 1 with a before" in capsys.readouterr().err
    # the base may be a run itself
    shutil.copytree(tmp_path / "before" / "squad", tmp_path / "models" / "base" / "eval" / "squad")
    assert "92.0 → 88.0 %" in made(run)
    # of another base: not taken
    for file in [*(tmp_path / "runs").rglob("results.json"), *(tmp_path / "models").rglob("results.json")]:
        file.write_text(file.read_text().replace("base-hash", "other-hash"))
    assert "→ 75.0" not in (whole := made(run))
    assert "→ 88.0" not in whole


def test_results_of_other_weights_are_left_out(run, capsys):
    squad_results(run / "eval" / "sweep" / "step-000010" / "squad", 10, {"checkpoint": "early", "base": "base-hash"})
    capsys.readouterr()
    assert "20.0 %" not in made(run)
    assert "1 of 4 results under" in capsys.readouterr().err


def test_the_same_evaluation_twice_is_shown_once(run):
    shutil.copytree(run / "eval" / "math-test", run / "eval" / "sweep" / "step-000090" / "math")
    assert made(run).count("direct computation (20)") == 1


def test_a_sweep_is_drawn(run):
    point = {"f1": 1.0, "em": 1.0, "f1_kept": None, "em_kept": None, "passed": None, "score": None}
    points = [
        {**point, "step": 0, "accuracy": 0.0},
        {**point, "step": 90, "accuracy": 0.75, "f1_kept": 0.97, "score": 0.82},
    ]
    write_json(run / "eval" / "sweep" / "sweep.json", {"points": points, "best": 90})
    text = " ".join(Outline(made(run)).text)
    assert "Over its checkpoints" in text
    assert "90 best 75.0 97.0 – 0.8200" in text


def test_what_is_not_alike_is_said(run, tmp_path):
    for file in (tmp_path / "before").rglob("results.json"):
        file.write_text(file.read_text().replace("vicuna 9b48", "bare e571").replace("base-hash", "other"))
    text = " ".join(Outline(made(run, "--before", tmp_path / "before")).text)
    assert "Note: template was bare e571 before and vicuna 9b48 after." in text
    assert "the model before is not the base of the model after" in text
    # reading asked in another way is no retention
    assert "Kept :" not in text
    assert "the results differ in template" in text


def test_too_much_forgotten_is_said(run, tmp_path):
    text = " ".join(Outline(made(run, "--before", tmp_path / "before", "--threshold", 0.99)).text)
    assert "Not kept : every measure must be at least 0.99" in text


def test_a_run_that_is_not_finished_and_not_evaluated(run):
    for name in ("result.json", "data.json", "environment.json"):
        (run / name).unlink()
    shutil.rmtree(run / "eval")
    text = " ".join(Outline(made(run)).text)
    assert "not finished: step 90 of 90" in text
    assert "no evaluation of a task yet" in text
    assert "no evaluation of its reading yet" in text
    (run / "train_log.jsonl").unlink()
    text = " ".join(Outline(made(run)).text)
    assert "not finished: no step yet" in text
    assert "There is no step in train_log.jsonl." in text


def test_predictions_that_were_changed_are_not_shown(run, capsys):
    file = run / "eval" / "math-test" / "predictions.jsonl"
    file.write_text(file.read_text() + "\n")
    assert "math: math1.jsonl: the predictions are not beside the results" in made(run)
    assert "not the predictions that results.json was made from" in capsys.readouterr().err


def test_a_broken_file_among_the_runs_own_is_left_out_and_said(run, capsys):
    (run / "eval" / "math-test" / "results.json").write_text('{"results": ')
    assert "40.0" not in made(run)
    assert "left out: " in capsys.readouterr().err
    (run / "eval" / "math-test" / "results.json").write_text("[]")
    made(run)
    assert "not a results.json of an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nowhere"], UsageError, "nowhere: no such run directory"),
        (["RUN", "--before", "nowhere"], UsageError, "nowhere: no such file"),
        (["RUN", "--before", "EMPTY"], UsageError, r"no results\.json there or below"),
        (["RUN", "--after", "RUN/data.json"], UserError, r"data\.json: not a results\.json of an evaluation"),
        (["RUN", "--wrong", "-1"], UsageError, "--wrong -1"),
        (["RUN", "--threshold", "0"], UsageError, "--threshold 0"),
        (["EMPTY"], UsageError, r"it has no recipe\.yaml"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(run, tmp_path, arguments, error, message):
    (tmp_path / "empty").mkdir()
    words = [word.replace("RUN", str(run)).replace("EMPTY", str(tmp_path / "empty")) for word in arguments]
    with pytest.raises(error, match=message) as caught:
        report.main(words)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_wrong_answers_come_from_every_kind_in_turn(run):
    [one] = find_evaluations([run / "eval" / "math-test"])
    chosen, count = wrong_answers(one.rows(get_template("vicuna")), 5)
    assert count == 10
    assert [wrong.name for wrong in chosen] == [
        "row 30, eq solve", "row 31, direct computation", "row 32, eq solve", "row 33, direct computation",
        "row 34, eq solve",
    ]  # fmt: skip
    # a choice: in turn by what would have been right
    [one] = find_evaluations([run / "eval" / "choice-rte"])
    chosen, count = wrong_answers(one.rows(None), 3)
    assert [(wrong.label, wrong.answer) for wrong in chosen] == [
        (label, "I know not") for label in ("yes", "no", "yes")
    ]
    assert count == 6


def test_rows_of_other_data_are_not_compared(run, tmp_path):
    after, before = find_evaluations([run / "eval"]), find_evaluations([tmp_path / "before"])
    assert all(one.before is not None for one in compare(after, before))
    for one in before:
        one.value["hashes"]["data"] = "other"
    assert all(one.before is None for one in compare(after, before))


@pytest.mark.parametrize("name", ["bare", "vicuna", "alpaca", "llama3", "chatml", "gemma"])
def test_the_question_is_taken_out_of_its_template(name):
    template = get_template(name)
    question = "1 + 1?\n\nUSER: why? ASSISTANT"
    segments = template.prompt([turn(question)])
    prompt = "".join("<|begin_of_text|>" if one.text == "BOS" else one.text for one in segments)
    assert question_of(prompt, template) == question
    assert question_of("something else", get_template("vicuna")) == "something else"
    assert question_of(prompt, None) == prompt


def test_running_mean_by_hand():
    assert running_mean([1.0, 3.0]) == [1.0, 3.0]
    values = [float(i * i) for i in range(160)]  # a window of two to each side
    mean = running_mean(values)
    assert mean[0] == (0 + 1 + 4) / 3
    assert mean[10] == pytest.approx((64 + 81 + 100 + 121 + 144) / 5)
    assert mean[-1] == pytest.approx((157**2 + 158**2 + 159**2) / 3)
    assert len(mean) == 160


@pytest.mark.parametrize("steps", [1, 2, 5000])
def test_the_loss_is_drawn(steps):
    log = [{"step": i, "loss": 1 + 9 / i, "lr": 1e-3 / i} for i in range(1, steps + 1)]
    pictures = loss_plots(log)
    assert pictures == loss_plots(log)  # the same log, the same text
    text = Outline(pictures["loss"]).text
    assert text[0] == f"Loss from 10.0000 at step 1 to {1 + 9 / steps:.4f} at step {steps}"
    assert len(pictures["loss"]) < 40_000
    for colour in ("before", "after", "line", "soft"):
        assert f"var(--{colour})" in pictures["loss"]
    assert not {"style", "use", "clipPath"} & set(Outline(pictures["loss"]).tags)
    # no rate in the log, no picture of it
    assert list(loss_plots([{"step": 1, "loss": 1.0}])) == ["loss"]


@pytest.mark.parametrize(("losses", "labels"), [([3.0, 2.0, 1.0], "0"), ([100.0, 10.0, 1.0], "100"), ([5.0] * 3, "0")])
def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_scale(losses, labels):
    picture = loss_plots([{"step": i, "loss": loss} for i, loss in enumerate(losses)])["loss"]
    numbers = [text.strip() for text in Outline(picture).text[1:] if text.strip()]
    assert labels in numbers
    assert ("0" in numbers[3:]) == (labels == "0")


def test_a_report_is_a_value_and_writes_nothing(run, tmp_path, capsys):
    before = [tmp_path / "before" / "math", tmp_path / "before" / "squad"]
    report = build_report(run, before=before, after=[run / "eval" / "math-test"], wrong=3)
    assert report.html.startswith("<!doctype html>")
    assert [one.before is not None for one in report.evaluations] == [True]
    assert report.missing == ("evaluations of reading",)
    assert report.notes == ("1 of 2 results before training have no counterpart of the same rows after it",)
    assert not (run / "report.html").exists()
    assert capsys.readouterr().err == ""


def test_help_is_light():
    line = [sys.executable, "-X", "importtime", "-m", "eval.report", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "polars", "tokenizers", "matplotlib", "jinja2", "yaml"}
    assert "examples:" in done.stdout
