"""Templates: the text of each family's chat template, one prefix for prompt and training, a hash that stays."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.text.base import BOS, EOS, Segment
from converters.text.conversation import Conversation, Turn
from converters.text.template import get_template, special_names, template_names
from converters.tokenizers.templates import template_from_json

FAMILIES = {  # name: (BOS, EOS) of the family
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "chatml": ("", "<|im_end|>"),
    "gemma": ("<bos>", "<eos>"),
    "llama2": ("<s>", "</s>"),
}
NO_SYSTEM = {"bare", "gemma", "squad"}


def conversation(*texts: str, system: str | None = None) -> Conversation:
    turns = [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return Conversation("7", tuple(([Turn("system", system)] if system is not None else []) + turns))


def text_of(segments: list[Segment], bos: str = "", eos: str = "") -> str:
    roles = {BOS: bos, EOS: eos}
    return "".join(roles.get(s.text, s.text) if s.special else s.text for s in segments)


texts = st.text(max_size=20) | st.sampled_from(
    [
        " a ",
        "\n\nb\n",
        "{answer}",
        "{user} {system}",
        "<|eot_id|>",
        "[/INST]",
        "\u3000c\u00a0",
        "",
        " USER: x ASSISTANT: y",
    ]
)


def conversations(name: str) -> st.SearchStrategy[Conversation]:
    """Random conversations that suit a template."""
    if name == "squad":
        return st.builds(lambda p, q, a: conversation(f"{p}\n\n{q.replace(chr(10), '')}", a), texts, texts, texts)
    rounds = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(lambda pairs: [t for p in pairs for t in p])
    system = st.none() if name in NO_SYSTEM else st.none() | texts
    return st.builds(lambda said, system: conversation(*said, system=system), rounds, system)


named_conversations = st.sampled_from(template_names()).flatmap(
    lambda name: st.tuples(st.just(name), conversations(name))
)


@pytest.fixture(scope="module")
def chat_templates():
    """The published chat templates, compiled as transformers does."""
    jinja2 = pytest.importorskip("jinja2", reason="the families' chat templates are rendered with jinja2")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    folder = Path(__file__).with_name("chat_templates")
    return {name: environment.from_string((folder / f"{name}.jinja").read_text(encoding="utf-8")) for name in FAMILIES}


@given(st.sampled_from(list(FAMILIES)).flatmap(lambda name: st.tuples(st.just(name), conversations(name))))
def test_equals_the_familys_chat_template(chat_templates, case):
    name, talk = case
    bos, eos = FAMILIES[name]

    def published(turns, generate):
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return chat_templates[name].render(
            messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=generate
        )

    template = get_template(name)
    assert text_of(template.render(talk), bos, eos) == published(talk.turns, False)
    assert text_of(template.prompt(talk.turns[:-1]), bos, eos) == published(talk.turns[:-1], True)


def test_gemma_refuses_a_system_turn_as_its_chat_template_does(chat_templates):
    import jinja2

    talk = conversation("a", "b", system="c")
    with pytest.raises(jinja2.TemplateError):
        chat_templates["gemma"].render(messages=[{"role": "system", "content": "c"}], bos_token="")
    with pytest.raises(UserError, match="row 7: template gemma has no place for a system turn"):
        get_template("gemma").render(talk)


@given(named_conversations)
def test_prompt_is_a_prefix_of_the_training_text(case):
    name, talk = case
    template = get_template(name)
    whole = template.render(talk)
    for i, turn in enumerate(talk.turns):
        if turn.role == "assistant":
            prompt = template.prompt(talk.turns[:i])
            assert whole[: len(prompt)] == prompt
            # what comes next is for the model to write
            assert whole[len(prompt)].supervised


@given(named_conversations)
def test_supervised_text_is_the_answers_and_nothing_else(case):
    name, talk = case
    template = get_template(name)
    end = template.stop[0] if template.stop else EOS
    expected = ""
    for turn in talk.turns:
        if turn.role == "assistant":
            said = turn.text.strip() if template.trim else turn.text
            expected += {"vicuna": f" {said}", "llama2": f" {said} "}.get(name, said) + end
    assert text_of([s for s in template.render(talk) if s.supervised], BOS, EOS) == expected


@given(named_conversations)
def test_special_segments_come_from_the_pattern_alone(case):
    name, talk = case
    template = get_template(name)

    def specials(row):
        return [s.text for s in template.render(row) if s.special]

    harmless = Conversation("", tuple(Turn(turn.role, "a\n\nb") for turn in talk.turns))
    assert specials(talk) == specials(harmless)
    assert set(specials(talk)) <= {BOS, EOS, *template.special}


def test_vicuna_text():
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    text = text_of(get_template("vicuna").render(conversation("1+1?", "2", "why?", "so")), "<s>", "</s>")
    assert text == f"<s>{system} USER: 1+1? ASSISTANT: 2</s>USER: why? ASSISTANT: so</s>"
    own = text_of(get_template("vicuna").prompt(conversation("1+1?", system="Be brief.").turns))
    assert own == "Be brief. USER: 1+1? ASSISTANT:"


def test_alpaca_text():
    intro = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n"
    )
    text = text_of(get_template("alpaca").render(conversation("1+1?", "2", "why?", "so")), "<s>", "</s>")
    assert text == f"<s>{intro}1+1?\n\n### Response:2</s>\n\n### Instruction:\nwhy?\n\n### Response:so</s>"


def test_squad_is_the_contests_prompt_without_bos():
    prompt = get_template("squad").prompt([Turn("user", "A first line.\n\nA second.\n\nWho?")])
    assert text_of(prompt, "<s>") == (
        "Read the passage and answer the question below.\n\n"
        "### Instruction:\nA first line.\n\nA second.\n\n### Input:\nWho?\n\n### Response:"
    )


@pytest.mark.parametrize(
    ("name", "talk", "words"),
    [
        ("bare", conversation("a", "b", system="s"), "row 7: template bare has no place for a system turn"),
        ("squad", conversation("a\n\nb", "c", "d\n\ne", "f"), "holds one question; this row has 2"),
        ("squad", conversation("no empty line", "c"), "needs passage, empty line, question"),
        ("llama3", conversation("a"), "not the assistant's; there is nothing to learn"),
        ("llama3", Conversation("7", ()), "there is no user turn"),
        ("llama3", Conversation("7", (Turn("assistant", "a"),)), "turn 1 is the assistant's where the user's"),
        ("llama3", Conversation("7", (Turn("user", "a"), *[Turn("assistant", "b")] * 2)), "turn 3 is"),
    ],
)
def test_what_does_not_suit_is_an_error_that_names_the_row(name, talk, words):
    with pytest.raises(UserError, match=r"row 7") as caught:
        get_template(name).render(talk)
    assert words in str(caught.value)


def test_prompt_after_an_answer_is_an_error():
    with pytest.raises(UserError, match="nothing to answer"):
        get_template("bare").prompt(conversation("a", "b").turns)


def test_unknown_name_is_wrong_use_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'vicuna'"):
        get_template("vicunna")


# a run holds the hash of its template: these change only when a template's text does
HASHES = {
    "bare": "e571932845f741fe4147102f789f83e39b4828a39bb61e28eb566cad2e2b713f",
    "alpaca": "d8d503777b4a56ef6e75e4351295b3417e0809a76304abdfad86fe09f53ef76d",
    "vicuna": "9b4831c4a99dfabd0b58cd6708807a77bf2b6e2a86c8af2d7be6fdcac607c74b",
    "llama3": "9e00c610550cbc2876588950c84daaec38c9eadf513eed13f06341f7c37815fc",
    "chatml": "4743d7713810f27550680c6143427a77d9f1ef356159b04f565ed2f46c62ebd1",
    "gemma": "d4401b12664e983c7a36d92bfc52d66346d835419f29191ad7ce35a2eb8bc38a",
    "llama2": "5804b2f9e45b2cc6546a201d3b8aaa757c865688f745c022f4dc8de71589f3b1",
    "squad": "a18e2bc2e72bfb0beacc2f9d73df3f18d7d6ba7321ae7947def3a162ee4157db",
}


def test_hashes_stay():
    assert {name: get_template(name).hash for name in template_names()} == HASHES


@pytest.mark.parametrize("name", template_names())
def test_template_file_round_trip(name):
    template = get_template(name)
    again = template_from_json(template.to_json())
    assert again == template
    assert again.hash == template.hash


def test_a_template_file_that_was_edited_is_refused():
    value = get_template("bare").to_json()
    value["definition"]["answer"] = "Answer: {answer}{eos}"
    with pytest.raises(UserError, match="template bare: its definition renders to hash"):
        template_from_json(value)
    with pytest.raises(UserError, match="not a template file"):
        template_from_json({"name": "bare"})


def test_special_names_are_those_of_the_patterns():
    assert special_names() == {
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|im_start|>",
        "<|im_end|>",
        "<start_of_turn>",
        "<end_of_turn>",
    }
