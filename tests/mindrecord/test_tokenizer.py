"""Tokenizers: special tokens by name only, a pad that is not EOS, a hash over what determines ids."""

import base64
import json
import shutil

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.tiktoken_file import LLAMA3_SPECIAL


def edited(source, target, change=None, config=None):
    """Copy a tokenizer.json with a change, and give it a configuration."""
    data = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    if change:
        change(data)
    (target / "tokenizer.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    if config is not None:
        (target / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(target)


@pytest.fixture(scope="session")
def small_tiktoken(tmp_path_factory):
    """A tiktoken file of the 256 bytes, three merges, and a token that no merge leads to."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b"xyz"]
    path = tmp_path_factory.mktemp("tiktoken") / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens)))
    return path


def test_llama3_ids(genuine):
    assert (genuine.bos_id, genuine.eos_id, genuine.pad_id) == (128000, 128001, 128002)
    assert genuine.vocab_size == 128256
    assert len(LLAMA3_SPECIAL) == len(set(LLAMA3_SPECIAL)) == 256
    for name, i in [
        ("<|reserved_special_token_3|>", 128005),
        ("<|start_header_id|>", 128006),
        ("<|end_header_id|>", 128007),
        ("<|reserved_special_token_4|>", 128008),
        ("<|eot_id|>", 128009),
        ("<|reserved_special_token_5|>", 128010),
        ("<|reserved_special_token_250|>", 128255),
    ]:
        assert genuine.special_id(name) == i
    # numbers split into groups of up to three digits from the left
    assert [genuine.decode([i]) for i in genuine.encode_batch(["7451.51"])[0]] == ["745", "1", ".", "51"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# U+2581 is how SentencePiece writes a space, so its tokenizers cannot tell the two apart
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=20), max_size=4))
def test_text_survives(tokenizer, texts):
    for text, ids in zip(texts, tokenizer.encode_batch(texts, "inside"), strict=True):
        bos = [tokenizer.bos_id, *tokenizer.encode_batch(["x"], "inside")[0]]
        assert tokenizer.decode([*bos, *ids]) == tokenizer.decode(bos) + text


def test_decode_with_and_without_special_tokens(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode_batch(["the answer"], "inside")[0], tokenizer.eos_id]
    assert tokenizer.decode(ids) == "the answer"
    name_of = {i: name for name, i in tokenizer.specials.items()}
    assert tokenizer.decode(ids, skip_special=False) == (
        name_of[tokenizer.bos_id] + "the answer" + name_of[tokenizer.eos_id]
    )


def test_unknown_special_token_is_named(tokenizer):
    with pytest.raises(UserError, match=r"no special token '<\|im_strat\|>'"):
        tokenizer.special_id("<|im_strat|>")


def test_pad_is_never_eos(tokenizer):
    assert tokenizer.pad_id != tokenizer.eos_id
    assert 0 <= tokenizer.pad_id < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("kind", "config", "pad"),
    [
        ("byte_level", {}, "<|reserved_special_token_0|>"),
        ("byte_level", {"pad_token": "<|end_of_text|>"}, "<|reserved_special_token_0|>"),
        ("byte_level", {"pad_token": {"content": "Ġthe"}}, "Ġthe"),
        ("prepend", {}, "<unk>"),
        ("prepend", {"pad_token": "</s>"}, "<unk>"),
    ],
)
def test_choice_of_pad(small, tmp_path, capsys, kind, config, pad):
    tokenizer = edited(small[kind], tmp_path, config=config)
    assert tokenizer.pad_id == tokenizer._ids[pad]
    declared_eos = config.get("pad_token") in ("<|end_of_text|>", "</s>")
    assert ("pad is declared to be EOS" in capsys.readouterr().err) == declared_eos


def test_no_pad_to_be_had_is_an_error(small, tmp_path):
    def without_reserved(data):
        data["added_tokens"] = [t for t in data["added_tokens"] if "reserved" not in t["content"]]

    with pytest.raises(UserError, match="no pad token other than EOS"):
        edited(small["byte_level"], tmp_path, without_reserved, {"pad_token": "<|end_of_text|>"})


def test_eos_comes_from_the_configuration(small, tmp_path):
    tokenizer = edited(small["byte_level"], tmp_path, config={"eos_token": "<|eot_id|>", "bos_token": None})
    assert tokenizer.eos_id == tokenizer.special_id("<|eot_id|>")
    assert tokenizer.bos_id is None
    with pytest.raises(UserError, match="eos_token is '<end>', which is not in the vocabulary"):
        edited(small["byte_level"], tmp_path, config={"eos_token": "<end>"})
    with pytest.raises(UserError, match="no eos_token; name one in"):
        edited(small["byte_level"], tmp_path, config={"eos_token": None})


def test_a_turn_marker_that_is_not_flagged_special_is_still_no_text(small, tmp_path):
    def unflag(data):
        for token in data["added_tokens"]:
            token["special"] = False

    tokenizer = edited(small["byte_level"], tmp_path, unflag, {"pad_token": "<|reserved_special_token_0|>"})
    marker = tokenizer.special_id("<|eot_id|>")
    assert marker not in tokenizer.encode_batch(["a<|eot_id|>b"])[0]


def test_a_vocabulary_that_spells_a_special_token_is_refused_with_the_text(small, tmp_path):
    # a Unigram model may take any of its pieces, control tokens too
    data = json.loads((small["first"] / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = [["<unk>", 0.0], ["<s>", -1.0], ["</s>", -1.0], ["a", -2.0], ["▁", -2.0]]
    data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    data["added_tokens"] = data["added_tokens"][:3]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<unk>"}')
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="the text 'a</s>' spells the special token </s>"):
        tokenizer.encode_batch(["a", "aa", "a</s>", "a"])


def test_settings_that_cut_texts_are_ignored(small, tmp_path):
    def cut(data):
        data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    plain = load_tokenizer(small["byte_level"])
    tokenizer = edited(small["byte_level"], tmp_path, cut)
    assert tokenizer.encode_batch(["the answer is 3"]) == plain.encode_batch(["the answer is 3"])
    assert tokenizer.hash == plain.hash


def test_hash_is_of_what_determines_ids(small, tmp_path):
    plain = load_tokenizer(small["byte_level"])

    def save_as_older_libraries_did(data):
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        del data["model"]["ignore_merges"]
        data["decoder"] = None

    assert edited(small["byte_level"], tmp_path, save_as_older_libraries_did).hash == plain.hash
    hashes = {plain.hash}
    for change in (
        lambda data: data["model"]["merges"].pop(),
        lambda data: data.update(normalizer={"type": "NFC"}),
        lambda data: data["added_tokens"].pop(),
    ):
        hashes.add(edited(small["byte_level"], tmp_path, change).hash)
    hashes.add(edited(small["byte_level"], tmp_path, config={"eos_token": "<|eot_id|>"}).hash)
    assert len(hashes) == 5


@pytest.mark.parametrize("kind", ["byte_level", "prepend", "first"])
def test_saved_directory_is_the_same_tokenizer(small, tmp_path, kind):
    tokenizer = load_tokenizer(small[kind])
    tokenizer.save(tmp_path / "run")
    again = load_tokenizer(tmp_path / "run")
    assert again.hash == tokenizer.hash
    assert again.pad_id == tokenizer.pad_id
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    again.save(tmp_path / "run")  # onto itself
    assert load_tokenizer(tmp_path / "run").hash == tokenizer.hash


def test_saved_tiktoken_directory_is_read_from_the_genuine_file(small_tiktoken, tmp_path):
    tokenizer = load_tokenizer(small_tiktoken)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.source == tmp_path / "tokenizer.model"
    assert again.hash == tokenizer.hash
    # without the note of its origin, tokenizer.json goes first: its configuration may name other tokens
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).source == tmp_path / "tokenizer.json"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30) | st.text("the 1\n'sS", max_size=30) | st.sampled_from(["xyz", "xyzx", " xyz"]))
def test_converted_file_gives_the_same_ids(small_tiktoken, tmp_path_factory, text):
    tokenizer, converted = _converted(small_tiktoken, tmp_path_factory)
    assert converted.encode_batch([text]) == tokenizer.encode_batch([text])


_CACHE = {}


def _converted(path, tmp_path_factory):
    if path not in _CACHE:
        tokenizer = load_tokenizer(path)
        folder = tmp_path_factory.mktemp("converted")
        tokenizer.save(folder)
        _CACHE[path] = tokenizer, load_tokenizer(folder / "tokenizer.json")
    return _CACHE[path]


def test_converted_specials(small_tiktoken, tmp_path_factory):
    tokenizer, converted = _converted(small_tiktoken, tmp_path_factory)
    assert converted.specials == tokenizer.specials
    assert (converted.bos_id, converted.eos_id, converted.pad_id) == (260, 261, 262)
    assert converted.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00", "not a tiktoken file"),
        (b"", "its 0 ranks do not count up from 0"),
        (b"YQ== 0\nYg== 2\n", "its 2 ranks do not count up from 0"),
        (b"YQ== 0\nYg", "not a tiktoken file"),
    ],
)
def test_a_tokenizer_model_of_another_kind_is_refused(tmp_path, content, words):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", "not a tokenizer.json"), ("[", "not JSON"), ('{"model": {"type": "Nothing"}}', "no eos_token")],
)
def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path, content, words):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load_tokenizer(tmp_path)


def test_nothing_there_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither tokenizer\.json nor tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="no such file or directory"):
        load_tokenizer(tmp_path / "gone")


def test_a_text_that_is_no_unicode_is_refused(small):
    with pytest.raises(UserError, match="not valid Unicode"):
        load_tokenizer(small["byte_level"]).encode_batch(["\ud83d"])


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["byte_level", "prepend", "genuine"])
def test_stock_transformers_loads_what_was_saved(request, small, tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    tokenizer = request.getfixturevalue("genuine") if kind == "genuine" else load_tokenizer(small[kind])
    tokenizer.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (stock.bos_token_id, stock.eos_token_id, stock.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    for name, i in tokenizer.specials.items():
        assert stock.convert_tokens_to_ids(name) == i
        assert stock.encode(name, add_special_tokens=False)[-1] == i

    @given(st.text(max_size=60) | st.text(" \n\t'sS1a,.计", max_size=60))
    def same(text):
        assume(not any(name in text for name in tokenizer.specials))
        assert stock.encode(text, add_special_tokens=False) == tokenizer.encode_batch([text])[0]

    same()
    rows = [f"计算 {i * 7.31:.2f} - -{i}.5 等于多少？ Let $x_{i}$ be {i}²." for i in range(2000)]
    assert stock(rows, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(rows)
    shutil.rmtree(tmp_path)
