import pytest
from graded_rows import prediction_row
from hypothesis import given
from hypothesis import strategies as st

from converters.common.console import format_table
from converters.common.errors import UserError
from eval.math.compare import compare_results
from eval.math.task import MathTask, contest_score, summary_lines, table_rows, tally
from eval.results import results_json, wilson

ROWS = [
    prediction_row(0, "other", "p", "答案：7", "7", "stop", 3),
    prediction_row(1, "eq solve", "p", "x = 2.004", "方程的解为：2.0", "stop", 3),
    prediction_row(2, "eq solve", "p", "x = 2", "方程的解为：2.0", "stop", 3),
    prediction_row(3, "direct computation", "p", "…", "1.00 + 1.00 = 2.00", "length", 128),
]
META = {
    "identity": {"data": "d1", "rows": 4, "template": "vicuna 9b48", "max_new_tokens": 128},
    "parameters": {"trainable": 3_407_872, "base": 8_030_261_248},
    "ckpt": "RUN",
    "sha256": "abc",
}


def results(rows=ROWS, meta=META, rule="close"):
    return results_json(MathTask(rule).figures(rows, meta, "d1.jsonl"), meta)


def math_table(tallies):
    return format_table(*table_rows(tallies))


def compare_table(before, after, rule):
    return compare_results(before, after, rule).text.splitlines()


def test_kinds_come_in_the_data_sets_order_and_the_total_last():
    tallies = tally(ROWS)
    assert list(tallies) == ["direct computation", "eq solve", "other", "total"]
    total = tallies["total"]
    assert (total.n, total.unparsed, total.cut) == (4, 1, 1)
    assert total.correct == {"exact": 2, "close": 3, "sig4": 2}


def test_the_table_shows_counts_and_percent():
    lines = math_table(tally(ROWS)).splitlines()
    assert lines[0].split() == ["kind", "n", "unparsed", "cut", "exact", "close", "sig4"]
    assert lines[-1].split() == ["total", "4", "1", "1", "50.0", "75.0", "50.0"]
    eq_solve = next(line for line in lines if line.startswith("eq solve"))
    assert eq_solve.split()[-3:] == ["50.0", "100.0", "50.0"]


def test_direct_computation_is_shown_by_operator():
    operators = {"+": "1.00 + 1.00 = 2.00", "/": "3.00 / 2.00 = 1.5", "*": "2.00 * -1.00 = -2.0000"}
    answers = {"+": "2.00", "/": "9", "*": "-2"}
    rows = [
        prediction_row(number, "direct computation", "p", answers[operator], label, "stop", 1)
        for number, (operator, label) in enumerate(operators.items())
    ]
    lines = math_table(tally(rows)).splitlines()
    assert [line.split()[:2] for line in lines[3:6]] == [["+", "1"], ["*", "1"], ["/", "1"]]
    assert [line.split()[-1] for line in lines[3:6]] == ["100.0", "100.0", "0.0"]
    text = "\n".join(compare_table(results(rows), results(rows), "close"))
    assert ["/", "1", "0.0", "→", "0.0", "+0.0", "0", "→", "0"] in [line.split() for line in text.splitlines()]
    assert results(rows)["counts"]["direct computation"]["parts"]["/"]["correct"]["close"] == 0
    assert results(rows)["counts"]["total"]["n"] == 3


def test_the_contests_own_figures():
    # the rank list: 3,407,872 trainable, accuracy 36.44 %
    score = contest_score({"trainable": 3_407_872, "base": 8_030_261_248}, 0.3644)
    assert score["score"] == pytest.approx(0.554952682, abs=5e-10)
    assert score["ratio"] == pytest.approx(0.000424393, abs=5e-10)
    assert score["denominator"] == 8_030_000_000
    other = contest_score({"trainable": 10, "base": 1000}, 0.5)
    assert (other["ratio"], other["denominator"]) == (0.01, 1000)
    assert "own size" in other["denominator_is"]
    assert contest_score({"trainable": None, "base": 1000}, 0.5) is None
    assert contest_score({}, 0.5) is None


def test_summary_says_the_interval_and_the_score():
    tallies = tally(ROWS)
    text = "\n".join(summary_lines(tallies, contest_score(META["parameters"], 0.75), "close"))
    assert "close: 75.0 % (95 %: 30.1 to 95.4)" in text
    assert "3,407,872 trainable of 8,030,000,000, the contest's for Llama-3-8B" in text
    assert "0.824873" in text
    assert "not known" in "\n".join(summary_lines(tallies, None, "close"))


def test_wilson_known_values():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0, 1)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_inside_zero_and_one(case):
    right, n = case
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    mirrored = wilson(n - right, n)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_results_have_lm_evals_shape():
    value = results()
    assert value["results"]["math"]["close,none"] == 0.75
    assert value["results"]["math_eq_solve"]["exact,none"] == 0.5
    assert value["results"]["math"]["close_stderr,none"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert value["results"]["math_other"]["close_stderr,none"] is None
    assert value["n-samples"]["math_eq_solve"] == {"original": 2, "effective": 2}
    assert set(value["group_subtasks"]["math"]) == {"math_direct_computation", "math_eq_solve", "math_other"}
    assert value["configs"]["math"]["template"] == "vicuna 9b48"
    assert value["hashes"] == {**META["identity"], "predictions": "abc"}
    assert value["config"]["ckpt"] == "RUN"
    assert {"versions", "n-shot", "git_hash", "date", "environment", "higher_is_better", "contest"} <= set(value)


def test_compare_shows_before_and_after():
    before = [prediction_row(row["idx"], row["kind"], "p", "？", row["label"], "length", 9) for row in ROWS]
    base = {**META, "parameters": {"trainable": None, "base": 8_030_261_248}}
    text = "\n".join(compare_table(results(before, base), results(), "close"))
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "4", "0.0", "→", "75.0", "+75.0", "4", "→", "1"]
    assert "after: 75.0 % close (95 %: 30.1 to 95.4), template vicuna, 3,407,872 of" in text
    assert text.count("contest score") == 1
    assert "note:" not in text
    longer = {**META, "identity": {**META["identity"], "max_new_tokens": 256}}
    assert "note: max_new_tokens was 128 before and 256 after" in compare_table(
        results(), results(meta=longer), "close"
    )
    exact = "\n".join(compare_table(results(before, base), results(), "exact"))
    assert "after: 50.0 % exact" in exact
    assert "0.649873" in exact


@pytest.mark.parametrize("identity", [{"data": "d2", "rows": 4}, {"data": "d1", "rows": 5}])
def test_compare_refuses_other_data(identity):
    with pytest.raises(UserError, match="different data"):
        compare_table(results(meta={**META, "identity": identity}), results(), "close")


def test_compare_refuses_other_rows():
    with pytest.raises(UserError, match="different rows: 2 of kind eq solve"):
        compare_table(results(ROWS[2:]), results(), "close")
