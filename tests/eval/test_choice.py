"""The command: grading files without torch, answering with a tiny model, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from converters.common.errors import UsageError, UserError
from eval.choice import __main__ as choice
from eval.choice.task import ChoiceTask

# the published scorer of entailment looked for "no" anywhere in the answer, before "maybe"
ENTAILMENT = [
    {"instruction": "q", "expected_output": "maybe", "model_output": "I do not know, maybe.", "idx": 0},
    {"instruction": "q", "expected_output": "no", "model_output": "No.", "idx": 1},
    {"instruction": "q", "expected_output": "yes", "model_output": "It is unknown.", "idx": 2},
    {"instruction": "q", "expected_output": "yes", "model_output": "yes", "idx": 3},
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments):
    return choice.main([str(word) for word in arguments])


@pytest.fixture
def predictions(tmp_path):
    return write_jsonl(tmp_path / "entailment.jsonl", ENTAILMENT)


def test_other_tools_files_are_graded_by_whole_words(predictions, capsys):
    assert run("--predictions", predictions, "--choices", "yes,no,maybe") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["label", "n", *"precision recall F1 → yes → no → maybe → unparsed".split()]
    assert out[2].split() == ["yes", "2", "100.0", "50.0", "66.7", "1", "0", "0", "1"]
    assert out[4].split() == ["maybe", "1", "100.0", "100.0", "100.0", "0", "0", "1", "0"]
    assert out[6].startswith("accuracy: 75.0 % (95 %: 30.1 to 95.4), 3 of 4 rows; always 'yes' would be 50.0 %")
    assert "macro-F1: 88.9; Matthews correlation: 0.7303; F1 of 'yes': 66.7" in out[7]
    assert out[8] == "unparsed: 1 of 4 rows name no choice and count as wrong"
    # nothing is written unless asked for
    assert list(predictions.parent.iterdir()) == [predictions]


def test_the_choices_come_from_the_labels_and_are_said(predictions, capsys):
    run("--predictions", predictions)
    assert "its labels are the choices: yes, maybe, no" in capsys.readouterr().err


def test_results_and_table_are_files(predictions, tmp_path):
    run("--predictions", predictions, "--choices", "yes,no,maybe", "--positive", "maybe", "--out", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = results["results"]["choice_entailment"]
    assert figures["acc,none"] == 0.75
    assert figures["f1,none"] == 1.0
    assert figures["unparsed,none"] == 0.25
    assert figures["acc_wilson95,none"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert results["n-samples"]["choice_entailment"] == {"original": 4, "effective": 4}
    assert results["counts"]["confusion"]["yes"] == {"yes": 1, "no": 0, "maybe": 0, "unparsed": 1}
    assert len(results["hashes"]["predictions"]) == 64
    assert results["environment"]["python"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| yes | 2 | 100.0 | 50.0 | 66.7 | 1 | 0 | 0 | 1 |" in table
    assert "- accuracy: 75.0 %" in table


def test_labels_one_a_line_are_scored_against_an_answer_file(tmp_path, capsys):
    answers = ["0"] * 63 + ["1"] * 37
    said = [*answers[:97], "unparsed", "", "0"]
    (tmp_path / "result_QQP.txt").write_text("\n".join(said) + "\n")
    (tmp_path / "answers.txt").write_text("\n".join(answers))
    files = ["--predictions", tmp_path / "result_QQP.txt", "--answers", tmp_path / "answers.txt", "--choices", "0,1"]
    assert run(*files, "--score-002", "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "97 of 100 rows; always '0' would be 63.0 %" in out
    assert "unparsed: 2 of 100" in out
    assert "F1 of '1': 95.8" in out
    assert "score 002: 0.9700 * 70 = 67.90 of 70 points" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["results"]["choice_result_QQP"]["score_002,none"] == pytest.approx(67.9)


def test_the_first_rows_alone_can_be_graded(predictions, capsys):
    run("--predictions", predictions, "--choices", "yes,no,maybe", "--limit", 2)
    assert "2 of 2 rows" in capsys.readouterr().out


def test_unfinished_predictions_are_said(predictions, capsys):
    identity = {"choices": ["yes", "no", "maybe"]}
    predictions.with_suffix(".meta.json").write_text(json.dumps({"complete": False, "identity": identity}))
    predictions.write_text(predictions.read_text() + '{"idx": 4, "pre')
    run("--predictions", predictions)
    captured = capsys.readouterr()
    assert "left out a torn last line; 4 rows are whole" in captured.err
    assert "unfinished" in captured.err
    # the choices are remembered in the order they were given
    assert captured.out.splitlines()[3].startswith("no")


def test_rows_that_went_missing_are_no_result(predictions):
    meta = {"complete": True, "rows": 5, "identity": {"choices": ["yes", "no", "maybe"]}}
    predictions.with_suffix(".meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="4 rows, where 5 were answered"):
        run("--predictions", predictions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --ckpt and --predictions is needed"),
        (["--ckpt", "a", "--predictions", "b"], "one of --ckpt and --predictions is needed"),
        (["--ckpt", "a"], "--ckpt needs --data FILE"),
        (["--ckpt", "a", "--data", "b", "--answers", "c"], "--answers goes with --predictions"),
        (["--predictions", "a", "--data", "b"], "--data goes with --ckpt"),
        (["--predictions", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--predictions", "nothing.txt"], "nothing.txt: no such file"),
        (["--ckpt", "a", "--data", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--ckpt", "a", "--data", "b", "--limit", "0"], "--limit 0: at least 1"),
        (["--predictions", "PREDICTIONS", "--choices", "yes"], "at least two choices"),
        (["--predictions", "PREDICTIONS", "--choices", "yes,no,maybe", "--positive", "1"], "--positive '1' is none of"),
        (["--predictions", "PREDICTIONS", "--out", "a.txt"], "--out FILE.txt goes with --ckpt"),
    ],
)
def test_wrong_use_is_one_line(predictions, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        run(*[predictions if word == "PREDICTIONS" else word for word in arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UsageError, "empty"),
        ("[]", UsageError, "no answers in 0 rows are no set of choices"),
        ('{"predict": "yes", "la\n', UserError, "p.jsonl:1: not JSON"),
        (
            '{"label": "yes"}\n',
            UserError,
            "row 1: a text under predict or model_output or pred is expected; found label",
        ),
        ('{"predict": 1}\n', UserError, "row 1: a text under"),
        ("[1]", UserError, "row 1: .* found int"),
        ('{"predict": "a", "idx": 1}\n{"predict": "a", "idx": 1}\n', UserError, "row 2: idx 1 is there twice"),
        ('{"predict": "a", "label": "yes"}\n{"predict": "a"}\n', UsageError, "1 different answers in 2 rows"),
    ],
)
def test_bad_predictions_say_where_and_what(tmp_path, text, error, message):
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(error, match=message):
        run("--predictions", file)


def test_a_label_that_is_no_choice_is_named(predictions):
    with pytest.raises(UserError, match=r"row 1: the label 'maybe' is none of yes, no"):
        run("--predictions", predictions, "--choices", "yes,no")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("0\n", "1 answers for 2 predictions"),
        ("0\n1\n0\n", "3 answers for 2 predictions"),
        ("0\nx\n", "answers.txt:2: the label 'x' is none of 0, 1"),
        ("\n1\n", "answers.txt:1: empty; one of 0, 1"),
        ("", "empty"),
    ],
)
def test_answers_must_be_those_of_the_rows(tmp_path, answers, message):
    (tmp_path / "result.txt").write_text("0\n1\n")
    (tmp_path / "answers.txt").write_text(answers)
    with pytest.raises(UserError, match=message):
        run("--predictions", tmp_path / "result.txt", "--answers", tmp_path / "answers.txt", "--choices", "0,1")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "result.txt").write_bytes(b"0\n\xff\n")
    with pytest.raises(UserError, match=r"result\.txt:2: not UTF-8"):
        run("--predictions", tmp_path / "result.txt", "--choices", "0,1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "q", "output": "perhaps"}, r"row 2: the label 'perhaps' is none of yes, no"),
        ({"sentence": "q", "label": "yes"}, r"row 2: found the keys 'sentence', 'label'; expected 'conversations'"),
    ],
)
def test_bad_data_says_where_and_what(tmp_path, row, message):
    data = write_jsonl(tmp_path / "d.jsonl", [{"instruction": "q", "output": "yes"}, row])
    with pytest.raises(UserError, match=message):
        ChoiceTask("yes,no").read_data(data, None)


def test_rows_with_and_without_a_label(tmp_path):
    conversations = [{"from": "human", "value": "q"}, {"from": "gpt", "value": " Yes "}]
    rows = [
        {"conversations": conversations},
        {"id": "b", "conversations": conversations[:1]},
        {"instruction": "q", "input": "x", "output": ""},
        {"instruction": "q", "input": "x"},
        {"instruction": "q", "output": "no"},
    ]
    task = ChoiceTask()
    questions = task.read_data(write_jsonl(tmp_path / "d.jsonl", rows), 4)
    assert [question.label for question in questions] == ["Yes", None, None, None]
    assert task.choices.names == ("Yes", "no")  # of the whole file, not of its first rows
    assert [question.fields["id"] for question in questions] == ["1", "b", "3", "4"]
    assert questions[3].turns[-1].text == "q\nx"
    graded = [{**row.answered("?", "no"), **task.grade_row(row.answered("?", "no"))} for row in questions]
    assert list(task.figures(graded, {}, "folder/d.jsonl").results) == ["choice_d"]


@pytest.mark.backend
@pytest.mark.parametrize("arguments", [["--help"], ["--predictions", "PREDICTIONS", "--choices", "yes,no,maybe"]])
def test_neither_help_nor_grading_imports_anything_heavy(predictions, arguments):
    words = [str(predictions) if word == "PREDICTIONS" else word for word in arguments]
    line = [sys.executable, "-X", "importtime", "-m", "eval.choice", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "numpy", "polars", "tokenizers", "tiktoken", "peft", "yaml"}
    if "--help" in arguments:
        assert "examples:" in done.stdout


@pytest.mark.backend
class TestWithAModel:
    @pytest.fixture
    def data(self, tmp_path):
        rows = [
            {"instruction": f"Does {i} imply {i * 7 % 5}?", "output": ("yes", "no", "maybe")[i % 3]} for i in range(30)
        ]
        return write_jsonl(tmp_path / "rte.jsonl", rows)

    def ask(self, tiny_llama, data, *more):
        basis = ["--ckpt", tiny_llama, "--template", "vicuna", "--data", data, "--device", "cpu"]
        return run(*basis, "--choices", "yes,no,maybe", *more)

    def rows(self, folder):
        return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]

    def test_loglik_answers_every_row_with_the_likeliest_choice(self, tiny_llama, tmp_path, capsys):
        import torch

        from backends.checkpoint.resolve import open_checkpoint
        from backends.cuda.model import load_model
        from converters.text.conversation import Turn
        from mindrecord.tokens.encode import encode_prompts

        names = ("yes", "nay", "who", "two three")
        questions = [{"instruction": f"Does {i} imply {i * 7 % 5}?", "output": names[i % 4]} for i in range(30)]
        data = write_jsonl(tmp_path / "rte.jsonl", questions)
        more = ["--choices", ",".join(names), "--way", "loglik", "--out", tmp_path / "out"]
        assert self.ask(tiny_llama, data, *more) == 0
        captured = capsys.readouterr()
        assert "unparsed: 0 of 30" in captured.out
        rows = self.rows(tmp_path / "out")
        assert [row["idx"] for row in rows] == list(range(30))
        assert len({row["predict"] for row in rows}) > 1
        # by hand: the words after the prompt, one row and one choice at a time, with the tokenizer alone
        model, _ = load_model(tiny_llama, torch.device("cpu"), torch.float32)
        files = open_checkpoint(tiny_llama, template="vicuna")
        for row in rows[::7]:
            turns = [Turn("user", f"Does {row['idx']} imply {row['idx'] * 7 % 5}?")]
            [prompt] = encode_prompts([turns], files.template, files.tokenizer)
            sums = {}
            for name in names:
                [ids] = files.tokenizer.encode_batch([f" {name}"])
                with torch.inference_mode():
                    logs = model(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
                sums[name] = sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))
            assert row["logprobs"] == pytest.approx(sums, rel=1e-6, abs=1e-5)
            assert row["predict"] == max(sums, key=sums.__getitem__)
        # graded again from the file: the same words
        run("--predictions", tmp_path / "out" / "predictions.jsonl")
        assert capsys.readouterr().out == captured.out

    def test_generate_writes_the_files_and_is_resumed(self, tiny_llama, data, tmp_path, capsys):
        out = tmp_path / "out"
        self.ask(tiny_llama, data, "--out", out)
        rows = self.rows(out)
        assert all(row["n_tokens"] <= 16 for row in rows)
        assert rows[0]["prompt"].endswith("USER: Does 0 imply 0? ASSISTANT:")
        results = json.loads((out / "results.json").read_text())
        assert results["configs"]["choice_rte"]["way"] == "generate"
        assert results["configs"]["choice_rte"]["generation_kwargs"]["max_new_tokens"] == 16
        assert results["hashes"]["template"].startswith("vicuna ")
        capsys.readouterr()
        self.ask(tiny_llama, data, "--out", out)
        assert "30 of 30 rows are there already, 0 to go" in capsys.readouterr().err
        with pytest.raises(UserError, match="made with way generate, not loglik"):
            self.ask(tiny_llama, data, "--out", out, "--way", "loglik")
        with pytest.raises(UserError, match="made with choices"):
            self.ask(tiny_llama, data, "--out", out, "--choices", "yes,no,maybe,never")

    def test_rows_without_a_label_become_lines(self, tiny_llama, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        data = write_jsonl(tmp_path / "QQP_dev.json", [{"instruction": "same?", "input": str(i)} for i in range(9)])
        basis = ["--ckpt", tiny_llama, "--template", "vicuna", "--data", data, "--choices", "0,1", "--device", "cpu"]
        run(*basis, "--way", "loglik", "--limit", 6, "--out", tmp_path / "result_QQP.txt")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "6 rows answered, none has a label to grade by" in captured.err
        lines = (tmp_path / "result_QQP.txt").read_text().splitlines()
        assert len(lines) == 6
        assert set(lines) <= {"0", "1"}
        folder = Path("runs/eval") / tiny_llama.name / "choice-loglik-QQP_dev-limit6"
        assert [row["predict"] for row in self.rows(folder)] == lines
        assert not (folder / "results.json").exists()
        # what names no choice keeps its line
        run(*basis, "--out", tmp_path / "written.txt")
        lines = (tmp_path / "written.txt").read_text().splitlines()
        assert len(lines) == 9
        assert "unparsed" in lines

    def test_a_killed_scoring_goes_on(self, tiny_llama, data, tmp_path):
        many = [{"instruction": f"{i}?", "output": "yes"} for i in range(300)]
        write_jsonl(data, many)
        out = tmp_path / "out"
        arguments = ["--ckpt", tiny_llama, "--template", "vicuna", "--data", data, "--choices", "yes,no,maybe"]
        arguments += ["--way", "loglik", "--device", "cpu", "--batch-tokens", "1", "--out", out]
        line = [sys.executable, "-m", "eval.choice", *map(str, arguments)]
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        file = out / "predictions.jsonl"
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size > 3000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = file.read_bytes().rpartition(b"\n")[0].splitlines()
        assert 0 < len(whole) < 300
        # what was finished is not asked again: a mark on a kept row survives
        marked = {**json.loads(whole[0]), "id": "marked"}
        file.write_bytes(b"\n".join([json.dumps(marked).encode(), *whole[1:]]) + b'\n{"idx": 2')
        self.ask(tiny_llama, data, "--way", "loglik", "--out", out)
        rows = self.rows(out)
        assert [row["idx"] for row in rows] == list(range(300))
        assert rows[marked["idx"]]["id"] == "marked"

    def test_choices_that_are_one_token_sequence_cannot_be_told_apart(self, tiny_llama, data, tmp_path, monkeypatch):
        from mindrecord.tokens import encode

        whole = encode.encode

        def forgetful(conversations, *rest, **more):
            return whole([conversations[0]] * len(conversations), *rest, **more)

        monkeypatch.setattr(encode, "encode", forgetful)
        with pytest.raises(UserError, match="'yes' and 'no' with the same tokens"):
            self.ask(tiny_llama, data, "--way", "loglik", "--out", tmp_path / "out")

    def test_a_choice_that_begins_another_is_said(self, tiny_llama, tmp_path, capsys):
        data = write_jsonl(tmp_path / "d.jsonl", [{"instruction": "?", "output": "no"}])
        basis = ["--ckpt", tiny_llama, "--template", "vicuna", "--data", data, "--way", "loglik", "--device", "cpu"]
        run(*basis, "--choices", "no,no idea", "--out", tmp_path / "out")
        assert "note: 'no idea' can never win, since its tokens begin with those of 'no'" in capsys.readouterr().err
