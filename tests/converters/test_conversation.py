"""Conversations: two file shapes read, and every other shape refused by file, row and key."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.pipeline.rows import Row
from converters.text.conversation import Conversation, Turn, problem_row, read_conversations, to_sharegpt


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


TALK = {"id": "a1", "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}


def test_sharegpt_lines_and_array(tmp_path):
    expected = [problem_row("问", "答", "a1"), problem_row("问", "答", "2")]
    rows = [TALK, {"conversations": TALK["conversations"]}]
    assert read_conversations(write(tmp_path / "a.jsonl", *rows)) == expected
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    assert read_conversations(tmp_path / "a.json") == expected
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as handle:
        handle.write((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    assert read_conversations(tmp_path / "a.jsonl.gz") == expected


def test_sharegpt_roles_and_system(tmp_path):
    turns = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]
    path = write(
        tmp_path / "a.jsonl",
        {"system": "S", "conversations": turns},
        {"conversations": [{"from": "system", "value": "S"}, *turns, {"from": "human", "value": "and?"}]},
    )
    first, second = read_conversations(path)
    assert first.turns == (Turn("system", "S"), Turn("user", "q"), Turn("assistant", "a"))
    assert second.turns == (*first.turns, Turn("user", "and?"))


def test_alpaca(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "input": "x", "output": "a", "system": "S", "history": [["q0", "a0"]]},
    )
    first, second = read_conversations(path)
    assert first == problem_row("q", "a", "1")
    assert [(turn.role, turn.text) for turn in second.turns] == [
        ("system", "S"),
        ("user", "q0"),
        ("assistant", "a0"),
        ("user", "q\nx"),
        ("assistant", "a"),
    ]


texts = st.text(max_size=10)
rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
talks = st.builds(
    lambda id, system, pairs: Conversation(
        id,
        (
            *([Turn("system", system)] if system else []),
            *(turn for q, a in pairs for turn in (Turn("user", q), Turn("assistant", a))),
        ),
    ),
    texts,
    texts,
    rounds,
)


def alpaca(talk):
    system = talk.turns[0].text if talk.turns[0].role == "system" else ""
    said = [turn.text for turn in talk.turns if turn.role != "system"]
    history = tuple(zip(said[:-2:2], said[1:-2:2], strict=True))
    return Row("talk", talk.id, said[-2], said[-1], system=system, history=history).alpaca("id")


@given(st.lists(talks, min_size=1, max_size=3), st.sampled_from([to_sharegpt, alpaca]))
def test_what_is_written_is_read_back(tmp_path_factory, talks, form):
    path = write(tmp_path_factory.mktemp("talks") / "a.jsonl", *map(form, talks))
    assert read_conversations(path) == talks


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1], "a JSON object is expected, found a list"),
        ({"problem": "1+1", "solution": "2"}, "found the keys 'problem', 'solution'; expected 'conversations'"),
        ({"conversations": []}, "'conversations' must be a list of turns, found an empty list"),
        ({"conversations": [{"role": "user", "content": "q"}]}, "turn 1: found 'role', 'content'; expected the keys"),
        ({"conversations": [{"from": "tool", "value": "q"}]}, "turn 1: 'from' is 'tool'; known are system, human"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 1: 'value' must be a string, found a number"),
        ({"conversations": [{"from": "human", "value": None}]}, "must be a string, found null"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "turn 1 is the assistant's where the user's is expected"),
        ({"conversations": TALK["conversations"][:1] * 2}, "turn 2 is the user's where the assistant's is expected"),
        ({"system": "S", "conversations": [{"from": "system", "value": "T"}]}, "turn 2 is the system's"),
        ({"instruction": "q", "input": ""}, "found 'instruction' but no 'output'"),
        ({"instruction": "q", "output": ["a"]}, "'output' must be a string, found a list"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "'history' entry 1 must be [question, answer]"),
        ({"instruction": "q", "output": "a", "history": {}, "input": 5}, "'input' must be a string, found a number"),
    ],
)
def test_another_shape_is_refused_by_file_row_and_key(tmp_path, row, words):
    path = write(tmp_path / "a.jsonl", TALK, row)
    with pytest.raises(UserError) as caught:
        read_conversations(path)
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "q", "output": "bad \\ud83d"}')
    with pytest.raises(UserError, match=r"a\.jsonl:1: half of a surrogate pair \(\\ud83d\)"):
        read_conversations(tmp_path / "a.jsonl")


def test_empty_and_missing_files_are_wrong_use(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        with pytest.raises(UsageError, match=name):
            read_conversations(tmp_path / name)
