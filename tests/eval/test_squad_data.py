"""Reading sets, the prompt to the byte, and the three forms of prediction file."""

import json
import subprocess
import sys

import pytest

from converters.common.errors import UsageError, UserError
from eval.squad.data import SHIPPED, choose, read_answers, read_questions


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def test_questions_come_in_order_and_the_first_of_a_passage_is_marked(small):
    questions = read_questions(small)
    assert [(question.id, question.first) for question in questions] == [
        ("a1", True),
        ("a2", False),
        ("b1", True),
        ("c1", True),
        ("c2", False),
    ]
    assert questions[0].golds == ("Ann", "Ann, with 3")
    assert [one.id for one in choose(questions, only_first=True, limit=2)] == ["a1", "b1"]
    assert [one.id for one in choose(questions, only_first=False, limit=2)] == ["a1", "a2"]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, {"a1": True}),
        (2, {"a1": True, "a2": True, "b1": False}),
        (3, {"a1": True, "a2": True, "b1": True, "c1": False}),
        (9, dict.fromkeys(["a1", "a2", "b1", "c1", "c2"], True)),
        (None, dict.fromkeys(["a1", "a2", "b1", "c1", "c2"], True)),
    ],
)
def test_a_limit_counts_under_each_protocol(small, limit, expected):
    questions = read_questions(small)
    both = choose(questions, only_first=False, limit=limit, each_protocol=True)
    assert {one.id: one.official for one in both} == expected
    # each protocol finds in them what it would have chosen alone
    for only_first in (True, False):
        alone = [one.id for one in choose(questions, only_first=only_first, limit=limit)]
        assert [one.id for one in choose(both, only_first=only_first, limit=None)] == alone
    assert choose(both, only_first=False, limit=limit, each_protocol=True) == both


def test_the_prompt_is_the_contests_to_the_byte(small):
    assert read_questions(small)[2].prompt == (
        "Read the passage and answer the question below.\n\n### Instruction:\nThe fair is in May.\n\n"
        "### Input:\nWhen is the fair?\n\n### Response:"
    )


def test_braces_in_a_passage_are_text(tmp_path, small):
    data = json.loads(small.read_text())
    data["data"][0]["paragraphs"][0]["context"] = "{question} {0}"
    prompt = read_questions(write(tmp_path / "d.json", data))[0].prompt
    assert "\n{question} {0}\n\n### Input:\nWho has cats?\n" in prompt


def test_the_shipped_set_is_what_its_command_makes(tmp_path):
    out = tmp_path / "reading.json"
    command = "-m converters.tiny reading --seed 2024 --paragraphs 300 --questions 2 -o"
    subprocess.run([sys.executable, *command.split(), str(out)], check=True)
    assert out.read_bytes() == SHIPPED.read_bytes()
    questions = read_questions(SHIPPED)
    assert len(questions) == 600
    assert sum(question.first for question in questions) == 300
    assert all(gold in question.context for question in questions for gold in question.golds)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("", UsageError, "d.json: empty"),
        ('{"data": [', UserError, "d.json: not JSON"),
        ([], UserError, "d.json: a list under 'data' is expected, as in SQuAD v1.1; found list"),
        ({"version": "1.1"}, UserError, "found version"),
        ({"data": []}, UsageError, "no question in it"),
        ({"data": [{"title": "t"}]}, UserError, r"data\[0\]: a list under 'paragraphs' .* found title"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, UserError, r"data\[0\].paragraphs\[0\]: a text under 'context'"),
    ],
)
def test_data_of_another_shape_says_where_and_what(tmp_path, value, error, message):
    with pytest.raises(error, match=message) as caught:
        read_questions(write(tmp_path / "d.json", value))
    assert "\n" not in str(caught.value)


def damaged(small, **changes):
    data = json.loads(small.read_text())
    entry = data["data"][0]["paragraphs"][0]["qas"][1]
    entry.update(changes)
    return write(small, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": []}, r"data\[0\].paragraphs\[0\].qas\[1\]: a2 has no answer; SQuAD v1.1 is expected"),
        ({"answers": None}, r"qas\[1\]: a list under 'answers'"),
        ({"answers": ["Ben"]}, r"qas\[1\]: a text under 'text' is expected, as in SQuAD v1.1; found str"),
        ({"id": 7}, r"qas\[1\]: a text under 'id'"),
        ({"id": "a1"}, "the id a1 is there twice"),
    ],
)
def test_a_bad_question_is_named(small, changes, message):
    with pytest.raises(UserError, match=message):
        read_questions(damaged(small, **changes))


class TestPredictions:
    TEXTS = {"a1": "Ann", "a2": "Ben\nAnn", "b1": "", "c1": "Alder", "c2": "Oakdale"}  # noqa: RUF012

    def test_texts_by_id_stand_beside_their_questions(self, tmp_path, small):
        path = write(tmp_path / "p.json", dict(reversed(self.TEXTS.items())))
        answers = read_answers(path, small, only_first=False)
        assert [(one.id, one.text, one.golds[0]) for one in answers] == [
            ("a1", "Ann", "Ann"),
            ("a2", "Ben\nAnn", "Ben"),
            ("b1", "", "May"),
            ("c1", "Alder", "the Alder"),
            ("c2", "Oakdale", "Oakdale"),
        ]

    def test_an_answer_ends_with_its_first_line_where_prompt_or_protocol_says_so(self, tmp_path, small):
        path = write(tmp_path / "p.json", {**self.TEXTS, "c1": "Alder\nOakdale"})
        by_prompt = read_answers(path, small, only_first=False, one_line=True)
        assert [one.text for one in by_prompt] == ["Ann", "Ben", "", "Alder", "Oakdale"]
        assert [one.text for one in read_answers(path, small, only_first=True)] == ["Ann", "", "Alder"]

    def test_only_what_is_graded_must_be_there(self, tmp_path, small):
        path = write(tmp_path / "p.json", {"a1": "Ann", "b1": "May", "c1": "Alder"})
        assert [one.id for one in read_answers(path, small, only_first=True)] == ["a1", "b1", "c1"]
        assert [one.id for one in read_answers(path, small, only_first=False, limit=1)] == ["a1"]
        with pytest.raises(UserError, match=r"2 of 5 questions have no prediction \(a2 first\)"):
            read_answers(path, small, only_first=False)

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            ("", UsageError, "p.json: empty"),
            ('{"a1": "Ann", "a2": "B', UserError, "p.json:1: not JSON"),
            ('{\n  "a1": "Ann",\n  "a2": "B', UserError, "p.json:1: not JSON"),
            ('{"a1": "Ann", "a1": "Ben"}', UserError, "p.json:1: the key 'a1' stands twice in one object"),
            ({**TEXTS, "z": ""}, UserError, r"1 of 6 ids are not in .*small.json \(z first\); is --data theirs"),
            ({**TEXTS, "a2": 3}, UserError, "the prediction of a2 is not a text but int"),
            ([], UserError, "no prediction in it"),
            ("[1]", UserError, "row 1: a text under predict or model_output or pred is expected; found int"),
            ('{"pred": "a"}\n{"pred": "b"}\n', UserError, "row 1: texts under 'pred' and 'label' .* found pred"),
            ('{"pred": "a", "label": "a"}\n{"pred": "b", "lab\n', UserError, "p.json:2: not JSON"),
            ('{"id": 1, "pred": "a", "label": "a"}\n' * 2, UserError, "row 2: the id 1 is there twice"),
        ],
    )
    def test_bad_files_say_where_and_what(self, tmp_path, small, value, error, message):
        with pytest.raises(error, match=message) as caught:
            read_answers(write(tmp_path / "p.json", value), small, only_first=True)
        assert "\n" not in str(caught.value)

    def test_a_torn_last_line_is_left_out_and_said(self, tmp_path, capsys):
        path = write(tmp_path / "p.jsonl", '{"pred": "a", "label": "a"}\n{"pred": "b", "lab')
        assert [one.text for one in read_answers(path, None, only_first=True)] == ["a"]
        assert "left out a torn last line; 1 rows are whole" in capsys.readouterr().err

    def test_rows_of_pred_and_label_need_no_data_and_are_for_one_protocol(self, tmp_path):
        path = write(tmp_path / "p.jsonl", '{"pred": "a\\nb", "label": "a"}\n{"pred": "", "label": "b"}\n')
        answers = read_answers(path, None, only_first=True)
        assert [(one.text, one.golds, one.finish_reason) for one in answers] == [
            ("a", ("a",), None),
            ("", ("b",), None),
        ]
        with pytest.raises(UserError, match="row 1: asked for the mindformers protocol"):
            read_answers(path, None, only_first=False)

    def test_predict_is_read_like_pred_and_one_row_like_many(self, tmp_path):
        path = write(tmp_path / "p.json", {"prompt": "?", "predict": "a", "label": "b"})
        assert [one.text for one in read_answers(path, None, only_first=True)] == ["a"]

    def test_data_that_is_not_needed_is_said(self, tmp_path, small, capsys):
        read_answers(write(tmp_path / "p.jsonl", '{"pred": "a", "label": "a"}\n'), small, only_first=True)
        assert "small.json is not read" in capsys.readouterr().err

    def test_without_data_the_shipped_set_is_meant(self, tmp_path):
        texts = {question.id: question.golds[0] for question in read_questions(SHIPPED)}
        answers = read_answers(write(tmp_path / "p.json", texts), None, only_first=False)
        assert all(one.text == one.golds[0] for one in answers)
