"""LLaMA-Factory's data sets are read as its own dataset_info.json describes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from converters.alpaca import __main__ as alpaca
from converters.common.errors import UsageError, UserError
from converters.text.conversation import read_conversations

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data")) / "alpaca"


def folder(tmp_path: Path, entry: Any, rows: Any, file: str = "data.json") -> Path:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "dataset_info.json").write_text(json.dumps({"my_data": entry}))
    lines = json.dumps(rows) if file.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (data / file).write_text(lines)
    return data


def run(tmp_path: Path, entry: Any, rows: Any, *options: str, file: str = "data.json") -> list[dict[str, Any]]:
    out = tmp_path / "out.jsonl"
    alpaca.main(["my_data", "--dataset-dir", str(folder(tmp_path, entry, rows, file)), "-o", str(out), *options])
    return [json.loads(line)["conversations"] for line in out.read_text(encoding="utf-8").splitlines()]


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


ALL_COLUMNS = {
    "file_name": "data.json",
    "formatting": "alpaca",
    "columns": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    },
}


def test_a_row_with_system_and_history(tmp_path: Path) -> None:
    row = {
        "instruction": "解释量子力学的基本概念",
        "input": "",
        "output": "量子力学是描述微观粒子行为的物理学理论...",
        "system": "你是一个物理学专家",
        "history": [["第一轮问题", "第一轮回答"], ["第二轮问题", "第二轮回答"]],
    }
    [turns] = run(tmp_path, ALL_COLUMNS, [row])
    assert turns == [
        {"from": "system", "value": "你是一个物理学专家"},
        human("第一轮问题"),
        gpt("第一轮回答"),
        human("第二轮问题"),
        gpt("第二轮回答"),
        human("解释量子力学的基本概念"),
        gpt("量子力学是描述微观粒子行为的物理学理论..."),
    ]


def test_lines_with_empty_column_names(tmp_path: Path) -> None:
    entry = {
        **ALL_COLUMNS,
        "file_name": "my_data.jsonl",
        "columns": {**ALL_COLUMNS["columns"], "system": "", "history": ""},
    }
    row = {"instruction": "续写以下小说片段：", "input": "二愣子睁大着双眼。", "output": "在他身边紧挨着的另一人。"}
    [turns] = run(tmp_path, entry, [row], file="my_data.jsonl")
    assert turns == [human("续写以下小说片段：\n二愣子睁大着双眼。"), gpt("在他身边紧挨着的另一人。")]


def test_columns_that_are_not_named_are_absent(tmp_path: Path) -> None:
    entry = {"file_name": "data.json", "columns": {"prompt": "q", "response": "a"}}
    [turns] = run(tmp_path, entry, [{"q": "1 + 1?", "a": "2", "input": "not asked", "system": "nor this"}])
    assert turns == [human("1 + 1?"), gpt("2")]
    # by default history and system are no columns either
    [turns] = run(
        tmp_path, {"file_name": "data.json"}, [{"instruction": "a", "input": "b", "output": "c", "system": "s"}]
    )
    assert turns == [human("a\nb"), gpt("c")]


SHAREGPT = {
    "file_name": "data.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "system": "prompt"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def test_sharegpt_with_its_own_tags(tmp_path: Path) -> None:
    turns = [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d")]
    assert run(tmp_path, SHAREGPT, [{"messages": turns, "prompt": "s"}]) == [
        [{"from": "system", "value": "s"}, human("a"), gpt("b"), human("c"), gpt("d")]
    ]
    with_system = {**SHAREGPT, "tags": {**SHAREGPT["tags"], "system_tag": "system"}}
    row = {"messages": [said("system", "own"), *turns[:2]], "prompt": "s"}
    assert run(tmp_path, with_system, [row]) == [[{"from": "system", "value": "own"}, human("a"), gpt("b")]]
    # without its tag a system turn is out of turn, as it is there
    with pytest.raises(UserError, match="turn 1: 'role' is 'system' where 'user' is expected"):
        run(tmp_path, SHAREGPT, [row])


def test_sharegpt_s_default_tags_and_ids(tmp_path: Path) -> None:
    entry = {"file_name": "data.json", "formatting": "sharegpt"}
    rows = [{"id": "x7", "conversations": [human("a"), gpt("b")]}, {"conversations": [human("c"), gpt("d")]}]
    assert run(tmp_path, entry, rows) == [[human("a"), gpt("b")], [human("c"), gpt("d")]]
    assert [one.id for one in read_conversations(tmp_path / "out.jsonl")] == ["x7", "2"]


def test_several_turns_keep_their_place_in_alpaca_s_keys(tmp_path: Path) -> None:
    data = folder(tmp_path, ALL_COLUMNS, [{"instruction": "c", "input": "i", "output": "d", "history": [["a", "b"]]}])
    alpaca.main(["my_data", "--dataset-dir", str(data), "-o", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"instruction": "c", "input": "i", "output": "d", "history": [["a", "b"]], "id": "1"}
    ]
    [conversation] = read_conversations(tmp_path / "out.json")
    assert [turn.text for turn in conversation.turns] == ["a", "b", "c\ni", "d"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"columns": {"messages": "c", "tools": "tools"}, "formatting": "sharegpt"},
            "tool calls .column 'tools'. are not",
        ),
        ({"columns": {"prompt": "a", "response": "b", "images": "pics"}}, "images .column 'pics'. are not supported"),
        ({"ranking": True}, "preference pairs are not supported"),
        ({"columns": {"prompt": "a", "response": "b", "kto_tag": "label"}}, "preference labels .* are not supported"),
        ({"columns": {"prompt": "text"}}, "text for pre-training"),
        ({"formatting": "openai"}, "formatting 'openai'; alpaca and sharegpt are read"),
        ({"file_name": None, "hf_hub_url": "a/b"}, "on a hub .a/b.; download it"),
        ({"file_name": "other.json"}, "other.json is not there"),
        ({"file_name": "data.parquet"}, ".parquet; JSON and JSONL files are read"),
        ({"formatting": "sharegpt", "tags": {"role_tag": "role"}}, "its tags lack one of"),
        ({"formatting": "sharegpt", "columns": {"system": "s"}}, "its columns name no messages"),
        ({"columns": ["a"]}, "columns and tags must be objects"),
    ],
)
def test_what_is_not_supported_is_one_line(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^my_data: .*{message}") as caught:
        run(tmp_path, {"file_name": "data.json", **entry}, [{"instruction": "a", "output": "b"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "output": "b"},
            "row 1: no 'instruction'; found 'question', 'output'; expected such as .*What",
        ),
        ({"instruction": "a"}, "row 1: no 'output'; found 'instruction'"),
        ({"instruction": "", "output": "b"}, "'instruction' and 'input' are empty"),
        ({"instruction": "a", "output": ""}, "'output' is empty"),
        ({"instruction": "a", "output": None}, "'output' is empty"),
        ({"instruction": 1, "output": "b"}, "'instruction' is int"),
        ({"instruction": "a", "output": "b", "history": "x"}, "'history' is str, not a list"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, r"must be a list of \[question, answer\]"),
        ("text", "not an object"),
    ],
)
def test_wrong_alpaca_rows_say_row_key_and_an_example(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, ALL_COLUMNS, [row])
    assert "data.json: 1 of 1 rows rejected" in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "'messages' is empty"),
        ("a", "'messages' is str"),
        ([said("user", "a")], "does not end with 'assistant'"),
        ([said("user", "a"), said("user", "b")], "turn 2: 'role' is 'user' where 'assistant' is expected"),
        ([said("user", "a"), {"role": "assistant"}], "turn 2: found 'role'; no 'role' or 'content'"),
        ([said("user", "a"), said("assistant", "")], "turn 2 is empty"),
        ([3], "turn 1: found int"),
    ],
)
def test_wrong_sharegpt_rows(messages: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, SHAREGPT, [{"messages": messages}])


def test_tool_calls_in_a_row_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    rows = [
        {"conversations": [human("a"), {"from": "function_call", "value": "{}"}]},
        {"conversations": [human("a"), gpt("b")]},
    ]
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"row 1: turn 2 is 'function_call': tools are not supported; see"):
        alpaca.main([str(path), "-o", str(tmp_path / "out.jsonl")])
    alpaca.main([str(path), "-o", str(tmp_path / "out.jsonl"), "--max-rejected", "0.5"])
    assert len(read_conversations(tmp_path / "out.jsonl")) == 1


def test_a_file_by_its_path_is_read_as_its_first_row_shows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "s"}))
    alpaca.main([str(path), "-o", str(tmp_path / "out.jsonl")])
    [conversation] = read_conversations(tmp_path / "out.jsonl")
    assert [turn.text for turn in conversation.turns] == ["s", "a", "b", "c", "d"]
    with pytest.raises(UserError, match="no 'conversations'; found 'instruction'"):
        alpaca.main([str(path), "-o", str(tmp_path / "out.jsonl"), "--formatting", "sharegpt"])


def test_wrong_use(tmp_path: Path) -> None:
    data = folder(tmp_path, {"file_name": "data.json"}, [])
    out = ["-o", str(tmp_path / "out.jsonl")]
    with pytest.raises(UsageError, match=r"no data set .my_dat. .did you mean .my_data."):
        alpaca.main(["my_dat", "--dataset-dir", str(data), *out])
    with pytest.raises(UsageError, match=r"dataset_info.json: no such file"):
        alpaca.main(["my_data", "--dataset-dir", str(tmp_path), *out])
    with pytest.raises(UsageError, match="DATASET and -o OUT are needed"):
        alpaca.main(["my_data", "--dataset-dir", str(data)])
    with pytest.raises(UsageError, match="--formatting goes with a file"):
        alpaca.main(["my_data", "--dataset-dir", str(data), "--formatting", "alpaca", *out])
    with pytest.raises(UsageError, match=r"x.json: no such file"):
        alpaca.main([str(tmp_path / "x.json"), *out])
    (data / "dataset_info.json").write_text("[]")
    with pytest.raises(UserError, match="expected an object of data sets, such as"):
        alpaca.main(["my_data", "--dataset-dir", str(data), *out])


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", UsageError, "empty"),
        (b'{"instruction": "a"\n', UserError, "not JSON"),
        (b"[1,", UserError, "starts as a JSON array but is not one"),
        ('{"instruction": "问"}\n'.encode("gb18030"), UserError, "not UTF-8"),
        ('{"instruction": "a"}'.encode("utf-16"), UserError, "UTF-16, not UTF-8; convert it first"),
    ],
)
def test_bad_files(content: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        alpaca.main([str(path), "-o", str(tmp_path / "out.jsonl")])
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def real() -> Path:
    if not (REAL / "dataset_info.json").is_file():
        pytest.skip(f"no {REAL}/dataset_info.json")
    return REAL


@pytest.mark.parametrize(("name", "rows"), [("identity", 91), ("alpaca_en_demo", 999), ("alpaca_zh_demo", 1000)])
def test_real_entries(real: Path, name: str, rows: int, tmp_path: Path) -> None:
    alpaca.main([name, "--dataset-dir", str(real), "-o", str(tmp_path / "out.jsonl")])
    assert len(read_conversations(tmp_path / "out.jsonl")) == rows


def test_the_real_list(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alpaca.main(["--list", "--dataset-dir", str(real)])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 104
    assert [line.split()[0] for line in lines if line.endswith("yes")] == [
        "identity",
        "alpaca_en_demo",
        "alpaca_zh_demo",
    ]
    assert sum("tool calls" in line for line in lines) == 5


def test_help_is_there_at_once() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "converters.alpaca", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert " numpy\n" not in done.stderr
