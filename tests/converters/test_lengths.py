"""Counting tokens: the same numbers as training's own encoding, and limits that hold."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from converters.arithmetic import synthesize
from converters.arithmetic.__main__ import main
from converters.arithmetic.problems import parse
from converters.common.errors import UsageError, UserError
from converters.text.conversation import Conversation, Turn, read_conversations
from converters.text.template import get_template
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.segments import TokenLimit
from mindrecord.tokens.encode import encode

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models/tiny"
PAIRS = [
    ("计算 967.09 - -688.16 等于多少？", "96709+68816:9+6=5c0+1=2,7+8=5c6+8=5c9+6=6c\n答案：1655.25"),
    ("当 x = 4.03 时，求函数 y = 57x^54 的值", "计算过程：57 * 4.03 ^ 54 = 2.769155521409239378157128235E+34"),
    ("What is $1+1$?", ""),
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    synthesize(path, 1500, seed=5)
    return path


@pytest.fixture(scope="module")
def shared_llama3() -> Path:
    data = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data"))
    if not (data / "llama3/tokenizer.model").is_file():
        pytest.skip("the genuine Llama-3 tokenizer.model is not here (SHARED_DATA)")
    return data / "llama3"


def convert(raw: Path, out: Path, *options: str) -> dict[str, Any]:
    main(["convert", str(raw), "-o", str(out), *options])
    return json.loads(out.with_name(out.name + ".report.json").read_text(encoding="utf-8"))


def trained_lengths(conversations: list[Conversation], template: str, tokenizer: Path) -> list[int]:
    rows, _ = encode(conversations, get_template(template), load_tokenizer(tokenizer), seq_length=None)
    return rows.lengths.tolist()


@pytest.mark.parametrize("template", ["bare", "vicuna", "alpaca"])
def test_counts_are_those_of_training(template: str) -> None:
    conversations = [
        Conversation(str(i), (Turn("user", question), Turn("assistant", answer)))
        for i, (question, answer) in enumerate(PAIRS)
    ]
    assert TokenLimit(1, TINY, template).lengths(PAIRS) == trained_lengths(conversations, template, TINY)


def test_counts_with_the_genuine_llama3_tokenizer(shared_llama3: Path) -> None:
    conversations = [
        Conversation(str(i), (Turn("user", question), Turn("assistant", answer)))
        for i, (question, answer) in enumerate(PAIRS)
    ]
    for template in ("bare", "vicuna", "llama3"):
        assert TokenLimit(1, shared_llama3, template).lengths(PAIRS) == trained_lengths(
            conversations, template, shared_llama3
        )


def test_no_row_is_longer_than_the_limit_and_what_is_left_out_is_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = convert(raw, tmp_path / "plain.jsonl", "--steps", "worked")
    limit = ["--max-tokens", "256", "--tokenizer", str(TINY), "--template", "bare"]
    report = convert(raw, tmp_path / "short.jsonl", "--steps", "worked", *limit)
    short = list(read_conversations(tmp_path / "short.jsonl"))
    every = list(read_conversations(tmp_path / "plain.jsonl"))
    assert max(trained_lengths(short, "bare", TINY)) <= 256
    lengths = trained_lengths(every, "bare", TINY)
    over = [one for one, length in zip(every, lengths, strict=True) if length > 256]
    kinds = [parse(one.turns[0].text, "") for one in over]
    assert report["too_long"] == Counter(kind.kind for kind in kinds if kind)
    assert report["output"]["rows"] == plain["output"]["rows"] - len(over) == len(short)
    assert sum(row["written"] for row in report["kinds"].values()) == len(short)
    # what fits is what it would be without a limit
    kept = [one.turns for one, length in zip(every, lengths, strict=True) if length <= 256]
    assert [one.turns for one in short] == kept
    assert "left out, longer than 256 tokens in every precision" in capsys.readouterr().err
    assert "too_long" not in plain


def test_long_rows_are_shortened_step_by_step(raw: Path, tmp_path: Path) -> None:
    limit = ["--max-tokens", "150", "--tokenizer", str(TINY), "--template", "bare"]
    report = convert(raw, tmp_path / "out.jsonl", "--steps", "worked", "--precision", "exact", *limit)
    rows = list(read_conversations(tmp_path / "out.jsonl"))
    assert max(trained_lengths(rows, "bare", TINY)) <= 150
    shortened = report["shortened"]
    assert list(shortened) == ["sig6", "2dp"]
    assert shortened["sig6"]["eq solve"] > 0
    assert shortened["2dp"]["sqrt computation"] > 0
    assert report["options"]["precision"] == "exact"
    assert report["options"]["max_tokens"] == 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", "256"], "--max-tokens and --tokenizer belong together"),
        (["--tokenizer", str(TINY)], "--max-tokens and --tokenizer belong together"),
        (["--max-tokens", "0", "--tokenizer", str(TINY)], "at least 1"),
        (["--max-tokens", "256", "--tokenizer", "nowhere"], "nowhere: no such file or directory; a tokenizer"),
        (["--steps", "seed", "--precision", "2dp"], "--steps seed has no --precision 2dp"),
        (["--steps", "seed", "--digits", "spaced"], "--steps seed has no digit columns"),
    ],
)
def test_wrong_use(raw: Path, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        convert(raw, tmp_path / "out.jsonl", *options)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("tokenizer.json", "not JSON"), ("tokenizer.model", "not a tiktoken file")]
)
def test_a_damaged_tokenizer_is_named(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("no tokenizer", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}: {words}"):
        TokenLimit(1, tmp_path, "bare").open()


def test_the_name_of_a_special_token_counts_as_the_text_that_it_is() -> None:
    pair = ("Why <|end_of_text|>?", "</s> <|begin_of_text|>")
    conversation = Conversation("0", (Turn("user", pair[0]), Turn("assistant", pair[1])))
    assert TokenLimit(1, TINY, "bare").lengths([pair]) == trained_lengths([conversation], "bare", TINY)
