"""The command: scoring files without torch, the gate, and asking a tiny model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from converters.common.errors import GateNotPassed, UsageError, UserError
from converters.text.template import get_template
from eval.squad import __main__ as squad
from eval.squad.data import Question
from eval.squad.gate import CONTEST_LABELS, contest_gate
from eval.squad.scores import Tally, labels_hash
from eval.squad.task import reading_turn

LOG = (
    '{"pred": "Ann", "label": "Ann"}\n{"pred": "", "label": "May"}\n{"pred": "the Alder\\n\\n###", "label": "Alder"}\n'
)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(LOG)
    return path


def test_scoring_prints_the_protocol_beside_every_figure_and_writes_nothing(log, capsys):
    assert squad.main(["--predictions", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["protocol", "n", "F1", "EM", "empty", "%", "cut", "%"]
    assert lines[2].split() == ["mindformers", "3", "50.00", "33.33", "33.3", "-"]
    assert lines[4].startswith("mindformers: F1 score: 50.0, Em score: 33.3333")
    assert lines[4].endswith("total_count: 3")
    assert lines[6] == "asked: not known, the predictions do not say"
    assert lines[7].startswith("gate: none; the contest's is for Llama-3-8B and nothing says which model this is")
    assert list(log.parent.iterdir()) == [log]


def test_both_protocols_side_by_side(tmp_path, small, capsys):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"a1": "Ann, with 3", "a2": "a Ben.", "b1": "May", "c1": "", "c2": "x"}))
    arguments = ["--predictions", path, "--data", small, "--protocol", "both", "--out", tmp_path / "out"]
    assert squad.main([str(word) for word in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["mindformers", "3"]
    assert lines[3].split() == ["official", "5", "60.00", "60.00", "20.0", "-"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["results"]["squad_official"]["em,none"] == pytest.approx(60)
    assert results["results"]["squad_mindformers"]["em,none"] == pytest.approx(100 / 3)
    assert results["configs"]["squad_official"]["unit"] == "percent"
    assert results["n-samples"]["squad_official"]["effective"] == 5
    assert results["hashes"]["protocol"] == "both"
    assert results["gate"] is None


def test_the_official_protocol_grades_whole_answers(reading_set, tmp_path, capsys):
    """SQuAD's own rule: a line break is a space. 1, 2·(2/3)/(5/3) = 0.8 and 1 are the F1 of the three."""
    questions = [
        ("a1", "What does the tank hold?", ["sulfuric acid, H\n2SO\n4"]),
        ("a2", "What is in the second tank?", ["water, H\n2O"]),
        ("a3", "How warm is it?", ["20 degrees"]),
    ]
    data, path = tmp_path / "dev.json", tmp_path / "p.json"
    data.write_text(json.dumps(reading_set(("The tank holds sulfuric acid, H\n2SO\n4, at 20 degrees.", questions))))
    path.write_text(json.dumps({"a1": "sulfuric acid, H\n2SO\n4", "a2": "H\n2O", "a3": "20 degrees"}))
    arguments = ["--predictions", path, "--data", data, "--protocol", "official", "--out", tmp_path / "out"]
    assert squad.main([str(word) for word in arguments]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["results"]["squad_official"]["em,none"] == pytest.approx(200 / 3)
    assert results["results"]["squad_official"]["f1,none"] == pytest.approx(280 / 3)
    assert results["configs"]["squad_official"]["graded"] == "whole answer"
    assert "graded: whole answer" in capsys.readouterr().out


@pytest.mark.parametrize(("f1", "em", "passed"), [(50, 33, True), (50.1, 33, False), (50, 33.4, False)])
def test_a_gate_needs_both_measures(log, tmp_path, capsys, f1, em, passed):
    arguments = ["--predictions", str(log), "--gate", str(f1), str(em), "--out", str(tmp_path / "out")]
    if passed:
        assert squad.main(arguments) == 0
    else:
        with pytest.raises(GateNotPassed, match="NOT passed") as caught:
            squad.main(arguments)
        assert caught.value.exit_code == 3
    # the figures are there either way
    assert ("NOT passed" in capsys.readouterr().out.splitlines()[-1]) is not passed
    gate = json.loads((tmp_path / "out" / "results.json").read_text())["gate"]
    assert gate == {"protocol": "mindformers", "f1": f1, "em": em, "source": "--gate", "passed": passed}


class TestContestGate:
    META = {  # noqa: RUF012
        "identity": {"template": "squad 00", "max_new_tokens": 20, "min_new_tokens": 0},
        "parameters": {"base": 8_030_261_248, "trainable": 3_407_872},
    }

    def meta(self, **identity):
        return {**self.META, "identity": {**self.META["identity"], **identity}}

    def test_it_holds_for_llama_3_8b_in_the_contests_own_form(self):
        gate, _ = contest_gate(CONTEST_LABELS, self.META)
        assert (gate.f1, gate.em) == (53.88321397598089, 39.75326560232221)
        # the contest's tuned run, and the same a little lower
        assert gate.passed(Tally([0.584921336310527], [0.4329946782776972]))
        assert not gate.passed(Tally([0.584921336310527], [0.397]))

    @pytest.mark.parametrize(
        ("labels", "identity", "why"),
        [
            ("other", {}, "for all 2,067 first questions of dev-v1.1.json"),
            (CONTEST_LABELS, {"template": "vicuna 00"}, "--template squad; this was asked in vicuna"),
            (CONTEST_LABELS, {"max_new_tokens": 30}, "for 20 new tokens, not 30"),
        ],
    )
    def test_it_does_not_for_anything_else(self, labels, identity, why):
        gate, said = contest_gate(labels, self.meta(**identity))
        assert gate is None
        assert why in said

    def test_another_base_is_referred_to_its_own_before(self):
        gate, said = contest_gate(CONTEST_LABELS, {**self.META, "parameters": {"base": 1234567}})
        assert gate is None
        assert "1,234,567 parameters; eval.retention" in said

    def test_min_new_tokens_does_not_void_it_but_is_said(self):
        gate, _ = contest_gate(CONTEST_LABELS, self.meta(min_new_tokens=1))
        assert "min_new_tokens off" in gate.source
        assert "min_new_tokens off" not in contest_gate(CONTEST_LABELS, self.META)[0].source

    def test_a_log_of_such_a_run_is_held_against_it(self, squad_files, tmp_path, capsys):
        path = tmp_path / "predictions.jsonl"
        shutil.copy(squad_files / "llama3_8b_base_predictions.jsonl", path)
        path.with_suffix(".meta.json").write_text(json.dumps({"complete": True, **self.META}))
        assert squad.main(["--predictions", str(path)]) == 0
        out = capsys.readouterr().out
        assert "F1 score: 59.87023775108988, Em score: 44.17029511369134, total_count: 2067" in out
        assert out.splitlines()[-2].startswith(
            "asked: template squad (the contest's own form, no BOS), greedy, at most 20"
        )
        assert out.splitlines()[-1].endswith("F1 59.8702 >= 53.8832, EM 44.1703 >= 39.7533: passed")


def test_what_was_asked_is_known_by_its_labels_whatever_the_file(small, tmp_path):
    from eval.squad.data import read_answers

    by_id, rows = tmp_path / "id.json", tmp_path / "rows.jsonl"
    by_id.write_text(json.dumps({"a1": "", "b1": "", "c1": ""}))
    rows.write_text("".join(json.dumps({"pred": "x", "label": label}) + "\n" for label in ("Ann", "May", "the Alder")))
    first, second = read_answers(by_id, small, only_first=True), read_answers(rows, None, only_first=True)
    assert labels_hash(first) == labels_hash(second) != labels_hash(first[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --ckpt and --predictions"),
        (["--ckpt", "a", "--predictions", "b"], "one of --ckpt and --predictions"),
        (["--ckpt", "nowhere"], "nowhere: no such run or model directory"),
        (["--ckpt", "nowhere", "--limit", "0"], "--limit 0"),
        (["--ckpt", "nowhere", "--data", "nothing.json"], "nothing.json: no such file"),
        (["--predictions", "nothing.json"], "nothing.json: no such file"),
    ],
)
def test_wrong_use_is_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        squad.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("eval.squad", ["--help"]),
        ("eval.squad", ["--predictions", "LOG"]),
        ("eval.retention", ["--help"]),
    ],
)
def test_neither_help_nor_scoring_imports_anything_heavy(log, module, arguments):
    line = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        module,
        *(str(log) if word == "LOG" else word for word in arguments),
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "argparse" in imported
    heavy = {"torch", "transformers", "numpy", "polars", "tokenizers", "tiktoken", "peft", "yaml", "matplotlib"}
    assert not imported & heavy
    if "--help" in arguments:
        assert "examples:" in done.stdout
        assert "jieba" not in imported


def test_an_empty_line_in_a_question_is_refused_where_it_would_move_the_passage():
    question = Question("q7", "a passage", "one\n\ntwo", ("x",), True)
    with pytest.raises(UserError, match="question q7 has an empty line"):
        reading_turn(question, get_template("squad"))
    assert reading_turn(question, get_template("bare")).text == question.prompt


def test_the_published_questions_all_fit_the_contests_form(squad_files):
    from eval.squad.data import read_questions

    template = get_template("squad")
    for question in read_questions(squad_files / "dev-v1.1.json"):
        reading_turn(question, template)


def test_llama_3_reads_the_contests_tokens_in_the_contests_form(squad_files):
    from converters.tokenizers.load import load_tokenizer
    from eval.squad.data import choose, read_questions
    from mindrecord.tokens.encode import encode_prompts

    model = squad_files.parent / "llama3" / "tokenizer.model"
    if not model.is_file():
        pytest.skip(f"no genuine Llama-3 tokenizer at {model}")
    tokenizer, template = load_tokenizer(model), get_template("squad")
    questions = choose(read_questions(squad_files / "dev-v1.1.json"), only_first=True, limit=None)[::20]
    asked = encode_prompts([[reading_turn(question, template)] for question in questions], template, tokenizer)
    assert asked == tokenizer.encode_batch([question.prompt for question in questions])  # no BOS, nothing added


@pytest.mark.backend
class TestWithAModel:
    @pytest.fixture
    def model(self, tiny_llama, tmp_path):
        """A model that says that it was trained in ``bare``."""
        folder = tmp_path / "model"
        shutil.copytree(tiny_llama, folder)
        (folder / "template.json").write_text(json.dumps(get_template("bare").to_json()))
        return folder

    def evaluate(self, model, data, out, *more):
        arguments = ["--ckpt", model, "--data", data, "--out", out, "--device", "cpu", *more]
        assert squad.main([str(word) for word in arguments]) == 0
        return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]

    def test_by_default_it_is_asked_as_it_was_trained(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out")
        assert [row["id"] for row in rows] == ["a1", "b1", "c1"]
        assert rows[1]["prompt"] == (
            "<|begin_of_text|>Read the passage and answer the question below.\n\n### Instruction:\nThe fair is in May."
            "\n\n### Input:\nWhen is the fair?\n\n### Response:"
        )
        assert all(row["n_tokens"] <= 20 for row in rows)
        out = capsys.readouterr().out
        assert "asked: template bare (around the contest's reading prompt), greedy, at most 20 new tokens" in out
        assert "min_new_tokens off" in out
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["hashes"]["template"].startswith("bare ")
        assert results["configs"]["squad_mindformers"]["generation_kwargs"]["max_new_tokens"] == 20
        assert results["results"]["squad_mindformers"]["cut,none"] is not None
        assert results["config"]["parameters"]["base"] > 0

        # from the files alone the same comes out
        assert squad.main(["--predictions", str(tmp_path / "out" / "predictions.jsonl")]) == 0
        assert capsys.readouterr().out == out
        with pytest.raises(UserError, match="asked for the mindformers protocol"):
            squad.main(["--predictions", str(tmp_path / "out" / "predictions.jsonl"), "--protocol", "official"])

    def test_the_contests_own_form_has_no_bos_and_is_had_by_its_name(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--template", "squad")
        assert rows[0]["prompt"].startswith("Read the passage")
        captured = capsys.readouterr()
        assert "was trained in template bare" in captured.err
        assert "template squad (the contest's own form, no BOS)" in captured.out
        with pytest.raises(UserError, match=r"was trained in template bare .* not vicuna"):
            squad.main(
                ["--ckpt", str(model), "--data", str(small), "--template", "vicuna", "--out", str(tmp_path / "x")]
            )

    def test_both_protocols_from_one_pass_and_the_file_that_others_read(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--protocol", "both")
        assert [row["id"] for row in rows] == ["a1", "a2", "b1", "c1", "c2"]
        assert [sorted(row["scores"]) for row in rows[:2]] == [
            ["squad_mindformers", "squad_official"],
            ["squad_official"],
        ]
        answers = tmp_path / "out" / "answers.json"
        assert json.loads(answers.read_text()) == {row["id"]: row["predict"].strip().split("\n")[0] for row in rows}
        table = capsys.readouterr().out.splitlines()[:4]
        squad.main(["--predictions", str(answers), "--data", str(small), "--protocol", "both"])
        again = capsys.readouterr().out.splitlines()[:4]
        assert [line.split()[:5] for line in again[2:]] == [line.split()[:5] for line in table[2:]]

    def test_a_limit_gives_as_many_rows_under_each_protocol(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--protocol", "both", "--limit", 2)
        assert [(row["id"], sorted(row["scores"])) for row in rows] == [
            ("a1", ["squad_mindformers", "squad_official"]),
            ("a2", ["squad_official"]),
            ("b1", ["squad_mindformers"]),
        ]
        table = capsys.readouterr().out.splitlines()[:4]
        assert [line.split()[1] for line in table[2:]] == ["2", "2"]
        # the file alone gives the same, and each protocol's part of it
        path = str(tmp_path / "out" / "predictions.jsonl")
        squad.main(["--predictions", path, "--protocol", "both"])
        assert capsys.readouterr().out.splitlines()[:4] == table
        squad.main(["--predictions", path, "--protocol", "official"])
        assert capsys.readouterr().out.splitlines()[2].split() == table[3].split()

    def test_both_protocols_on_first_questions_alone(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--protocol", "both", "--first-only")
        assert [row["id"] for row in rows] == ["a1", "b1", "c1"]
        assert all(sorted(row["scores"]) == ["squad_mindformers", "squad_official"] for row in rows)
        said = capsys.readouterr().out
        assert "here on the first question of each passage" in said
        again = ["--protocol", "both", "--first-only"]
        squad.main(["--predictions", str(tmp_path / "out" / "predictions.jsonl"), *again])
        assert capsys.readouterr().out == said
        squad.main(["--predictions", str(tmp_path / "out" / "answers.json"), "--data", str(small), *again])
        assert capsys.readouterr().out.splitlines()[2].split()[:4] == said.splitlines()[2].split()[:4]
        # what was asked for the mindformers protocol alone holds all that the other needs
        self.evaluate(model, small, tmp_path / "one")
        capsys.readouterr()
        squad.main(["--predictions", str(tmp_path / "one" / "predictions.jsonl"), *again])
        assert capsys.readouterr().out.splitlines()[:4] == said.splitlines()[:4]
        with pytest.raises(UserError, match="made with questions first, not None"):
            self.evaluate(model, small, tmp_path / "out", "--protocol", "both")

    def test_another_prompt_is_recorded_with_the_figures(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--protocol", "both", "--prompt", "short")
        assert rows[0]["prompt"].startswith("<|begin_of_text|>Passage: The Oakdale Bridge was opened")
        assert "Answer: Maria Lund\n\nPassage: Copper" in rows[0]["prompt"]
        assert rows[0]["prompt"].endswith(
            "\n\nPassage: Ann has 3 cats. Ben has a dog.\nQuestion: Who has cats?\nAnswer:"
        )
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["hashes"]["prompt"].startswith("short ")
        for protocol, graded in (("mindformers", "first line"), ("official", "first line, where the prompt ends")):
            config = results["configs"][f"squad_{protocol}"]
            assert config["prompt"] == "short"
            assert config["graded"].startswith(graded)
        said = capsys.readouterr().out
        assert "template bare (around five examples with short answers, as text to continue)" in said
        assert "graded: first line, where the prompt ends an answer" in said
        # regraded by the same rule, which the file's record names
        squad.main(["--predictions", str(tmp_path / "out" / "predictions.jsonl"), "--protocol", "both"])
        assert capsys.readouterr().out == said
        with pytest.raises(UserError, match="made with prompt short"):
            self.evaluate(model, small, tmp_path / "out", "--protocol", "both")
        with pytest.raises(UsageError, match="--template squad holds the contest's prompt alone"):
            self.evaluate(model, small, tmp_path / "x", "--prompt", "short", "--template", "squad")

    def test_the_short_prompt_is_plain_text_whatever_the_template_of_the_model(self, model, small, tmp_path, capsys):
        (model / "template.json").write_text(json.dumps(get_template("vicuna").to_json()))
        rows = self.evaluate(model, small, tmp_path / "out", "--prompt", "short")
        assert rows[0]["prompt"].startswith("<|begin_of_text|>Passage: The Oakdale Bridge")
        assert "asking in bare all the same" in capsys.readouterr().err
        named = self.evaluate(model, small, tmp_path / "named", "--prompt", "short", "--template", "vicuna")
        assert " ASSISTANT:" in named[0]["prompt"]

    def test_it_goes_on_and_refuses_to_mix(self, model, small, tmp_path, capsys):
        out = tmp_path / "out"
        rows = self.evaluate(model, small, out, "--protocol", "both")
        file = out / "predictions.jsonl"
        file.write_text("".join(json.dumps({**row, "predict": "kept"}) + "\n" for row in rows[:2]) + '{"idx": 2, "i')
        again = self.evaluate(model, small, out, "--protocol", "both")
        assert [row["predict"] for row in again] == ["kept", "kept", *(row["predict"] for row in rows[2:])]
        assert "2 of 5 rows are there already, 3 to go" in capsys.readouterr().err
        with pytest.raises(UserError, match="made with protocol both, not mindformers"):
            self.evaluate(model, small, out)

    def test_no_empty_answer_with_min_new_tokens(self, model, small, tmp_path, capsys):
        rows = self.evaluate(model, small, tmp_path / "out", "--min-new-tokens", 3)
        assert min(row["n_tokens"] for row in rows) >= 3
        assert "min_new_tokens 3" in capsys.readouterr().out

    def test_the_shipped_set_is_the_default(self, model, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert squad.main(["--ckpt", str(model), "--limit", "2", "--device", "cpu"]) == 0
        assert "data: reading.json, the shipped reading set" in capsys.readouterr().err
        results = json.loads(Path("runs/eval/model/squad-reading-limit2/results.json").read_text())
        assert results["n-samples"]["squad_mindformers"]["effective"] == 2
