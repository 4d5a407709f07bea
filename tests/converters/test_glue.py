"""GLUE's files become the reports' questions, row by row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from converters.common.errors import UsageError, UserError
from converters.glue import __main__ as glue
from converters.text.conversation import read_conversations

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared/data")) / "glue"

RTE_TSV = """index\tsentence1\tsentence2\tlabel
0\tNo Weapons of Mass Destruction Found in Iraq Yet.\tWeapons of Mass Destruction Found in Iraq.\tnot_entailment
7\tHe said "no.\tHe {0} spoke.\tentailment
"""


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def run(tmp_path: Path, task: str, data: str, *options: str, name: str = "out.json") -> list[dict[str, Any]]:
    glue.main([task, data, "-o", str(tmp_path / name), *options])
    return json.loads((tmp_path / name).read_text(encoding="utf-8"))


def report(tmp_path: Path, name: str = "out.json") -> dict[str, Any]:
    return json.loads((tmp_path / f"{name}.report.json").read_text(encoding="utf-8"))


def test_rte_is_asked_as_report_000_asks_it(tmp_path: Path) -> None:
    rows = run(tmp_path, "rte", write(tmp_path / "train.tsv", RTE_TSV))
    assert rows == [
        {
            "instruction": 'Does "No Weapons of Mass Destruction Found in Iraq Yet." imply that "Weapons of Mass '
            'Destruction Found in Iraq."? Please answer yes or no.You only need to answer one word, no explanation',
            "input": "",
            "output": "no",
            "idx": 0,
        },
        {
            "instruction": 'Does "He said "no." imply that "He {0} spoke."? Please answer yes or no.You only need to '
            "answer one word, no explanation",
            "input": "",
            "output": "yes",
            "idx": 7,
        },
    ]
    assert [one.id for one in read_conversations(tmp_path / "out.json")] == ["0", "7"]


def test_json_rows_with_numbers_give_the_same(tmp_path: Path) -> None:
    lines = [
        {"sentence1": "A", "sentence2": "B", "label": 0, "idx": 3},
        {"sentence1": "C", "sentence2": "D", "label": 1, "idx": 5},
    ]
    for data in ("\n".join(map(json.dumps, lines)), json.dumps(lines)):
        rows = run(tmp_path, "rte", write(tmp_path / "rte.jsonl", data))
        assert [(row["output"], row["idx"]) for row in rows] == [("yes", 3), ("no", 5)]


def test_mnli_is_asked_as_report_000_asks_it_and_rows_without_agreement_go(tmp_path: Path) -> None:
    premise = "Conceptually cream skimming has two basic dimensions - product and geography."
    hypothesis = "Product and geography are what make cream skimming work. "
    lines = [
        {"premise": premise, "hypothesis": hypothesis, "label": 1, "idx": 0},
        {"premise": "a", "hypothesis": "b", "label": 0, "idx": 1},
        {"premise": "a", "hypothesis": "b", "label": 2, "idx": 2},
        {"sentence1": "a", "sentence2": "b", "gold_label": "-", "idx": 3},
        {"sentence1": "a", "sentence2": "b", "gold_label": "contradiction", "idx": 4},
    ]
    rows = run(tmp_path, "mnli", write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, lines))))
    assert rows[0] == {
        "instruction": f'Does "{premise}" imply that "{hypothesis}"? Please answer yes or no or maybe.You only need to '
        "answer one word, no explanation",
        "input": "",
        "output": "maybe",
        "idx": 0,
    }
    assert [row["output"] for row in rows] == ["maybe", "yes", "no", "no"]
    assert report(tmp_path)["dropped"] == {"annotators did not agree (label -)": 1}


def test_mnli_takes_the_gold_label_and_not_one_annotators(tmp_path: Path) -> None:
    text = "index\tsentence1\tsentence2\tlabel1\tgold_label\n4\ta\tb\tneutral\tentailment\n"
    assert run(tmp_path, "mnli", write(tmp_path / "dev.tsv", text))[0]["output"] == "yes"


def test_cola_without_header(tmp_path: Path) -> None:
    text = "gj04\t1\t\tOur friends won't buy this analysis.\ncj99\t0\t*\tYou get angrier, the \"more we eat.\n"
    assert run(tmp_path, "cola", write(tmp_path / "c.tsv", text)) == [
        {
            "instruction": "Is the grammar of the scentence right ? right output 1 , otherwise 0 .",
            "input": "Our friends won't buy this analysis.",
            "output": "1",
            "idx": 0,
        },
        {
            "instruction": "Is the grammar of the scentence right ? right output 1 , otherwise 0 .",
            "input": 'You get angrier, the "more we eat.',
            "output": "0",
            "idx": 1,
        },
    ]


@pytest.mark.parametrize(
    "text",
    ["gj04\t\t\tOne.\nx\t\t*\tTwo.\n", "gj04\t\tOne.\nx\t*\tTwo.\n", "index\tsentence\n0\tOne.\n1\tTwo.\n"],
    ids=["empty label", "no label column", "GLUE's test.tsv"],
)
def test_rows_without_labels_wait_for_prediction(tmp_path: Path, text: str) -> None:
    rows = run(tmp_path, "cola", write(tmp_path / "CoLA_dev.tsv", text))
    assert [(row["input"], "output" in row) for row in rows] == [("One.", False), ("Two.", False)]
    assert report(tmp_path)["kinds"]["unlabelled"]["written"] == 2
    assert len(read_conversations(tmp_path / "out.json", unanswered=True)) == 2
    glue.main(["cola", str(tmp_path / "CoLA_dev.tsv"), "-o", str(tmp_path / "out.jsonl")])
    [first, _] = read_conversations(tmp_path / "out.jsonl")
    assert [turn.role for turn in first.turns] == ["user"]


def test_qqp_with_own_wording(tmp_path: Path) -> None:
    text = 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n201\t3\t4\tWhy "so?\tWhy not?\t1\n'
    data = write(tmp_path / "q.tsv", text)
    [row] = run(tmp_path, "qqp", data, "--instruction", "Same? {0} / {1}")
    assert row == {"instruction": 'Same? Why "so? / Why not?', "input": "", "output": "1", "idx": 201}
    [row] = run(tmp_path, "qqp", data, "--instruction", "Same?")
    assert (row["instruction"], row["input"]) == ("Same?", 'question1: Why "so?\nquestion2: Why not?')
    with pytest.raises(UsageError, match="name all or none"):
        run(tmp_path, "qqp", data, "--instruction", "Same {0}?")
    [row] = run(tmp_path, "qqp", str(tmp_path / "q.tsv"))
    assert row["instruction"] == "Are the scentences meaning the same ? same output 1 , otherwise 0 ."
    assert row["input"] == 'question1: Why "so?\nquestion2: Why not?'
    with pytest.raises(UsageError, match="--instruction is empty"):
        run(tmp_path, "qqp", str(tmp_path / "q.tsv"), "--instruction", " ")


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [
        ("cola", "in_domain_train.tsv", "CoLA_train.json"),
        ("cola", "out_of_domain_dev.tsv", "CoLA_out_of_domain_dev.json"),
        ("qqp", "QQP_dev.tsv", "QQP_dev.json"),
        ("mnli", "dev_mismatched.tsv", "MNLI_dev_mismatched.json"),
        ("rte", "test.jsonl", "RTE_test.json"),
    ],
)
def test_names_in_a_folder(task: str, name: str, expected: str, tmp_path: Path) -> None:
    assert glue.output_path(glue.TASKS[task], name, tmp_path) == tmp_path / expected
    assert glue.output_path(glue.TASKS[task], name, Path("pre_data/x")) == Path("pre_data/x") / expected


def test_a_name_that_is_no_part_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither train nor dev nor test"):
        glue.output_path(glue.TASKS["qqp"], "quora.tsv", tmp_path)


def test_rows_that_are_no_rows_are_rejected_with_their_line(tmp_path: Path) -> None:
    lines = [
        *RTE_TSV.encode().rstrip().split(b"\n"),
        b"8\tone\ttwo",
        b"9\tone\t \tentailment",
        b"10\tone\ttwo\tperhaps",
        b"11\tone\ttwo\t",
        b"12\t\xff\ttwo\tentailment",
    ]
    data = write(tmp_path / "dev.tsv", b"\n".join(lines) + b"\r\n")
    rows = run(tmp_path, "rte", data, "--max-rejected", "0.8")
    assert len(rows) == 2
    assert report(tmp_path)["rows"] == {"in": 7, "rejected": 5, "converted": 2}
    rejected = [json.loads(line) for line in (tmp_path / "out.json.rejected.jsonl").read_text().splitlines()]
    assert {(row["line"], row["reason"]) for row in rejected} == {
        (4, "other number of columns"),
        (5, "empty text"),
        (6, "unknown label"),
        (7, "label missing"),
        (8, "broken line"),
    }
    with pytest.raises(UserError, match=r"more than --max-rejected 0\.01"):
        glue.main(["rte", data, "-o", str(tmp_path / "other.json")])
    assert not (tmp_path / "other.json").exists()
    assert (tmp_path / "other.json.rejected.jsonl").is_file()


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.tsv", b"", UsageError, "empty; RTE as TSV or JSON is expected"),
        (
            "a.tsv",
            b"id\tquestion1\tquestion2\n",
            UserError,
            r"a.tsv:1: found the columns 'id', 'question1'.*\n.*such as",
        ),
        ("a.jsonl", b'{"a": 1}\n', UserError, "no sentence1; found 'a'; expected such as"),
        ("a.jsonl", b'{"sentence1": "x"\n', UserError, "not JSON"),
        ("a.jsonl", b"[1, 2", UserError, "starts as a JSON array but is not one"),
        ("a.jsonl", b"[1]", UserError, "not an object"),
        ("a.jsonl", b'{"sentence1": 1, "sentence2": "b", "label": 0}\n', UserError, "sentence1 is int"),
        ("a.tsv", "sentence1\tsentence2\tlabel\nä\tö\t\n".encode("utf-16"), UserError, "not UTF-8"),
        ("a.tsv", b"index\tsentence1\tsentence2\tlabel\n", UserError, "no row to convert is left"),
    ],
)
def test_bad_files(name: str, text: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        glue.main(["rte", write(tmp_path / name, text), "-o", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        glue.main(["rte", str(tmp_path / "none.tsv"), "-o", str(tmp_path / "out.json")])


def test_sampling_holds_out_and_balances(tmp_path: Path) -> None:
    rows = "".join(f"src\t{int(i % 10 < 7)}\t\tSentence {i}.\n" for i in range(400))
    data = write(tmp_path / "train.tsv", rows)
    held = tmp_path / "held.json"
    out = run(
        tmp_path, "cola", data, "--rows", "101", "--multiple-of", "8", "--holdout", "40", "--holdout-out", str(held)
    )
    aside = json.loads(held.read_text())
    assert Counter(row["output"] for row in out) == {"1": 67, "0": 29}
    assert Counter(row["output"] for row in aside) == {"1": 28, "0": 12}
    assert not {row["idx"] for row in out} & {row["idx"] for row in aside}
    first = (tmp_path / "out.json").read_bytes()
    run(tmp_path, "cola", data, "--rows", "101", "--multiple-of", "8", "--holdout", "40", "--holdout-out", str(held))
    assert (tmp_path / "out.json").read_bytes() == first
    out = run(tmp_path, "cola", data, "--rows", "100", "--balance", "uniform")
    assert Counter(row["output"] for row in out) == {"1": 50, "0": 50}
    with pytest.raises(UserError, match="500 rows wanted, 400 there are"):
        run(tmp_path, "cola", data, "--rows", "500")


@pytest.mark.parametrize(("part", "rows", "yes"), [("train", 2_490, 1_249), ("dev", 277, 146)])
def test_the_real_rte(part: str, rows: int, yes: int, tmp_path: Path) -> None:
    file = SHARED / f"RTE/{part}.tsv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    out = run(tmp_path, "rte", str(file))
    assert len(out) == rows
    assert Counter(row["output"] for row in out)["yes"] == yes


@pytest.mark.parametrize(
    ("part", "rows"), [("in_domain_train", 8_551), ("in_domain_dev", 527), ("out_of_domain_dev", 516)]
)
def test_the_real_cola(part: str, rows: int, tmp_path: Path) -> None:
    file = SHARED / f"CoLA/{part}.tsv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    assert len(run(tmp_path, "cola", str(file))) == rows


def test_help_is_there_at_once() -> None:
    for words in (["--help"], ["cola", "--help"]):
        command = [sys.executable, "-X", "importtime", "-m", "converters.glue", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert "examples:" in done.stdout
        for heavy in ("numpy", "polars", "torch", "transformers"):
            assert f" {heavy}\n" not in done.stderr, heavy
