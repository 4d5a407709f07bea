"""A novel is cut at sentence ends, within chapters, inside the bounds."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.novel import __main__ as novel
from converters.novel.passages import (
    Bounds,
    Chapter,
    Leftover,
    chapters,
    chunks,
    decode,
    pairs,
    sentences,
    tidy,
    whole_sentences,
)

ROOT = Path(__file__).resolve().parents[2]
TEXT = st.text(alphabet="山水人。！？…”』 .a\n", max_size=300)


def book(number_of_chapters: int = 6, paragraphs: int = 12) -> str:
    lines = []
    for chapter in range(1, number_of_chapters + 1):
        lines.append(f"第{chapter}章 山边小村")
        lines += [
            f"　　这是第{chapter}章的第{i}段，少年走在山路上。“你要去哪里？”老人问他……" for i in range(paragraphs)
        ]
        lines.append("")
    return "\r\n".join(lines)


SHORT = ["--context", "60,150", "--continuation", "60,150"]


def run(tmp_path: Path, text: str | bytes, *options: str) -> list[dict[str, Any]]:
    path = tmp_path / "novel.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    novel.main([str(path), "-o", str(tmp_path / "out.json"), *options])
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def report(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out.json.report.json").read_text(encoding="utf-8"))


def test_sentences_end_after_their_marks_and_quotes() -> None:
    text = '二愣子睁大着双眼。“你好！”他说：“走吧……”然后\n下一段。3.14 is pi. He said "no." Then'
    assert sentences(text) == [
        "二愣子睁大着双眼。",
        "“你好！”",
        "他说：“走吧……”",
        "然后\n",
        "下一段。",
        "3.14 is pi. ",
        'He said "no." ',
        "Then",
    ]


@given(TEXT)
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_what_was_cut_off_goes() -> None:
    assert whole_sentences("好的。我们走") == "好的。"
    assert whole_sentences("“走！”他") == "“走！”"
    assert whole_sentences("完了。\n") == "完了。"
    assert whole_sentences("没有") == ""


@pytest.mark.parametrize(
    "heading",
    [
        "第一章 山边小村",
        "第1章",
        "第十二回：起",
        "正文 第三节 夜",
        "第一卷 开始",
        "第二章山边小村",
        "楔子",
        "尾声 归去",
        "Chapter 12",
        "CHAPTER ONE. Loomings",
    ],
)
def test_headings(heading: str) -> None:
    found = chapters(tidy(f"前言文字。\n{heading}\n正文文字。"))
    assert [(one.heading, one.text) for one in found] == [("", "前言文字。"), (heading, "正文文字。")]


@pytest.mark.parametrize(
    "line", ["第一章的内容他已经忘了。", "第三天，他醒了。", "他翻到第二章 停下", "楔子打进了木头里，裂开了。"]
)
def test_sentences_are_no_headings(line: str) -> None:
    assert [one.heading for one in chapters(f"甲。\n{line}\n乙。")] == [""]


def test_encodings() -> None:
    text = "第一章\n镕、囧、㐂。"
    assert decode(text.encode(), "x") == (text, "utf-8")
    assert decode(b"\xef\xbb\xbf" + text.encode(), "x") == (text, "utf-8")
    assert decode(text.encode("gb18030"), "x") == (text, "gb18030")
    assert decode("普通的文字".encode("gbk"), "x") == ("普通的文字", "gb18030")
    with pytest.raises(UserError, match=r"x: not utf-8 \(byte 0\), not gb18030 \(byte 0\); convert it first"):
        decode(b"\xff\xff\xff", "x")


BOUNDS = st.tuples(st.integers(1, 40), st.integers(0, 60)).map(lambda pair: Bounds(pair[0], pair[0] + pair[1]))


@given(TEXT, BOUNDS, BOUNDS, st.one_of(st.none(), st.integers(1, 80)))
def test_pairs_are_neighbours_inside_the_bounds(
    text: str, context: Bounds, continuation: Bounds, stride: int | None
) -> None:
    text = tidy(text)
    cut = list(pairs(Chapter(1, "", text), context, continuation, stride, Leftover()))
    ends = {0}
    for sentence in sentences(text):
        ends.add(max(ends) + len(sentence))
    for one in cut:
        assert one.start in ends
        behind = text[one.start :]
        assert behind.startswith(one.context)
        assert behind[len(one.context) :].lstrip().startswith(one.continuation)
        assert len(one.context) <= context.most
        assert len(one.continuation) <= continuation.most
        # what is stripped is the end of a line
        assert len(one.context) + 2 >= context.least
    starts = [one.start for one in cut]
    assert starts == sorted(set(starts))
    if stride:
        assert all(b - a >= stride for a, b in itertools.pairwise(starts))


@given(TEXT, BOUNDS)
def test_chunks_do_not_overlap_and_stand_where_they_say(text: str, bounds: Bounds) -> None:
    text = tidy(text)
    end = 0
    for start, chunk in chunks(Chapter(1, "", text), bounds, Leftover()):
        assert start >= end
        assert text[start:].lstrip().startswith(chunk)
        assert len(chunk) <= bounds.most
        end = start + len(chunk)


def test_report_001_s_row(tmp_path: Path) -> None:
    text = "二愣子睁大着双眼，直直望着茅草和烂泥糊成的黑屋顶。在他身边紧挨着的另一人，是二哥韩铸。"
    assert run(tmp_path, text, "--context", "10,30", "--continuation", "10,30") == [
        {
            "instruction": "续写以下小说片段：",
            "input": "二愣子睁大着双眼，直直望着茅草和烂泥糊成的黑屋顶。",
            "output": "在他身边紧挨着的另一人，是二哥韩铸。",
            "id": "0:0",
        }
    ]


def test_the_same_rows_from_both_encodings(tmp_path: Path) -> None:
    rows = run(tmp_path, book(), *SHORT)
    assert report(tmp_path)["novel"]["encoding"] == "utf-8"
    assert run(tmp_path, book().encode("gb18030"), *SHORT) == rows
    assert report(tmp_path)["novel"] == {"encoding": "gb18030", "chapters": 6, "characters": 2382}
    assert "gb18030, 6 chapters, 2,382 characters" in report(tmp_path)["notes"]
    with pytest.raises(UserError, match="not utf-8"):
        run(tmp_path, book().encode("gb18030"), "--encoding", "utf-8")


def test_pairs_stay_in_their_chapter(tmp_path: Path) -> None:
    rows = run(tmp_path, book(), *SHORT)
    assert len({row["id"].split(":")[0] for row in rows}) == 6
    for row in rows:
        chapter = row["id"].split(":")[0]
        assert row["input"].count(f"第{chapter}章") == row["input"].count("章的")
        assert row["output"].count(f"第{chapter}章") == row["output"].count("章的")
        assert 60 <= len(row["input"]) <= 150
        assert row["input"].endswith(("。", "？”", "……"))


def test_overlapping_pairs_are_held_out_by_chapter(tmp_path: Path) -> None:
    held = tmp_path / "held.json"
    options = ["--context", "30,80", "--continuation", "30,80", "--holdout", "4", "--holdout-out", str(held)]
    rows = run(tmp_path, book(), *options)
    aside = json.loads(held.read_text())
    assert len(aside) == 4
    assert not {row["id"].split(":")[0] for row in rows} & {row["id"].split(":")[0] for row in aside}
    with pytest.raises(UserError, match="takes all 1 groups"):
        run(tmp_path, book(1), *options)
    # without overlap each pair stands for itself
    assert run(tmp_path, book(1, 40), *options, "--stride", "200")


def test_long_sentences_and_short_ends_are_counted(tmp_path: Path) -> None:
    text = "甲" * 50 + "。" + "乙" * 500 + "。" + ("丙" * 40 + "。") * 10 + "丁。"
    rows = run(tmp_path, text, "--context", "40,120", "--continuation", "40,120", "--stride", "160")
    assert [row["input"][0] for row in rows] == ["丙", "丙"]
    assert report(tmp_path)["left"] == {"long_sentences": 1, "ends": 1}


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (b"", [], UsageError, "empty; a novel's text is expected"),
        ("第一章\n第二章\n".encode(), [], UserError, "no text is in it but headings"),
        ("短。".encode(), [], UserError, "no row to convert is left"),
        ("字。".encode("utf-16"), [], UserError, "UTF-16, not UTF-8; convert it first"),
        (b"\x80\x80", [], UserError, "not utf-8 .byte 0., not gb18030"),
        ("短。".encode(), ["--stride", "0"], UsageError, "--stride must be at least 1"),
        ("短。".encode(), ["--judge", "http://x"], UsageError, "belong together"),
    ],
)
def test_bad_input(content: bytes, options: list[str], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path, content, *options)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("bounds", ["100", "5,1", "0,9", "a,b"])
def test_wrong_bounds(bounds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "短。", "--context", bounds)
    assert "is not MIN,MAX, such as 100,400" in capsys.readouterr().err


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        novel.main([str(tmp_path / "none.txt"), "-o", str(tmp_path / "out.json")])


def test_help_is_there_at_once() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "converters.novel", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert " numpy\n" not in done.stderr
