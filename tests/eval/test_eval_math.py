"""The command: regrading and comparing without torch, evaluating with a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from graded_rows import prediction_row

from converters.common.errors import UsageError, UserError
from eval import compare, grade_predictions
from eval.math import __main__ as eval_math
from eval.math.task import MathTask

PROBLEMS = [
    {"problem": f"解方程 {m}x + {n} = 0", "solution": f"方程的解为：{-n / m}"}
    for m in (2, 4, 5, 8)
    for n in (-6, 3, 10)
] + [{"problem": "一个长方形的长为 3 厘米，宽为 4 厘米，请计算其面积。", "solution": "面积为 12 平方厘米"}]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def predictions(tmp_path):
    rows = [
        prediction_row(0, "eq solve", "p", "x = 3", "方程的解为：3.0", "stop", 4),
        prediction_row(1, "eq solve", "p", "x = 0.3334", "方程的解为：0.3333333333333333", "stop", 4),
        prediction_row(2, "mean computation", "p", "…", "平均值为 47.5", "length", 4),
    ]
    return write_jsonl(tmp_path / "predictions.jsonl", rows)


def test_regrading_prints_the_table_and_writes_nothing(predictions, capsys):
    assert eval_math.main(["--predictions", str(predictions)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-6].split() == ["total", "3", "1", "1", "33.3", "66.7", "33.3"]
    assert "contest score: not known" in out
    assert list(predictions.parent.iterdir()) == [predictions]


def test_regrading_knows_the_run_from_the_file_beside(predictions, tmp_path, capsys):
    meta = {"complete": True, "identity": {"data": "d"}, "parameters": {"trainable": 10, "base": 1000}}
    predictions.with_suffix(".meta.json").write_text(json.dumps(meta))
    assert eval_math.main(["--predictions", str(predictions), "--rule", "exact", "--out", str(tmp_path / "out")]) == 0
    score = 0.99 * 0.3 + 0.7 / 3
    assert f"= {score:.6f}; 10 trainable of 1,000, the base's own size" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["contest"]["score"] == pytest.approx(score)
    assert results["configs"]["math"]["rule"] == "exact"


def test_unfinished_predictions_are_said(predictions, capsys):
    predictions.with_suffix(".meta.json").write_text(json.dumps({"complete": False, "identity": {}}))
    eval_math.main(["--predictions", str(predictions)])
    assert "unfinished" in capsys.readouterr().err


def test_compare_reads_files_and_directories(predictions, tmp_path, capsys):
    for name in ("before", "after"):
        eval_math.main(["--predictions", str(predictions), "--out", str(tmp_path / name)])
    capsys.readouterr()
    assert eval_math.main(["--compare", str(tmp_path / "before"), str(tmp_path / "after" / "results.json")]) == 0
    shown = capsys.readouterr().out
    assert "total             3    66.7  →   66.7    +0.0     1 → 1" in shown
    graded = grade_predictions("math", predictions)
    assert compare(graded, tmp_path / "after").text + "\n" == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --ckpt, --predictions and --compare"),
        (["--ckpt", "a", "--predictions", "b"], "one of --ckpt, --predictions and --compare"),
        (["--ckpt", "a"], "--ckpt needs --data FILE of problems"),
        (["--ckpt", "nowhere", "--data", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--predictions", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--compare", "nothing", "nothing"], "nothing: no such file"),
    ],
)
def test_wrong_use_is_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        eval_math.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UsageError, "empty"),
        ('{"problem": "1", "solution": "2"}\n{"pro', UserError, "data.jsonl:2: not JSON"),
        ('{"problem": "1"}\n', UserError, "row 1: texts under 'problem' and 'solution' are expected; found problem"),
        ('{"problem": "1", "solution": 2}\n', UserError, "row 1: texts under"),
        ('{"id": "1", "conversations": []}\n', UserError, "found id, conversations"),
        ("[1]", UserError, "row 1: texts under .* found int"),
        ('{"problem": "1", "solution": "none"}\n', UsageError, "no problem with an answer in it"),
    ],
)
def test_bad_data_says_where_and_what(tmp_path, text, error, message):
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    with pytest.raises(error, match=message):
        MathTask().read_data(data, None)


def test_problems_keep_their_numbers_when_one_has_no_answer(tmp_path, capsys):
    data = write_jsonl(
        tmp_path / "d.jsonl", [PROBLEMS[0], {"problem": "?", "solution": "无"}, PROBLEMS[-1], PROBLEMS[1]]
    )
    problems = MathTask().read_data(data, 3)
    assert {row.idx: row.fields["kind"] for row in problems} == {0: "eq solve", 2: "area computation"}
    assert "1 rows have no answer in their solution and are left out (row 2 first)" in capsys.readouterr().err


def test_compare_needs_results_of_this_command(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a results\.json of eval\.math"):
        eval_math.main(["--compare", str(tmp_path), str(tmp_path)])


def command(*arguments, module="eval.math"):
    return [sys.executable, "-X", "importtime", "-m", module, *map(str, arguments)]


@pytest.mark.backend
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("eval.math", ["--help"]),
        ("eval.math", ["--predictions", "PREDICTIONS"]),
        ("backends.cuda", ["generate", "--help"]),
        ("backends.cuda", ["chat", "--help"]),
    ],
)
def test_neither_help_nor_grading_imports_anything_heavy(predictions, module, arguments):
    arguments = [predictions if word == "PREDICTIONS" else word for word in arguments]
    done = subprocess.run(command(*arguments, module=module), capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "numpy", "polars", "tokenizers", "tiktoken", "peft", "yaml"}
    if "--help" in arguments:
        assert "examples:" in done.stdout


@pytest.mark.backend
class TestWithAModel:
    @pytest.fixture
    def data(self, tmp_path):
        return write_jsonl(tmp_path / "heldout.jsonl", PROBLEMS)

    def evaluate(self, tiny_llama, data, out, *more):
        arguments = ["--ckpt", tiny_llama, "--template", "bare", "--data", data, "--out", out, "--device", "cpu"]
        return eval_math.main([str(word) for word in [*arguments, "--max-new-tokens", 12, *more]])

    def test_predictions_results_and_table(self, tiny_llama, data, tmp_path, capsys):
        out = tmp_path / "out"
        assert self.evaluate(tiny_llama, data, out) == 0
        captured = capsys.readouterr()
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert [row["idx"] for row in rows] == list(range(13))
        assert [row["label"] for row in rows] == [row["solution"] for row in PROBLEMS]
        assert rows[0]["prompt"] == "<|begin_of_text|>" + PROBLEMS[0]["problem"]
        assert all(row["n_tokens"] <= 12 for row in rows)
        results = json.loads((out / "results.json").read_text())
        assert results["n-samples"]["math"]["effective"] == 13
        assert results["hashes"]["template"].startswith("bare ")
        eval_math.main(["--predictions", str(out / "predictions.jsonl")])
        assert capsys.readouterr().out == captured.out

        # a second time nothing is left to do; other limits are refused
        self.evaluate(tiny_llama, data, out)
        assert "13 of 13 rows are there already, 0 to go" in capsys.readouterr().err
        with pytest.raises(UserError, match="made with min_new_tokens 0, not 2"):
            self.evaluate(tiny_llama, data, out, "--min-new-tokens", 2)
        self.evaluate(tiny_llama, data, out, "--min-new-tokens", 2, "--overwrite")
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert min(row["n_tokens"] for row in rows) >= 2

    def test_the_batch_does_not_change_the_file(self, tiny_llama, data, tmp_path):
        self.evaluate(tiny_llama, data, tmp_path / "one", "--batch-tokens", 1)
        self.evaluate(tiny_llama, data, tmp_path / "all", "--batch-tokens", 10**6)
        one, together = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("one", "all"))
        assert one == together

    def test_a_killed_evaluation_goes_on_to_the_same_file(self, tiny_llama, data, tmp_path):
        write_jsonl(data, PROBLEMS * 20)
        whole, out = tmp_path / "whole", tmp_path / "out"
        self.evaluate(tiny_llama, data, whole)
        arguments = ["--ckpt", tiny_llama, "--template", "bare", "--data", data, "--out", out, "--max-new-tokens", 12]
        line = [sys.executable, "-m", "eval.math", *map(str, arguments), "--device", "cpu", "--batch-tokens", "1"]
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        file = out / "predictions.jsonl"
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size > 3000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = file.read_bytes().rpartition(b"\n")[0].splitlines()
        assert 0 < len(kept) < 260
        # what was finished is not asked again: a mark on a kept row survives
        marked = {**json.loads(kept[0]), "predict": "marked"}
        file.write_bytes(
            b"\n".join([json.dumps(marked, ensure_ascii=False).encode(), *kept[1:]]) + b"\n" + b'{"idx": 9'
        )
        self.evaluate(tiny_llama, data, out)
        rows = file.read_text().splitlines()
        assert len(rows) == 260
        assert json.loads(rows[marked["idx"]])["predict"] == "marked"
        del rows[marked["idx"]]
        expected = (whole / "predictions.jsonl").read_text().splitlines()
        del expected[marked["idx"]]
        assert rows == expected

    def test_a_template_must_be_known(self, tiny_llama, data):
        with pytest.raises(UsageError, match="choose with --template"):
            eval_math.main(["--ckpt", str(tiny_llama), "--data", str(data)])

    def test_by_default_nothing_is_written_into_a_model_directory(self, tiny_llama, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tiny_llama.iterdir())
        arguments = ["--ckpt", tiny_llama, "--template", "bare", "--data", data, "--limit", 3, "--max-new-tokens", 2]
        eval_math.main([*map(str, arguments), "--device", "cpu"])
        assert sorted(tiny_llama.iterdir()) == before
        assert (Path("runs/eval") / tiny_llama.name / "math-heldout-limit3" / "results.json").is_file()
