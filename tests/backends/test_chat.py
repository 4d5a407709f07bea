"""What a user of ``chat`` meets in a long or odd conversation; no model is needed for it."""

import json

import pytest

from backends.checkpoint.resolve import open_checkpoint
from backends.cli.chat import _command, _print_answer
from backends.generation.chat import Chat, check_system
from backends.generation.types import Answer, Limits
from converters.common.errors import UserError
from converters.text.template import get_template


class Saying:
    """A model that says the same ids to everything and remembers what it was asked."""

    def __init__(self, ids, reason="stop"):
        self.ids, self.reason, self.asked = ids, reason, []

    def start(self, rows, stop_ids, limits):
        self.asked.append((next(iter(rows)), len(next(iter(rows.values()))), limits))
        return self

    def step(self):
        return [(0, Answer(self.ids, self.reason))]


@pytest.fixture
def files(tmp_path, tiny_tokenizer):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    (folder / "template.json").write_text(json.dumps(get_template("bare").to_json()))
    for file in tiny_tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return open_checkpoint(folder)


def ask(chat, question):
    return "".join(chat.answer(question))


def test_each_question_draws_its_own_random_numbers(files):
    model = Saying([50])
    chat = Chat(files, model, Limits(4))
    for question in ("same", "same"):
        ask(chat, question)
        chat.reset(None)
    assert [number for number, _, _ in model.asked] == [0, 1]


def test_an_answer_gets_the_positions_that_are_left(files, capsys):
    assert files.positions == 40
    model = Saying([50] * 3, "length")
    chat = Chat(files, model, Limits(16), positions=files.positions)
    ask(chat, "x" * 20)
    assert model.asked[-1][1:] == (21, Limits(16))
    assert "cut after 16 tokens; --max-new-tokens" in capsys.readouterr().err
    ask(chat, "y" * 10)
    length, limits = model.asked[-1][1:]
    assert limits == Limits(40 - length)
    assert "the 40 tokens that the model was made for are full; /reset" in capsys.readouterr().err
    turns = list(chat.turns)
    with pytest.raises(UserError, match="tokens of the 40 that the model was made for; /reset starts anew"):
        ask(chat, "z" * 30)
    assert chat.turns == turns
    chat.reset(None)
    ask(chat, "again")


def test_a_model_that_says_nothing_is_said_to(files, capsys):
    chat = Chat(files, Saying([]), Limits(4))
    _print_answer(chat, "why?")
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert "no answer: the model ended it at once; --min-new-tokens 1" in captured.err


def test_a_system_text_without_a_place_changes_nothing(files):
    chat = Chat(files, Saying([50]), Limits(4))
    ask(chat, "one")
    turns = list(chat.turns)
    with pytest.raises(UserError, match="template bare has no place for a system turn"):
        _command(chat, "/system Be brief.")
    assert chat.turns == turns
    check_system(files, None)
    with pytest.raises(UserError, match="no place for a system turn"):
        check_system(files, "Be brief.")


def test_unknown_commands_are_named(files, capsys):
    _command(Chat(files, Saying([50]), Limits(4)), "/rest")
    assert "unknown command /rest; commands: /reset" in capsys.readouterr().err
