"""Before and after: ratios with their intervals, the verdict, and what is not compared."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import GateNotPassed, UsageError, UserError
from converters.common.files import sha256_file
from eval.retention import Kept, ratio_error, read_results, retention
from eval.retention import __main__ as command

IDENTITY = {
    "data": "d1",
    "labels": "l1",
    "rows": 4,
    "template": "bare 12ab",
    "max_new_tokens": 20,
    "min_new_tokens": 0,
    "tokenizer": "t1",
    "dtype": "auto",
    "checkpoint": "c1",
    "base": None,
}


def results(folder, f1, em, *, keep_rows=True, task="squad_mindformers", **identity):
    """Write what eval.squad writes, from scores of every row in percent."""
    folder.mkdir(exist_ok=True)
    n = len(f1)
    lines = [{"id": f"q{i}", "scores": {task: {"f1": a, "em": b}}} for i, (a, b) in enumerate(zip(f1, em, strict=True))]
    predictions = folder / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {}
    for name, column in (("f1", f1), ("em", em)):
        mean = sum(column) / n
        entry[f"{name},none"] = mean
        entry[f"{name}_stderr,none"] = (sum((x - mean) ** 2 for x in column) / (n - 1) / n) ** 0.5
    value = {
        "results": {task: entry},
        "higher_is_better": {task: {"f1": True, "em": True}},
        "n-samples": {task: {"original": n, "effective": n}},
        "hashes": {**IDENTITY, "rows": n, "predictions": sha256_file(predictions), **identity},
    }
    (folder / "results.json").write_text(json.dumps(value))
    if not keep_rows:
        predictions.unlink()
    return folder


BEFORE = [100.0, 50.0, 0.0, 100.0], [100.0, 0.0, 0.0, 100.0]


@pytest.fixture
def before(tmp_path):
    return results(tmp_path / "before", *BEFORE)


def run(before, after, *more):
    return command.main(["--before", str(before), "--after", str(after), *more])


def test_what_is_kept_and_the_verdict(before, tmp_path, capsys):
    after = results(tmp_path / "after", [100.0, 40.0, 0.0, 85.0], [100.0, 0.0, 0.0, 100.0])
    assert run(before, after) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "measure", "n", "before", "after", "ratio", "95", "%", "at", "0.9"]
    assert lines[2].split()[:6] == ["squad_mindformers", "f1", "4", "62.5", "56.25", "0.9000"]
    # nothing changed in any row of exact match, and paired rows know it
    assert lines[3].split() == "squad_mindformers em 4 50 50 1.0000 1.0000 to 1.0000 passed".split()
    assert lines[5] == "intervals: delta method, rows paired"
    assert lines[6] == "squad_mindformers f1: 0.9 lies in the interval; more rows would settle it"
    assert lines[-1] == "retention at 0.9: passed"


def test_below_the_threshold_it_leaves_with_3_and_says_what(before, tmp_path, capsys):
    after = results(tmp_path / "after", [100.0, 40.0, 0.0, 84.9], [100.0, 0.0, 0.0, 100.0])
    with pytest.raises(GateNotPassed, match=r"NOT passed: squad_mindformers f1 56.2250 < 56.2500$") as caught:
        run(before, after, "--out", str(tmp_path / "out"))
    assert caught.value.exit_code == 3
    assert "NOT passed" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "retention.json").read_text())
    assert written["passed"] is False
    assert [measure["passed"] for measure in written["measures"]] == [False, True]
    assert written["before"]["sha256"] == sha256_file(before / "results.json")
    assert "| squad_mindformers | f1 | 4 |" in (tmp_path / "out" / "retention.md").read_text()
    assert run(before, after, "--threshold", "0.89") == 0


def test_the_exit_code_of_the_process(before, tmp_path):
    after = results(tmp_path / "after", [0.0] * 4, [0.0] * 4)
    line = [sys.executable, "-m", "eval.retention", "--before", str(before), "--after", str(after)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: retention at 0.9: NOT passed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "d2"}, "the results differ in data: d1 in .*before.* d2 in"),
        ({"labels": "l2"}, "differ in questions"),
        ({"template": "vicuna 34cd"}, "differ in template: bare 12ab in .* vicuna 34cd in"),
        ({"max_new_tokens": 30}, "differ in limits: max_new_tokens: 20 in"),
        ({"min_new_tokens": 1}, "differ in limits: min_new_tokens"),
        ({"rows": 3}, "differ in limits: rows"),
        ({"task": "squad_official"}, r"different protocols: squad_mindformers and squad_official"),
    ],
)
def test_it_refuses_what_was_not_measured_alike(before, tmp_path, changes, message):
    after = results(tmp_path / "after", *BEFORE, **changes)
    with pytest.raises(UserError, match=message) as caught:
        run(before, after)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_it_says_what_makes_a_comparison_less_sure(before, tmp_path, capsys):
    run(before, results(tmp_path / "same", *BEFORE, base="c1", checkpoint="c2"))
    assert capsys.readouterr().err == ""
    run(before, results(tmp_path / "other", *BEFORE, base="c9", checkpoint="c2", dtype="bfloat16"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: dtype was auto before and bfloat16 after"
    assert "the weights of" in lines[1]
    assert "are not the base of" in lines[1]


def test_without_the_rows_the_interval_is_wider_and_said(before, tmp_path, capsys):
    scores = [100.0, 40.0, 0.0, 100.0], [100.0, 0.0, 0.0, 100.0]
    paired = retention(read_results(before), read_results(results(tmp_path / "a", *scores))).kept
    after = results(tmp_path / "b", *scores, keep_rows=False)
    loose = retention(read_results(before), read_results(after)).kept
    assert all(one.paired for one in paired)
    assert not any(one.paired for one in loose)
    assert all(one.high - one.low < other.high - other.low for one, other in zip(paired, loose, strict=True))
    run(before, after)
    assert "rows not paired, so wider than need be" in capsys.readouterr().out


def test_rows_that_are_not_those_of_the_results_are_not_used(before):
    assert read_results(before).rows is not None
    with (before / "predictions.jsonl").open("a") as file:
        file.write("\n")
    assert read_results(before).rows is None


def test_where_nothing_was_nothing_can_be_lost(tmp_path, capsys):
    before = results(tmp_path / "before", [0.0] * 4, [0.0] * 4)
    assert run(before, results(tmp_path / "after", *BEFORE)) == 0
    out = capsys.readouterr().out
    assert "squad_mindformers f1: 0 before, so there was nothing to lose" in out
    assert "passed" in out.splitlines()[2]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UserError, "not JSON"),
        ("[]", UserError, r"not a results\.json of an evaluation"),
        ('{"results": {}}', UserError, "higher_is_better"),
    ],
)
def test_files_of_another_shape(before, tmp_path, text, error, message):
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    with pytest.raises(error, match=message):
        run(before, bad)


def test_a_figure_that_is_missing_is_named(before, tmp_path):
    after = results(tmp_path / "after", *BEFORE)
    value = json.loads((after / "results.json").read_text())
    del value["results"]["squad_mindformers"]["em,none"]
    (after / "results.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"results.squad_mindformers has no figure under 'em,none'"):
        run(before, after)


@pytest.mark.parametrize("threshold", ["0", "-1", "nan"])
def test_wrong_use(before, threshold):
    with pytest.raises(UsageError, match="--threshold"):
        run(before, before, "--threshold", threshold)
    with pytest.raises(UsageError, match="nowhere: no such file"):
        run(before, "nowhere")


def test_the_intervals_hold_the_true_ratio_as_often_as_they_say():
    # 95 % of 400 is 380; 365 or fewer, or 395 or more, are four standard deviations away
    draw = random.Random(7)
    inside = 0
    for _ in range(400):
        rows = []
        for _ in range(300):
            right = draw.random() < 0.6
            rows.append((right, draw.random() < (0.9 if right else 0.15)))  # 0.6 before, 0.6 after
        n = len(rows)
        means = [sum(column) / n for column in zip(*rows, strict=True)]
        errors = [(mean * (1 - mean) / (n - 1)) ** 0.5 for mean in means]
        covariance = sum((a - means[0]) * (b - means[1]) for a, b in rows) / (n - 1) / n
        spread = 1.959964 * ratio_error(*means, *errors, covariance)
        inside += abs(means[1] / means[0] - 1.0) <= spread
    assert 365 < inside < 395


@given(st.floats(0.01, 100), st.floats(0, 100), st.floats(0.1, 1.5))
def test_the_gate_is_at_the_threshold_itself(before, after, threshold):
    kept = Kept("t", "f1", 10, before, after, None, None, False)
    assert kept.passed(threshold) == (after >= threshold * before)
    assert Kept("t", "f1", 10, before, threshold * before, None, None, False).passed(threshold)
