import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.generation.batching import plan_batches, run_batches, tokens_of_pass
from backends.generation.predictions_log import (
    NEW_TOKEN,
    AnswerBar,
    AnswerLog,
    answer_missing,
    meta_path,
    read_rows,
)
from backends.generation.types import Answer, Limits, Sampling
from converters.common.console import WorkBar
from converters.common.errors import UsageError, UserError

lengths_strategy = st.dictionaries(st.integers(0, 10**6), st.integers(1, 400), max_size=60)


@given(lengths_strategy, st.integers(1, 200), st.integers(1, 5000))
def test_batches_hold_every_row_once_within_the_budget(lengths, new, budget):
    batches = plan_batches(lengths, new, budget)
    assert sorted(index for batch in batches for index in batch) == sorted(lengths)
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(order, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (lengths[batch[0]] + new) <= budget


def test_batches_are_as_full_as_the_budget_allows():
    assert [len(batch) for batch in plan_batches(dict.fromkeys(range(10), 5), 5, 40)] == [4, 4, 2]


def test_a_pass_on_a_cpu_is_short_and_of_a_fixed_size():
    assert tokens_of_pass(134_515_008) == 371
    assert tokens_of_pass(1_800_000) == 27_777
    # a single token of a model is the least there is to do
    assert tokens_of_pass(10**12) == 1
    assert [len(batch) for batch in plan_batches(dict.fromkeys(range(7), 5), 5, 1000, most_rows=3)] == [3, 3, 1]


def test_the_time_left_of_answers_follows_tokens_and_what_answers_have_been_long():
    bar = AnswerBar(dict.fromkeys(range(10), [0] * 50), max_new=100)
    assert bar._left() == 10 * 50 + NEW_TOKEN * 10 * 100
    bar.watch(500, 0)
    bar.watch(0, 10)
    # nothing is finished: an answer may still take all it is allowed
    assert bar._left() == NEW_TOKEN * 10 * 99
    for _ in range(9):
        bar.watch(0, 10)
    for _ in range(5):
        bar.finish()
    # 100 tokens for 5 finished answers, so as many again for the other five
    assert bar._left() == NEW_TOKEN * 100
    for _ in range(5):
        bar.finish()
    assert bar._left() == 0
    bar.__exit__()


def test_a_bar_predicts_from_work_and_not_from_rows(monkeypatch):
    now = [1000.0]
    # tqdm keeps the clock that it finds when it is made
    monkeypatch.setattr(time, "time", lambda: now[0])
    with WorkBar(100, 1000.0, "rows") as bar:
        bar._bar._time, bar._bar.start_t = time.time, now[0]
        assert bar.seconds_left is None
        now[0] += 10
        # the longest row, first: a hundredth of the rows and a tenth of the work
        bar.finish(100.0)
        assert bar.seconds_left == pytest.approx(90)
        bar.expect(300.0)
        assert bar.seconds_left == pytest.approx(30)


class Full(Exception):
    pass


def runner(most_rows, log, fail_after=0):
    """Answers batches of at most ``most_rows``; a larger one fails after ``fail_after`` rows."""

    def run(indices):
        log.append(len(indices))
        for done, index in enumerate(indices):
            if len(indices) > most_rows and done >= fail_after:
                raise Full
            yield index, Answer([index], "stop")

    return run


@given(lengths_strategy, st.integers(1, 8), st.integers(0, 3))
def test_out_of_memory_halves_and_answers_every_row_once(lengths, most_rows, fail_after):
    answers = list(run_batches(lengths, 10, 4000, runner(most_rows, [], fail_after), Full))
    assert sorted(index for index, _ in answers) == sorted(lengths)
    assert all(answer.ids == [index] for index, answer in answers)


def test_out_of_memory_is_said_and_remembered(capsys):
    sizes, freed = [], []
    lengths = dict.fromkeys(range(32), 10)
    list(run_batches(lengths, 10, 16 * 20, runner(4, sizes), Full, lambda: freed.append(1)))
    assert sizes == [16, 8] + [4] * 8
    assert len(freed) == 2
    error = capsys.readouterr().err
    assert "out of memory with 16 rows of 20 tokens: going on with batches of 160 tokens" in error
    assert error.count("out of memory") == 2


def test_a_single_row_that_does_not_fit_is_an_error():
    with pytest.raises(UserError, match="single row of 10 prompt tokens and 7 new ones: lower --max-new-tokens"):
        list(run_batches({0: 10, 1: 9}, 7, 10**6, runner(0, []), Full))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"repetition_penalty": 0}]
)
def test_sampling_options_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("limits", [(0, 0), (5, 6), (5, -1)])
def test_limits_that_contradict_each_other_are_refused(limits):
    with pytest.raises(UsageError, match="new tokens"):
        Limits(*limits)


class Counting:
    """A generator that counts what it is asked and is killed after so many rows."""

    def __init__(self, killed_after=10**9):
        self.asked = []
        self.killed_after = killed_after

    def generate(self, prompts, stop_ids, limits, *, watch):
        for index in sorted(prompts, reverse=True):
            if len(self.asked) == self.killed_after:
                raise KeyboardInterrupt
            self.asked.append(index)
            watch(len(prompts[index]), 4)
            yield index, Answer(prompts[index] * 2, "stop")


IDENTITY = {"checkpoint": "aa", "limits": (1, 2)}
PROMPTS = {index: [index, index + 1] for index in range(10)}


def answer(path, generator, identity=IDENTITY, overwrite=False):
    log = AnswerLog(path, identity, {"note": "n"}, overwrite=overwrite)

    def to_row(index, answer):
        return {"idx": index, "predict": f"答 {answer.ids}"}

    return answer_missing(log, PROMPTS, lambda: generator, [0], Limits(), to_row)


def test_answers_end_up_in_input_order_with_what_made_them(tmp_path):
    path = tmp_path / "new" / "p.jsonl"
    rows = answer(path, Counting())
    assert [row["idx"] for row in rows] == list(range(10))
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    meta = json.loads(meta_path(path).read_text())
    assert (meta["complete"], meta["rows"], meta["note"]) == (True, 10, "n")
    assert meta["identity"] == {"checkpoint": "aa", "limits": [1, 2]}


@pytest.mark.parametrize("torn", [b"", b'{"idx": 3, "predict": "\xe7', b"{}"])
def test_a_killed_job_goes_on_without_repeating_rows(tmp_path, capsys, torn):
    whole = tmp_path / "whole.jsonl"
    answer(whole, Counting())
    path = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt, match=r"p.jsonl: 4 rows are kept; the same command goes on from there"):
        answer(path, Counting(killed_after=4))
    assert [row["idx"] for row in read_rows(path)[0]] == [9, 8, 7, 6]
    assert not json.loads(meta_path(path).read_text())["complete"]
    with path.open("ab") as handle:
        handle.write(torn)
    capsys.readouterr()
    second = Counting()
    answer(path, second)
    assert second.asked == [5, 4, 3, 2, 1, 0]
    assert path.read_bytes() == whole.read_bytes()
    error = capsys.readouterr().err
    assert "4 of 10 rows are there already, 6 to go" in error
    assert ("dropped a torn last line" in error) == bool(torn)


def test_a_complete_file_loads_no_model(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = answer(path, Counting())
    assert answer(path, None) == rows


def test_answers_of_something_else_are_refused_and_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    answer(path, Counting())
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"made with checkpoint aa, not bb: name another output, or --overwrite"):
        answer(path, Counting(), {**IDENTITY, "checkpoint": "bb"})
    with pytest.raises(UserError, match="made with extra None, not 1"):
        answer(path, Counting(), {**IDENTITY, "extra": 1})
    assert path.read_bytes() == before
    generator = Counting()
    answer(path, generator, {**IDENTITY, "checkpoint": "bb"}, overwrite=True)
    assert len(generator.asked) == 10


def test_a_file_of_somebody_else_is_not_touched(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("my notes")
    with pytest.raises(UserError, match=r"without its p.meta.json"):
        AnswerLog(path, IDENTITY)
    assert path.read_text() == "my notes"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense\n", "not JSON"),
        ("[1]\n", "an object with a whole number under 'idx'"),
        ('{"predict": "x"}\n', "an object with a whole number under 'idx'"),
        ('{"idx": 0}\n{"idx": 0}\n', "idx 0 is there twice"),
    ],
)
def test_damage_before_the_last_line_is_an_error(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(line + '{"idx": 5}\n')
    with pytest.raises(UserError, match=message):
        read_rows(path)


def test_a_full_disk_keeps_the_rows_and_says_how_to_go_on(tmp_path, monkeypatch):
    log = AnswerLog(tmp_path / "p.jsonl", IDENTITY)
    with log, open("/dev/full", "ab", buffering=0) as full:
        log.append({"idx": 0})
        whole, log._handle = log._handle, full
        with pytest.raises(UserError, match="No space left on device after 1 rows; they are kept"):
            log.append({"idx": 1})
        log._handle = whole
    assert read_rows(log.path)[0] == [{"idx": 0}]
