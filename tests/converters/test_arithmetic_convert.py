"""The commands: what goes in comes out, is counted, or is refused with line and reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from arithmetic_rows import ENGLISH, EXAMPLES, RIGHT, convert, line_of, read_jsonl, write_lines

from converters.arithmetic import synthesize
from converters.arithmetic.__main__ import main
from converters.arithmetic.problems import CHINESE, parse
from converters.common.errors import UserError
from converters.text.conversation import read_conversations

ROOT = Path(__file__).resolve().parents[2]
ROWS = 6_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.jsonl"
    synthesize(path, ROWS, seed=5)
    return path


def questions(path: Path) -> list[str]:
    return [row["conversations"][0]["value"] for row in read_jsonl(path)]


def kinds_of(problems: list[str]) -> dict[str, int]:
    found = [parse(problem, "") for problem in problems]
    return {kind: sum(1 for problem in found if problem and problem.kind == kind) for kind in CHINESE}


# --- what a constructed file must count to ---


def test_counts_of_a_constructed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        *RIGHT,  # 22 rows on lines 1 to 22
        "",
        RIGHT[0],  # 24: a duplicate
        RIGHT[0],
        RIGHT[4].replace("-0.5555555555555556", "-0.56"),  # 26: a conflict
        RIGHT[4].replace("-0.5555555555555556", "-0.57"),  # 27: a conflict, and wrong
        ENGLISH,
        "{broken",  # 29
        '{"problem": "计算 1.00 + 1.00 等于多少？"}',
        '{"problem": "计算 1.00 + 1.00 等于多少？", "solution": 2}',
        '["计算 1.00 + 1.00 等于多少？", "2"]',
        line_of("今天天气如何？", "晴"),
        line_of("计算 1.00 + 1.00 等于多少？", "1.00 + 1.00 = 3.00"),
        '{"problem": "\\ud800", "solution": "\\\\boxed{1}"}',
    ]
    out = tmp_path / "out.jsonl"
    report = convert(write_lines(tmp_path / "raw.jsonl", lines), out, "--steps", "seed", "--max-rejected", "0.5")
    assert report["rows"] == {
        "in": 34,
        "rejected": 8,
        "duplicates": 3,
        "unique": 23,
        "unique_chinese": 22,
        "unique_english": 1,
    }
    assert report["rejected"] == {
        "solution does not follow": 2,
        "broken line": 2,
        "missing key": 1,
        "not a string": 1,
        "not an object": 1,
        "unknown kind": 1,
    }
    assert report["conflicts"]["problems"] == 1
    assert report["conflicts"]["examples"] == [
        {
            "problem": "解方程 -81x + -45 = 0",
            "solutions": ["方程的解为：-0.5555555555555556", "方程的解为：-0.56"],
            "lines": [5, 26],
        }
    ]
    assert report["kinds"]["direct computation"] == {
        "rows": 6,
        "unique": 4,
        "share": 4 / 23,
        "written": 4,
        "held_out": 0,
    }
    assert report["kinds"]["english"]["rows"] == report["kinds"]["english"]["unique"] == 1
    assert report["english_dropped"] == 1
    assert report["solutions_checked"]["exactly_when_written"] == report["output"]["rows"] == 22
    assert sum(count for name, count in report["solutions_checked"].items() if name != "exactly_when_written") == 26
    rejected = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (27, "solution does not follow"),
        (29, "broken line"),
        (30, "missing key"),
        (31, "not a string"),
        (32, "not an object"),
        (33, "unknown kind"),
        (34, "solution does not follow"),
        (35, "broken line"),
    ]
    assert rejected[0]["row"] == lines[26]
    assert "expected -0.5555555555555556, found -0.57" in rejected[0]["detail"]
    assert rejected[2]["detail"] == "no solution; found problem"
    # every row, in input order, with the published answers
    assert [row["conversations"][1]["value"] for row in read_jsonl(out)] == [answer for *_, answer in EXAMPLES]
    told = capsys.readouterr().err
    for words in (
        "34 rows in, 8 rejected, 3 duplicates",
        "unknown kind: 1",
        "1 English rows dropped",
        "lines 5 and 26",
    ):
        assert words in told


def test_a_right_solution_after_a_wrong_one_is_kept_and_the_conflict_told(tmp_path: Path) -> None:
    wrong = RIGHT[0].replace(".3870", ".3871")
    raw = write_lines(tmp_path / "raw.jsonl", [wrong, RIGHT[0]])
    report = convert(raw, tmp_path / "out.jsonl", "--max-rejected", "0.5", "--steps", "raw")
    assert questions(tmp_path / "out.jsonl") == [EXAMPLES[0][1]]
    assert report["conflicts"]["problems"] == 1
    assert report["conflicts"]["examples"][0]["lines"] == [1, 2]


def test_rejected_rows_of_an_earlier_run_go_away(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    convert(write_lines(tmp_path / "a.jsonl", [*RIGHT, "{"]), out, "--max-rejected", "0.5")
    assert (tmp_path / "out.jsonl.rejected.jsonl").is_file()
    convert(write_lines(tmp_path / "b.jsonl", RIGHT), out)
    assert not (tmp_path / "out.jsonl.rejected.jsonl").exists()


# --- sampling ---


@pytest.mark.parametrize("multiple", [1, 8])
def test_totals_are_exact_and_proportional(raw: Path, tmp_path: Path, multiple: int) -> None:
    out, held = tmp_path / "out.jsonl", tmp_path / "held.jsonl"
    report = convert(
        raw, out, "--rows", "1003", "--multiple-of", str(multiple), "--holdout", "205", "--holdout-out", str(held)
    )
    train, test = questions(out), [row["problem"] for row in read_jsonl(held)]
    assert len(train) == len(set(train)) == report["output"]["rows"] == 1003 - 1003 % multiple
    assert len(test) == len(set(test)) == report["holdout"]["rows"] == 205 - 205 % multiple
    assert not set(train) & set(test)
    written = {kind: figures["written"] for kind, figures in report["kinds"].items() if kind != "english"}
    assert kinds_of(train) == written
    unique = {kind: figures["unique"] for kind, figures in report["kinds"].items() if kind != "english"}
    for kind, count in unique.items():
        assert abs(written[kind] - len(train) * count / sum(unique.values())) < 2
    known = {row["problem"]: row["solution"] for row in read_jsonl(raw)}
    assert all(known[row["problem"]] == row["solution"] for row in read_jsonl(held))
    assert [row["id"] for row in read_jsonl(out)] == [str(number) for number in range(1, len(train) + 1)]


def test_same_seed_same_bytes_other_seed_other_rows(raw: Path, tmp_path: Path) -> None:
    texts = []
    for number, seed in enumerate(("1", "1", "2")):
        out, held = tmp_path / f"{number}.jsonl", tmp_path / f"{number}-held.jsonl"
        convert(raw, out, "--rows", "500", "--seed", seed, "--holdout", "100", "--holdout-out", str(held))
        texts.append((out.read_bytes(), held.read_bytes()))
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[2][0]
    assert texts[0][1] != texts[2][1]


def test_all_rows_in_input_order_without_the_held_out_ones(raw: Path, tmp_path: Path) -> None:
    out, held = tmp_path / "out.jsonl", tmp_path / "held.jsonl"
    report = convert(raw, out, "--holdout", "96", "--holdout-out", str(held), "--multiple-of", "8")
    test = {row["problem"] for row in read_jsonl(held)}
    order = list(dict.fromkeys(row["problem"] for row in read_jsonl(raw)))
    expected = [problem for problem in order if problem not in test and parse(problem, "")]
    assert len(test) == 96
    assert report["left_over"] == len(expected) % 8
    assert questions(out) == expected[: len(expected) - len(expected) % 8]


def test_balance(raw: Path, tmp_path: Path) -> None:
    report = convert(raw, tmp_path / "even.jsonl", "--rows", "600", "--balance", "uniform")
    even = kinds_of(questions(tmp_path / "even.jsonl"))
    assert even["fraction simplify"] == report["kinds"]["fraction simplify"]["unique"] < 50
    assert sum(even.values()) == 600
    assert max(even.values()) - min(count for kind, count in even.items() if kind != "fraction simplify") <= 1
    convert(raw, tmp_path / "named.jsonl", "--balance", "eq solve=30,sqrt computation=10")
    named = kinds_of(questions(tmp_path / "named.jsonl"))
    assert {kind: count for kind, count in named.items() if count} == {"eq solve": 30, "sqrt computation": 10}


def test_a_row_whose_step_fails_is_rejected_and_replaced(tmp_path: Path) -> None:
    rows = [line_of(f"计算 {n}.00 的平方根？", f"√{n}.00 = {root}") for n, root in ((1, "1.0"), (4, "2.0"), (9, "3.0"))]
    raw = write_lines(tmp_path / "raw.jsonl", rows)
    out = tmp_path / "out.jsonl"
    report = convert(raw, out, "--steps", "seed", "--rows", "2", "--max-rejected", "0.5")
    assert sorted(questions(out)) == ["计算 4.00 的平方根？", "计算 9.00 的平方根？"]
    if report["rejected"]:
        assert report["rejected"] == {"step does not hold": 1}
        assert read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")[0]["line"] == 1
    report = convert(raw, out, "--steps", "seed", "--max-rejected", "0.5")
    assert report["rejected"] == {"step does not hold": 1}
    assert report["rows"] == {
        "in": 3,
        "rejected": 1,
        "duplicates": 0,
        "unique": 2,
        "unique_chinese": 2,
        "unique_english": 0,
    }
    with pytest.raises(UserError, match="3 rows wanted, 2 there are"):
        convert(raw, out, "--steps", "seed", "--rows", "3", "--max-rejected", "0.5")


def test_english_rows_on_request(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw.jsonl", [ENGLISH, RIGHT[0]])
    report = convert(raw, tmp_path / "out.jsonl", "--keep-english")
    assert report["english_dropped"] == 0
    turns = read_jsonl(tmp_path / "out.jsonl")[0]["conversations"]
    assert [turn["value"] for turn in turns] == ['Say "$1+1$".', "It is $\\boxed{2}$.\n"]


# --- forms of input and output ---


@pytest.mark.parametrize(
    "form", ["gz", "array", "array.gz", "stdin", "crlf", "bom", "no-newline", "compact", "swapped"]
)
def test_forms_of_input(raw: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = raw.read_bytes()[:40_000].rpartition(b"\n")[0].split(b"\n")
    rows = [json.loads(line) for line in lines]
    plain, file = b"\n".join(lines) + b"\n", tmp_path / "input"
    array = json.dumps(rows, ensure_ascii=form == "array", indent=1).encode()
    data = {
        "gz": gzip.compress(plain),
        "array": array,
        "array.gz": gzip.compress(b"\n " + array),
        "stdin": plain,
        "crlf": b"\r\n".join(lines) + b"\r\n",
        "bom": b"\xef\xbb\xbf" + plain,
        "no-newline": plain[:-1],
        "compact": b"\n".join(json.dumps(row, separators=(",", ":")).encode() for row in rows),
        "swapped": b"\n\n".join(json.dumps(dict(reversed(row.items()))).encode() for row in rows),
    }[form]
    file.write_bytes(data)
    (tmp_path / "plain").write_bytes(plain)
    convert(tmp_path / "plain", tmp_path / "expected.jsonl", "--rows", "40")
    name: Path | str = file
    if form == "stdin":
        name = "-"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plain)))
    report = convert(name, tmp_path / "out.jsonl", "--rows", "40")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()
    assert report["rows"]["in"] == len(rows)
    assert report["input"]["bytes"] == len(data)


def test_formats(raw: Path, tmp_path: Path) -> None:
    texts = {}
    for layout in ("jsonl", "array", "alpaca", "problems"):
        convert(raw, tmp_path / layout, "--rows", "60", "--format", layout)
        texts[layout] = (tmp_path / layout).read_text(encoding="utf-8")
    jsonl = read_jsonl(tmp_path / "jsonl")
    assert texts["jsonl"] == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in jsonl)
    assert json.loads(texts["array"]) == jsonl
    pairs = [tuple(turn["value"] for turn in row["conversations"]) for row in jsonl]
    assert read_jsonl(tmp_path / "problems") == [{"problem": p, "solution": a} for p, a in pairs]
    assert read_jsonl(tmp_path / "alpaca") == [{"instruction": p, "input": "", "output": a} for p, a in pairs]
    for layout in ("jsonl", "array", "alpaca"):
        found = read_conversations(tmp_path / layout)
        assert [tuple(turn.text for turn in one.turns) for one in found] == pairs


def test_published_conversation_to_the_byte(tmp_path: Path) -> None:
    convert(write_lines(tmp_path / "raw.jsonl", [RIGHT[2]]), tmp_path / "out.jsonl", "--steps", "seed")
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == (
        '{"id": "1", "conversations": [{"from": "human", "value": "计算 967.09 - -688.16 等于多少？"}, '
        '{"from": "gpt", "value": "计算过程：967.09 - -688.16 = 1655.25"}]}\n'
    )


def test_bytes_that_are_not_utf8_reject_their_line_alone(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(RIGHT[0].encode() + b"\r\n" + ENGLISH.encode()[:-3] + b'\xff"}\r\n' + RIGHT[1].encode())
    convert(raw, tmp_path / "out.jsonl", "--max-rejected", "0.5")
    assert questions(tmp_path / "out.jsonl") == [EXAMPLES[0][1], EXAMPLES[1][1]]
    (row,) = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert (row["line"], row["reason"], row["detail"]) == (2, "broken line", "not UTF-8")


# --- the other commands, and processes ---


def test_report(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(raw), "--json", str(tmp_path / "report.json")])
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    unique = report["rows"]["unique"]
    assert report["rows"]["in"] == ROWS == unique + report["rows"]["duplicates"]
    assert sum(figures["share"] for figures in report["kinds"].values()) == pytest.approx(1)
    assert f"{unique:,} different" in shown
    assert "direct computation" in shown
    problems = {row["problem"] for row in read_jsonl(raw)}
    assert unique == len(problems)
    assert {kind: report["kinds"][kind]["unique"] for kind in CHINESE} == kinds_of(list(problems))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "converters.arithmetic", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.backend
def test_worker_processes_write_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    done = run("convert", str(raw), "-o", str(tmp_path / "a.jsonl"), "--rows", "5000", "--seed", "3")
    assert done.returncode == 0, done.stderr
    convert(raw, tmp_path / "b.jsonl", "--rows", "5000", "--seed", "3")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.backend
def test_exit_codes(tmp_path: Path) -> None:
    missing = run("convert", str(tmp_path / "nowhere.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    assert missing.returncode == 2
    assert missing.stderr == f"error: {tmp_path / 'nowhere.jsonl'}: no such file\n"
    bad = write_lines(tmp_path / "bad.jsonl", ["{"])
    failed = run("convert", str(bad), "-o", str(tmp_path / "out.jsonl"))
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 2
    assert "Traceback" not in failed.stderr


def test_help_needs_nothing_heavy() -> None:
    code = "import sys, converters.arithmetic.__main__ as m; m.build_parser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"polars", "numpy", "torch", "tqdm"} & set(done.stdout.split())


def test_new_data_gets_worked_steps(tmp_path: Path) -> None:
    convert(write_lines(tmp_path / "raw.jsonl", [RIGHT[2]]), tmp_path / "out.jsonl")
    (row,) = read_jsonl(tmp_path / "out.jsonl")
    assert row["conversations"][1]["value"] == "96709+68816:9+6=5c0+1=2,7+8=5c6+8=5c9+6=6c\n答案：1655.25"


def test_the_plain_way_of_the_benchmark_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain.jsonl", tmp_path / "ours.jsonl"
    command = [sys.executable, "benchmarks/convert.py", "--plain", str(raw), str(plain), "--sampled", "200"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    convert(raw, ours, "--steps", "seed", "--rows", "200", "--multiple-of", "8", "--seed", "0")
    assert plain.read_bytes() == ours.read_bytes()
