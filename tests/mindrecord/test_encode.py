"""Token rows: the prompt is a prefix, ids are those of the whole text, and no text becomes a special token."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.text.base import BOS, EOS
from converters.text.conversation import Conversation, Turn, problem_row
from converters.text.template import get_template, special_names, template_names
from mindrecord.tokens.encode import encode, encode_prompts

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(max_size=12) | st.sampled_from(
    [" a ", "\n\nb\n", "计算 967.09 - -688.16", "</s>", "<|eot_id|>", "", "  two", "🙂‍↔️", "the answer", "e\u0301"]
)
rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
systems = st.none() | texts


def talk(rounds, system=None, name=""):
    """A conversation that suits the template: no system turn, or one question, where there is no place for more."""
    turns = [Turn(role, text) for q, a in rounds for role, text in (("user", q), ("assistant", a))]
    if name == "squad":
        turns = [Turn("user", f"passage\n\n{turns[0].text.replace(chr(10), '')}"), turns[1]]
    if system is not None and name not in ("bare", "gemma", "squad"):
        turns.insert(0, Turn("system", system))
    return Conversation("7", tuple(turns))


def row_of(conversation, template, tokenizer):
    rows, _ = encode([conversation], template, tokenizer, seq_length=None)
    return rows.row(0)


def suits(template, tokenizer):
    return all(name in tokenizer.specials for name in template.special)


@pytest.mark.parametrize("name", template_names())
@quick
@given(rounds, systems)
def test_prompt_ids_are_a_prefix_of_the_training_ids(tokenizer, name, rounds, system):
    template = get_template(name)
    if not suits(template, tokenizer):
        pytest.skip(f"{name} has tokens that this vocabulary lacks")
    conversation = talk(rounds, system, name)
    ids, labels = row_of(conversation, template, tokenizer)
    answers = [i for i, turn in enumerate(conversation.turns) if turn.role == "assistant"]
    prompts = encode_prompts([conversation.turns[:i] for i in answers], template, tokenizer)
    for prompt in prompts:
        assert ids[: len(prompt)].tolist() == prompt
        # the model writes what follows, from its first token on (a row's very first is nobody's target)
        assert labels[len(prompt)] == ids[len(prompt)] or not prompt
    assert (labels[: len(prompts[0])] == -100).all()


def test_worked_example_of_the_contest(genuine):
    row = problem_row("计算 967.09 - -688.16 等于多少？", "计算过程：967.09 - -688.16 = 1655.25", "1")
    ids, labels = row_of(row, get_template("vicuna"), genuine)
    assert len(ids) == 69
    assert (labels == -100).sum() == 50
    assert (labels[:50] == -100).all()
    learnt = [genuine.decode([i], skip_special=False) for i in labels[50:]]
    assert learnt == [*" 计/算/过程/：/967/./09/ -/ -/688/./16/ =/ /165/5/./25".split("/"), "<|end_of_text|>"]
    assert (ids[0], ids[-1]) == (128000, 128001)


def joint_ids(text, tokenizer):
    """Ids of a whole text, special tokens parsed, by the library alone."""
    if hasattr(tokenizer, "ranks"):
        return tokenizer._encoding.encode(text, allowed_special="all")
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer.source)).encode(text, add_special_tokens=False).ids


def whole_text(template, conversation, tokenizer):
    name_of = {i: name for name, i in tokenizer.specials.items()}
    roles = {BOS: name_of[tokenizer.bos_id], EOS: name_of[tokenizer.eos_id]}
    return "".join(roles.get(s.text, s.text) if s.special else s.text for s in template.render(conversation))


@pytest.mark.parametrize("name", ["llama3", "chatml", "gemma", "llama2"])
@quick
@given(rounds, systems)
def test_ids_are_those_of_the_chat_templates_whole_text(tokenizer, name, rounds, system):
    template = get_template(name)
    if not suits(template, tokenizer):
        pytest.skip(f"{name} has tokens that this vocabulary lacks")
    said = [text for pair in rounds for text in pair] + [system or ""]
    assume(not any(special in text for special in [*tokenizer.specials, *special_names()] for text in said))
    # ChatML does not trim: a line break at an answer's beginning would join the one of the prompt
    assume(name != "chatml" or not any(answer[:1].isspace() for _, answer in rounds))
    conversation = talk(rounds, system, name)
    ids, _ = row_of(conversation, template, tokenizer)
    assert ids.tolist() == joint_ids(whole_text(template, conversation, tokenizer), tokenizer)


@pytest.mark.parametrize("name", ["bare", "alpaca", "vicuna", "squad"])
@pytest.mark.parametrize("question", ["计算 1 + 1 等于多少？", " two  spaces", "Who?", "3x = 6"])
def test_cutting_the_fixed_beginning_off_changes_no_id(tokenizer, name, question):
    template = get_template(name)
    turns = talk([(question, "")], name=name).turns[:1]
    (prompt,) = encode_prompts([turns], template, tokenizer)
    text = "".join(s.text for s in template.prompt(turns) if not s.special)
    bos = [tokenizer.bos_id] * (name != "squad")
    assert prompt == bos + tokenizer.encode_batch([text])[0]


@pytest.mark.parametrize("name", template_names())
def test_names_of_special_tokens_in_a_text_stay_text(tokenizer, name):
    template = get_template(name)
    if not suits(template, tokenizer):
        pytest.skip(f"{name} has tokens that this vocabulary lacks")
    special = set(tokenizer.specials.values()) - {tokenizer.unk_id}

    def specials_in(text):
        ids, _ = row_of(talk([(text, text)], text, name), template, tokenizer)
        return [i for i in ids.tolist() if i in special], ids

    names = [*tokenizer.specials, *special_names(), "<s>", "</s>", "<bos>"]
    innocent, _ = specials_in("a")
    attack = "".join(f"{name} x {name}" for name in names)
    found, ids = specials_in(attack)
    assert found == innocent
    assert attack.strip() in tokenizer.decode(ids)


def test_a_text_of_a_hundred_rows_equals_each_row_alone(tokenizer):
    template = get_template("vicuna")
    many = [problem_row(f"计算 {i} + 1", str(i + 1), f"r{i}") for i in range(100)]
    rows, audit = encode(many, template, tokenizer, seq_length=None)
    assert rows.ids == [f"r{i}" for i in range(100)]
    for i, one in enumerate(many):
        for together, alone in zip(rows.row(i), row_of(one, template, tokenizer), strict=True):
            assert together.tolist() == alone.tolist()
            assert together.dtype == np.int32
    assert audit.tokens == len(rows.input_ids) == rows.offsets[-1] == rows.lengths.sum()
    assert audit.supervised == (rows.labels != -100).sum()


def test_the_first_label_is_never_a_target(small):
    # without BOS and question, the first id is the answer's: nothing stands before it that could predict it
    from converters.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(small["byte_level"])
    tokenizer.bos_id = None
    ids, labels = row_of(problem_row("", "ab", "1"), get_template("bare"), tokenizer)
    assert labels.tolist() == [-100, *ids[1:].tolist()]


@pytest.fixture(scope="module")
def lengths_of(small):
    """Rows of the byte-level tokenizer, and how many ids the longest has."""
    from converters.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(small["byte_level"])
    rows = [problem_row("q" * n, "x" * n, f"r{n}") for n in (3, 9, 5, 7)]  # 2 n + 2 ids each
    return rows, get_template("bare"), tokenizer


def test_a_row_of_one_id_more_than_seq_length_fits(lengths_of):
    rows, audit = encode(*lengths_of, seq_length=15)
    assert rows.lengths.tolist() == [8, 12, 16]
    assert rows.ids == ["r3", "r5", "r7"]
    assert (audit.rows, audit.kept, audit.dropped, audit.examples) == (4, 3, 1, {"dropped": ["r9"]})
    rows, audit = encode(*lengths_of, seq_length=14)
    assert rows.ids == ["r3", "r5"]
    assert audit.dropped == 2


def test_truncated_rows_lose_their_end_and_are_counted(lengths_of):
    rows, audit = encode(*lengths_of, seq_length=7, over_length="truncate")
    whole, _ = encode(*lengths_of, seq_length=None)
    assert rows.lengths.tolist() == [8, 8, 8, 8]
    for i in range(4):
        for cut, full in zip(rows.row(i), whole.row(i), strict=True):
            assert cut.tolist() == full[:8].tolist()
    # of r9 only BOS and seven letters of the question are left
    assert (audit.truncated, audit.unsupervised, audit.dropped) == (3, 2, 0)
    assert audit.examples == {"truncated": ["r9", "r5", "r7"], "unsupervised": ["r9", "r7"]}
    with pytest.raises(UserError, match=r"2 of 4 rows \(50\.0%\) have no token to train on \(row r9 is the first\)"):
        audit.check()
    audit.check(max_unsupervised=0.5)


def test_over_length_as_an_error_names_the_longest_row(lengths_of):
    with pytest.raises(UserError, match="1 of 4 rows are longer than seq_length=15; the longest, row r9, has 20 ids"):
        encode(*lengths_of, seq_length=15, over_length="error")
    assert len(encode(*lengths_of, seq_length=19, over_length="error")[0]) == 4


def test_nothing_left_is_refused(lengths_of):
    rows, audit = encode(*lengths_of, seq_length=2)
    assert len(rows) == 0
    with pytest.raises(UserError, match="no row is left of 4: 4 are longer than seq_length=2"):
        audit.check()


def test_empty_answers_are_counted(lengths_of):
    _, template, tokenizer = lengths_of
    rows = [problem_row("q", "", "e1"), problem_row("q", "a", "e2"), problem_row("q" * 50, " ", "e3")]
    _, audit = encode(rows, template, tokenizer, seq_length=9)
    assert (audit.empty, audit.examples["empty"]) == (1, ["e1"])


def test_what_the_vocabulary_cannot_spell_is_counted(tmp_path, small):
    from converters.tokenizers.load import load_tokenizer

    data = json.loads((small["prepend"] / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["byte_fallback"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    _, audit = encode(
        [problem_row("🙂 a 🙂", "b", "1")], get_template("bare"), load_tokenizer(tmp_path), seq_length=None
    )
    assert audit.unknown == 2
    assert any("2 tokens the vocabulary cannot spell" in line for line in audit.lines())


def test_wrong_use(lengths_of):
    with pytest.raises(UsageError, match="over_length is 'cut'"):
        encode(*lengths_of, seq_length=9, over_length="cut")
    with pytest.raises(UsageError, match="seq_length is 0"):
        encode(*lengths_of, seq_length=0)


def test_a_bad_prompt_is_named_by_number(lengths_of):
    _, template, tokenizer = lengths_of
    with pytest.raises(UserError, match=r"prompt 2: the last turn is not the user's"):
        encode_prompts([[Turn("user", "a")], [Turn("user", "a"), Turn("assistant", "b")]], template, tokenizer)


def test_no_prompts_and_no_rows(lengths_of):
    _, template, tokenizer = lengths_of
    assert encode_prompts([], template, tokenizer) == []
    rows, audit = encode([], template, tokenizer, seq_length=9)
    assert (len(rows), audit.rows, audit.histogram) == (0, 0, [])


def test_llama2_keeps_a_space_out_of_the_answer(small):
    """Without care each segment would start with SentencePiece's own space: `▁▁b` after `[/INST]`."""
    from converters.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(small["prepend"])
    ids, labels = row_of(problem_row("a", "the", "1"), get_template("llama2"), tokenizer)
    vocab = {i: piece for piece, i in tokenizer._ids.items()}
    assert [vocab[i] for i in ids[labels != -100]] == ["▁the", "▁", "</s>"]
    assert vocab[int(ids[1])].startswith("▁")
