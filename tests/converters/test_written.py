"""Pairs that models write and score: nothing is asked twice, and what was answered is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from model_server import Answer, completion, server

from converters.common.errors import UsageError, UserError
from converters.novel import __main__ as novel
from converters.novel.model_pairs import filled, find_pair, find_score

ROOT = Path(__file__).resolve().parents[2]
NOVEL = "".join(f"这是第{i}句，少年走在长长的山路上，天色渐渐暗了。\n" for i in range(24))


def test_pairs_are_found_in_replies() -> None:
    pair = {"prompt": "上文。", "completion": "下文。"}
    text = json.dumps(pair, ensure_ascii=False)
    for reply in (
        text,
        f"好的：\n```json\n{text}\n```",
        f'{{"a": 1}} {{x}} {text}',
        text.replace("上文。", "上\n文。"),
    ):
        found = find_pair(reply)
        assert found is not None
        assert found[1] == "下文。"
    for reply in (
        "",
        "{",
        "[1]",
        '{"prompt": "a"}',
        '{"prompt": "a", "completion": " "}',
        '{"prompt": 1, "completion": "b"}',
    ):
        assert find_pair(reply) is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 8}', 8),
        ('```json\n{"score": 7.5}\n```', 7.5),
        ("评分：9 分（满分 10 分）", 9),
        ("8/10", 8),
        ("12+34=45\n答案：6", 6),
        ("很好", None),
        ("11", None),
        ('{"score": -1}', None),
        ("", None),
    ],
)
def test_scores_are_found_in_replies(reply: str, score: float | None) -> None:
    assert find_score(reply) == score


def test_texts_do_not_become_places() -> None:
    assert filled('{prompt} {completion} {"score": 1}', {"prompt": "{completion}", "completion": "b"}) == (
        '{completion} b {"score": 1}'
    )


def model(body: dict[str, Any], _number: int) -> Answer:
    """Writes a pair from each passage, and scores it by the sentence that it begins with."""
    prompt = body["messages"][0]["content"]
    sentence = int(prompt.split("这是第", 1)[1].split("句", 1)[0])
    if "打分" in prompt:
        return completion(json.dumps({"score": sentence % 11}))
    pair = {"prompt": f"这是第{sentence}句。", "completion": "他走了。"}
    return completion(json.dumps(pair, ensure_ascii=False))


def command(tmp_path: Path, url: str, *options: str) -> list[str]:
    text = tmp_path / "novel.txt"
    text.write_text(NOVEL, encoding="utf-8")
    words = [str(text), "-o", str(tmp_path / "out.json"), "--generator", url, "--judge", url, "--context", "40,60"]
    return [*words, "--generator-model", "w", "--judge-model", "j", "--backoff", "0.01", "--tries", "3", *options]


def test_pairs_above_the_threshold_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(model) as (url, asked):
        novel.main(command(tmp_path, url, "--threshold", "6", "--concurrency", "2"))
        rows = json.loads((tmp_path / "out.json").read_text())
        kept = [i for i in range(0, 24, 2) if i % 11 >= 6]
        assert [row["input"] for row in rows] == [f"这是第{i}句。" for i in kept]
        assert rows[0] == {
            "instruction": "续写以下小说片段：",
            "input": "这是第6句。",
            "output": "他走了。",
            "id": rows[0]["id"],
        }
        report = json.loads((tmp_path / "out.json.report.json").read_text())
        assert report["rows"]["in"] == 12
        assert report["dropped"] == {"score below 6": 12 - len(kept)}
        assert report["tokens"]["judge"] == {
            "prompt_tokens": 120,
            "completion_tokens": 36,
            "requests": 12,
            "retries": 0,
            "untold": 0,
        }
        assert "generator w: 120 prompt + 36 completion tokens in 12 requests" in capsys.readouterr().err
        assert {one["temperature"] for one in asked if one["model"] == "j"} == {0.0}
        # another threshold asks nothing
        novel.main(command(tmp_path, url, "--threshold", "0"))
        assert len(json.loads((tmp_path / "out.json").read_text())) == 12
        assert len(asked) == 24
        with pytest.raises(UserError, match=r"made with another generator; take another OUT, or --overwrite"):
            novel.main(command(tmp_path, url, "--temperature", "0.1"))
        novel.main(command(tmp_path, url, "--temperature", "0.1", "--overwrite"))
        assert len(asked) == 48


def test_answers_of_the_wrong_form_are_asked_again_then_dropped(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _number: int) -> Answer:
        return completion("no JSON") if "打分" not in body["messages"][0]["content"] else completion("8")

    with server(answer) as (url, asked):
        with pytest.raises(UserError, match=r"no row to convert is left .no JSON with prompt and completion"):
            novel.main(command(tmp_path, url))
        assert len(asked) == 36
        assert not (tmp_path / "out.json").exists()
        novel.main(command(tmp_path, url, "--writes", "continuation", "--overwrite"))
        rows = json.loads((tmp_path / "out.json").read_text())
        assert {row["output"] for row in rows} == {"no JSON"}
        assert rows[0]["input"].startswith("这是第0句")


def test_a_server_that_goes_away_leaves_what_was_answered(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        return model(body, number) if number <= 10 or number > 13 else (500, {}, b"down")

    with server(answer) as (url, asked):
        with pytest.raises(UserError, match=r"HTTP 500.*down, 3 times over\n5 of 12 passages are answered; the same"):
            novel.main(command(tmp_path, url, "--concurrency", "1"))
        assert not (tmp_path / "out.json").exists()
        novel.main(command(tmp_path, url, "--concurrency", "1", "--threshold", "0"))
        assert len(json.loads((tmp_path / "out.json").read_text())) == 12
        assert len(asked) == 24 + 3
        report = json.loads((tmp_path / "out.json.report.json").read_text())
        # the tokens of both runs
        assert report["tokens"]["generator"]["completion_tokens"] == 36


def test_a_killed_run_goes_on_without_asking_twice(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.05)
        return model(body, number)

    with server(answer) as (url, asked):
        words = command(tmp_path, url, "--concurrency", "1", "--threshold", "0")
        log = tmp_path / "out.json.pairs.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-m", "converters.novel", *words], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (log.is_file() and log.read_bytes().count(b"\n") >= 4):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = log.read_bytes()
        lines = whole.count(b"\n") - 1
        assert 3 <= lines < 12
        assert not (tmp_path / "out.json").exists()
        log.write_bytes(whole[: whole.rfind(b"\n") + 1] + b'{"id": "0:')  # a torn line, as a crash may leave it
        time.sleep(0.2)
        before = len(asked)
        novel.main(words)
        assert len(asked) - before == 2 * (12 - lines)
        rows = json.loads((tmp_path / "out.json").read_text())
        assert [row["input"] for row in rows] == [f"这是第{i}句。" for i in range(0, 24, 2)]
        ids = [json.loads(line)["id"] for line in log.read_text().splitlines()[1:]]
        assert len(ids) == len(set(ids)) == 12


def test_an_answer_with_odd_separators_is_read_again_from_the_log(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _number: int) -> Answer:
        if "打分" in body["messages"][0]["content"]:
            return completion("8")
        return completion(
            json.dumps({"prompt": "上\u2028文\u0085。", "completion": "下\u2029文。"}, ensure_ascii=False)
        )

    with server(answer) as (url, asked):
        novel.main(command(tmp_path, url))
        first, requests = (tmp_path / "out.json").read_bytes(), len(asked)
        novel.main(command(tmp_path, url))
        assert (tmp_path / "out.json").read_bytes() == first
        assert len(asked) == requests
        assert json.loads(first)[0]["output"] == "下\u2029文。"


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    with server(model) as (url, asked):
        (tmp_path / "out.json.pairs.jsonl").write_text("text\n")
        with pytest.raises(UserError, match="no log of written pairs"):
            novel.main(command(tmp_path, url))
        assert not asked


def test_prompts_from_files(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    with server(model) as (url, asked):
        prompt.write_text("写：{passage}")
        novel.main(command(tmp_path, url, "--generator-prompt", str(prompt), "--threshold", "0"))
        assert any(one["messages"][0]["content"].startswith("写：这是第0句") for one in asked)
        prompt.write_text("写")
        with pytest.raises(UsageError, match=r"prompt.txt: the prompt has no \{passage\}"):
            novel.main(command(tmp_path, url, "--generator-prompt", str(prompt)))
        with pytest.raises(UsageError, match="no prompt can be read"):
            novel.main(command(tmp_path, url, "--judge-prompt", str(tmp_path / "none.txt")))


@pytest.mark.parametrize(
    "options", [["--concurrency", "0"], ["--tries", "0"], ["--timeout", "0"], ["--temperature", "-1"]]
)
def test_wrong_use(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        novel.main(command(tmp_path, "http://127.0.0.1:9/v1", *options))


def test_interrupting_leaves_no_output(tmp_path: Path) -> None:
    """Ctrl-C ends the command at once, however long the server takes."""
    with server(lambda *_: (time.sleep(20), completion("x"))[1]) as (url, asked):
        process = subprocess.Popen(
            [sys.executable, "-m", "converters.novel", *command(tmp_path, url)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stderr=subprocess.PIPE,
            text=True,
            # a shell starts what it puts in the background with SIGINT ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not asked:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=15)
        assert process.returncode == 130
        assert talk.rstrip().endswith("interrupted")
        assert not (tmp_path / "out.json").exists()
