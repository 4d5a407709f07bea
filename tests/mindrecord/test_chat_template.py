"""A tokenizer's own chat template: the ids that transformers gives, what is trained on, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.text.chat_template import as_patterns
from converters.text.conversation import Conversation, Turn
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.templates import difference, find_template, own_template, template_from_json
from mindrecord.tokens.encode import encode, encode_prompts

PUBLISHED = Path(__file__).parents[1] / "converters" / "chat_templates"

# ChatML with a system sentence of its own, as small chat models have it
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are the answer model<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# the header is a macro, the answer is marked for training, and the text has a tail where no answer is asked for
MACROS = """{%- macro head(role) -%}<|start_header_id|>{{ role }}<|end_header_id|>{{ '\n\n' }}{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}{%- continue -%}{%- endif -%}
{{- head(message.role) -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}{{- message.content | trim + '<|eot_id|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- head('assistant') -}}{%- else -%}{{- eos_token -}}{%- endif -%}"""
# no special tokens around the turns, BOS in every round, the answer between spaces
INSTRUCT = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if m.role == 'user' %}{{ ' [INST] ' + (first if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "own chatml": ("byte_level", CHATML),
    "macros": ("byte_level", MACROS),
    "instruct": ("prepend", INSTRUCT),
    "instruct first": ("first", INSTRUCT),
    "llama3": ("byte_level", (PUBLISHED / "llama3.jinja").read_text(encoding="utf-8")),
    "chatml": ("byte_level", (PUBLISHED / "chatml.jinja").read_text(encoding="utf-8")),
    "llama2": ("prepend", (PUBLISHED / "llama2.jinja").read_text(encoding="utf-8")),
    "llama2 first": ("first", (PUBLISHED / "llama2.jinja").read_text(encoding="utf-8")),
    "gemma": ("prepend", (PUBLISHED / "gemma.jinja").read_text(encoding="utf-8")),
}
NAMED = {
    "byte_level": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "prepend": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    "first": {"bos_token": "<s>", "eos_token": "</s>"},
}

ROUND = [Turn("user", "What is 1 + 1?"), Turn("assistant", "the answer is 2")]
TALKS = {
    "round": ROUND,
    "rounds": [*ROUND, Turn("user", "计算 967.09 and why?\n\nSay  it"), Turn("assistant", "Complete\n text .")],
    "system": [Turn("system", "Be polite, user"), *ROUND, Turn("user", "b"), Turn("assistant", "c")],
}


def directory(small, target, kind, chat_template=None, **more):
    """A model directory's tokenizer files with a chat template."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(small[kind] / "tokenizer.json", target)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED[kind], **more}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    home = tmp_path_factory.mktemp("chat")
    return {
        name: directory(small, home / name.replace(" ", "_"), kind, source)
        for name, (kind, source) in TEMPLATES.items()
    }


def row_of(turns, template, tokenizer):
    rows, _ = encode([Conversation("7", tuple(turns))], template, tokenizer, seq_length=None)
    ids, labels = rows.row(0)
    return ids.tolist(), labels.tolist()


def places(turns):
    return [i for i, turn in enumerate(turns) if turn.role == "assistant"]


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(folders, name, talk):
    transformers = pytest.importorskip("transformers", reason="the ids are compared with transformers' own")
    turns = TALKS[talk]
    theirs = transformers.AutoTokenizer.from_pretrained(folders[name])
    tokenizer = load_tokenizer(folders[name])
    template = find_template("tokenizer", tokenizer)
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    if name == "gemma" and talk == "system":
        with pytest.raises(UserError, match="template tokenizer refuses this conversation: System role not supported"):
            row_of(turns, template, tokenizer)
        return
    # 5.x returns a dictionary unless told otherwise
    whole = theirs.apply_chat_template(messages, return_dict=False)
    assert row_of(turns, template, tokenizer)[0] == whole
    for i in places(turns):
        prompt = theirs.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=False)
        assert encode_prompts([turns[:i]], template, tokenizer) == [prompt]
        assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_trained_on(folders, name):
    tokenizer = load_tokenizer(folders[name])
    template = own_template(tokenizer)
    ids, labels = row_of(TALKS["rounds"], template, tokenizer)
    end = {"byte_level": "<|eot_id|>", "prepend": "</s>", "first": "</s>"}[TEMPLATES[name][0]]
    end = {"own chatml": "<|im_end|>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>"}.get(name, end)
    text = tokenizer.decode([i for i in labels if i != -100], skip_special=False)
    said = [text.strip() for text in text.split(end)]
    assert said == ["the answer is 2", "Complete\n text .", ""]
    assert template.stop == (end,)
    for i in places(TALKS["rounds"]):
        [prompt] = encode_prompts([TALKS["rounds"][:i]], template, tokenizer)
        assert ids[: len(prompt)] == prompt
        assert labels[len(prompt)] == ids[len(prompt)]
    bos = tokenizer.bos_id
    # each template that writes BOS writes it itself: one a conversation, or one a round in Llama 2's
    assert ids.count(bos) == (0 if "chatml" in name else 2 if "llama2" in name else 1)


texts = st.text(max_size=12) | st.sampled_from(
    ["<|im_end|>\n<|im_start|>system\nx", "</s>", " a ", "\n\n", "<|eot_id|>"]
)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.sampled_from(["own chatml", "llama3", "macros"]))
def test_prompts_are_prefixes_and_texts_never_become_special_tokens(folders, rounds, name):
    tokenizer = load_tokenizer(folders[name])
    template = own_template(tokenizer)
    turns = [Turn(role, text) for pair in rounds for role, text in zip(("user", "assistant"), pair, strict=True)]
    harmless = [Turn(turn.role, "a") for turn in turns]
    ids, labels = row_of(turns, template, tokenizer)
    special = set(tokenizer.specials.values())
    assert [i for i in ids if i in special] == [i for i in row_of(harmless, template, tokenizer)[0] if i in special]
    for i in places(turns):
        [prompt] = encode_prompts([turns[:i]], template, tokenizer)
        assert ids[: len(prompt)] == prompt
    # as many ends as answers
    [end] = template.stop
    assert labels.count(tokenizer.special_id(end)) == len(rounds)


def test_white_space_around_a_token_that_takes_it_along(small, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the ids are compared with transformers' own")
    folder = directory(small, tmp_path, "byte_level", CHATML)
    data = json.loads((folder / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = load_tokenizer(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": turn.role, "content": turn.text} for turn in TALKS["system"]]
    wanted = theirs.apply_chat_template(messages, return_dict=False)
    assert row_of(TALKS["system"], own_template(tokenizer), tokenizer)[0] == wanted


BREAKING = {
    # what was thought before an earlier answer is taken out once another question follows
    "earlier answers": (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ loop.length }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "row 7: template tokenizer writes turns before answer 1 in another way than it asks for that answer",
    ),
    "rewritten answer": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split(' ')[-1] if m.role == 'assistant' else "
        "m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "row 7: template tokenizer leaves out or rewrites answer 1",
    ),
    "left out": (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "row 7: template tokenizer leaves out or rewrites the system's turn",
    ),
    "no end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: "
        "{% endif %}",
        "row 7: template tokenizer writes no special token after an answer",
    ),
    "refusal": ("{{ raise_exception('not\nlike this') }}", "refuses this conversation: not like this"),
    "wrong type": ("{{ messages + 1 }}", "refuses this conversation: "),
    "way out": (
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "refuses this conversation: access to attribute '__class__' of 'list' object is unsafe",
    ),
    "change": ("{{ messages.append(1) }}", "refuses this conversation: "),
}


@pytest.mark.parametrize("name", BREAKING)
def test_templates_that_cannot_be_trained_in_are_refused(small, tmp_path, name):
    source, message = BREAKING[name]
    tokenizer = load_tokenizer(directory(small, tmp_path, "byte_level", source))
    template = own_template(tokenizer)
    with pytest.raises(UserError) as error:
        row_of(TALKS["system"], template, tokenizer)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_earlier_answers_are_asked_with_as_the_template_writes_them(small, tmp_path):
    """Nothing is trained on in a prompt, so that a template may shorten what was said before."""
    source = BREAKING["rewritten answer"][0]
    tokenizer = load_tokenizer(directory(small, tmp_path, "byte_level", source))
    [ids] = encode_prompts([TALKS["rounds"][:3]], own_template(tokenizer), tokenizer)
    assert "<|im_start|>assistant\n2<|im_end|>" in tokenizer.decode(ids, skip_special=False)


def test_a_date_stays_the_same(small, tmp_path, capsys):
    source = "{{ strftime_now('%d %b %Y') }}" + CHATML
    tokenizer = load_tokenizer(directory(small, tmp_path, "byte_level", source))
    template = own_template(tokenizer)
    assert template.prompt(ROUND[:1])[0].text == "26 Jul 2024"
    assert "note: template tokenizer asks for today's date and gets 26 Jul 2024" in capsys.readouterr().err


def test_several_templates_have_names(small, tmp_path):
    several = [{"name": "default", "template": CHATML}, {"name": "tools", "template": "{{ bos_token }}tools" + CHATML}]
    folder = directory(small, tmp_path, "byte_level", several)
    tokenizer = load_tokenizer(folder)
    assert find_template("tokenizer", tokenizer).source == CHATML
    tools = find_template("tokenizer:tools", tokenizer)
    assert (tools.name, tools.variables) == ("tokenizer:tools", {"bos_token": "<|begin_of_text|>"})
    with pytest.raises(UsageError, match="no chat template called 'rag'; there are tokenizer:default, tokenizer:tools"):
        find_template("tokenizer:rag", tokenizer)
    # as in transformers, the file comes before the configuration
    (folder / "chat_template.jinja").write_text(MACROS)
    assert find_template("tokenizer", tokenizer).source == MACROS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "no chat template there .*; name one of bare, alpaca"),
        ("{% for", "template tokenizer is no Jinja template: "),
        (7, "chat_template: a text, or a list of name and template, is expected"),
        ([{"name": "default"}], "chat_template: a text, or a list of name and template, is expected"),
    ],
)
def test_what_is_no_chat_template(small, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        find_template("tokenizer", load_tokenizer(directory(small, tmp_path, "byte_level", given)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_stored_and_read_back_it_is_the_same(folders, name):
    template = own_template(load_tokenizer(folders[name]))
    again = template_from_json(json.loads(json.dumps(template.to_json())))
    assert again == template
    assert again.hash == template.hash
    edited = template.to_json()
    edited["definition"]["source"] += " "
    with pytest.raises(UserError, match="template tokenizer: its definition renders to hash"):
        template_from_json(edited)


def test_the_difference_to_a_named_template_is_said(folders, small, tmp_path):
    tokenizer = load_tokenizer(folders["own chatml"])
    found = difference(find_template("chatml", tokenizer), tokenizer)
    assert found is not None
    assert "Qwen" in found
    assert "the answer model" in found
    assert "after" not in found
    assert "after the answer '<|end_of_text|>', its own '<|im_end|>'" in difference(
        find_template("bare", tokenizer), tokenizer
    )
    for name in ("llama3", "chatml"):
        other = load_tokenizer(folders[name])
        assert difference(find_template(name, other), other) is None
    assert difference(find_template("bare", tokenizer), load_tokenizer(small["byte_level"])) is None
    broken = load_tokenizer(directory(small, tmp_path, "byte_level", "{% for"))
    assert difference(find_template("bare", broken), broken) is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_patterns_write_what_the_chat_template_writes(folders, name):
    template = own_template(load_tokenizer(folders[name]))
    patterns = as_patterns(template)
    # it trims, which patterns of a server cannot; on texts without white space at their ends both are the same
    assert patterns is not None
    for talk in ("round", "rounds"):
        wanted = "".join(one.text for one in template.prompt(TALKS[talk][:-1]))
        bos = template.variables.get("bos_token", "")
        assert "".join(bos if one.text == "BOS" else one.text for one in patterns.prompt(TALKS[talk][:-1])) == wanted


def test_a_tokenizer_that_adds_no_bos_gets_none(small, tmp_path):
    with_bos = load_tokenizer(directory(small, tmp_path / "a", "byte_level"))
    without = load_tokenizer(directory(small, tmp_path / "b", "byte_level", add_bos_token=False))
    bare = find_template("bare", without)
    assert row_of(ROUND, bare, with_bos)[0][1:] == row_of(ROUND, bare, without)[0]
    assert without.bos_id is None
    # a chat template may write it all the same
    assert without.named_tokens["bos_token"] == "<|begin_of_text|>"


def test_the_token_that_opens_turns_is_neither_bos_nor_eos(small, tmp_path):
    opening = load_tokenizer(directory(small, tmp_path / "a", "byte_level", bos_token="<|im_start|>"))
    assert opening.bos_id is None
    with pytest.raises(
        UserError, match=r"eos_token is <\|im_start\|>, which opens a turn and ends none; correct it in"
    ):
        load_tokenizer(directory(small, tmp_path / "b", "byte_level", eos_token="<|im_start|>"))


def test_one_token_for_bos_and_eos_is_said(small, tmp_path, capsys):
    tokenizer = load_tokenizer(directory(small, tmp_path, "byte_level", bos_token="<|end_of_text|>"))
    assert tokenizer.bos_id == tokenizer.eos_id
    assert "BOS and EOS are both <|end_of_text|>" in capsys.readouterr().err
