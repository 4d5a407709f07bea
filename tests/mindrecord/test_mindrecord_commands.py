"""The commands `python -m mindrecord write`, `info`, `read`, and `show` on MindRecord files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters.common.errors import UsageError, UserError
from converters.text.template import get_template
from converters.tokenizers.load import load_tokenizer
from converters.tokenizers.templates import template_from_json
from mindrecord.__main__ import main
from mindrecord.commands import info, read, show, write_mindrecord
from mindrecord.file.header import is_mindrecord, read_header, sidecar_of
from mindrecord.file.reader import row_length
from mindrecord.file.writer import write_token_rows
from mindrecord.tokens.encode import TokenRows

ROOT = Path(__file__).resolve().parents[2]


def write(path):
    ids = np.arange(1, 33, dtype=np.int32)
    write_token_rows(TokenRows(ids, ids, np.array([0, 32]), ["r"]), path, seq_length=31, pad_id=99, sidecar={})


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "mindrecord", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd=ROOT,
        check=False,
    )


@pytest.fixture
def talks(tmp_path):
    path = tmp_path / "talks.jsonl"
    rows = [
        {
            "id": f"r{i}",
            "conversations": [{"from": "human", "value": "计" * (i % 5)}, {"from": "gpt", "value": f"答 {i}"}],
        }
        for i in range(1, 31)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.backend
@pytest.mark.parametrize("pack", [False, True])
def test_write_info_read_show(talks, small, tmp_path, pack):
    out = tmp_path / "out" / "train.mindrecord"
    folder = small["byte_level"]
    done = run(
        *["write", talks, "-o", out, "--tokenizer", folder, "--template", "bare", "--seq-length", 60],
        *(["--pack"] if pack else []),
    )
    assert done.returncode == 0, done.stderr
    assert "rows 30 of 30" in done.stderr
    assert ("packed into" in done.stderr) == pack
    assert done.stdout == ""
    sidecar = json.loads(sidecar_of(out).read_text())
    tokenizer = load_tokenizer(folder)
    assert template_from_json(sidecar["template"]) == get_template("bare")
    assert sidecar["tokenizer"]["hash"] == tokenizer.hash
    assert sidecar["audit"]["kept"] == 30
    assert sidecar["pad_id"] == tokenizer.pad_id != tokenizer.eos_id
    assert bool(sidecar["packed"]) == pack
    assert (sidecar["rows"] < 15) if pack else (sidecar["rows"] == 30)

    done = run("info", out)
    assert f"seq_length   60 (rows of 61 ids)\ntemplate     bare {get_template('bare').hash[:12]}" in done.stdout
    assert "rows 30 of 30" in done.stdout
    facts = json.loads(run("info", out, "--json").stdout)
    assert (facts["rows"], facts["row_length"], facts["sidecar"]) == (sidecar["rows"], 61, sidecar)

    lines = [json.loads(line) for line in run("read", out, "--rows", "1:3").stdout.splitlines()]
    assert [line["row"] for line in lines] == ["1", "2"]
    if not pack:
        assert lines[0]["text"] == "<|begin_of_text|>计计答 2<|end_of_text|>"
        assert lines[0]["trained"] == ["答 2<|end_of_text|>"]
    (line,) = [json.loads(line) for line in run("read", out, "--rows", "1", "--ids").stdout.splitlines()]
    assert line["input_ids"][0] == tokenizer.bos_id
    assert len(line["input_ids"]) == len(line["labels"])

    done = run("show", out, "--tokenizer", folder, "--template", "bare", "--rows", 1)
    assert done.stdout.startswith("── row 0: ")
    assert "答" in done.stdout.splitlines()[1]
    assert "rows 30 of 30" in done.stdout
    done = run("show", out, "--tokenizer", folder, "--template", "vicuna")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "written with another template: bare" in done.stderr
    done = run("show", out, "--tokenizer", small["prepend"])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "written with another tokenizer" in done.stderr
    done = run("read", out, "--tokenizer", small["prepend"])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_the_functions_under_the_commands(talks, small, tmp_path):
    folder, out = small["byte_level"], tmp_path / "packed.mindrecord"
    written = write_mindrecord([talks], out, tokenizer=folder, template="bare", seq_length=60, pack=True)
    assert (written.path, written.row_length, written.audit.kept, written.packed) == (out, 61, 30, True)
    assert 0.8 < written.fill <= 1
    found = info(out)
    assert (found.rows, found.row_length, found.bytes) == (written.rows, 61, written.size)
    (row,) = read(out, 1, 2, ids=True)
    (same,) = read(out, 1, 2)
    assert row["row"] == same["row"] == "1"
    assert load_tokenizer(folder).decode(row["input_ids"], skip_special=False) == same["text"]
    # conversations are all encoded; of a MindRecord file only the rows asked for are read
    shown = show(talks, tokenizer=folder, template="bare")
    assert (len(shown.rows), shown.template[0], shown.audit.supervised) == (30, "bare", written.audit.supervised)
    shown = show(out, tokenizer=folder, rows=2)
    assert (len(shown.rows), shown.template[0], shown.audit.kept) == (2, "bare", 30)
    with pytest.raises(UsageError, match="there is no row 99"):
        read(out, 99)


def test_the_python_of_the_documentation(talks, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/mindrecord.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    talks.rename("train.jsonl")
    exec(compile(block, "docs/mindrecord.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("30 rows, ")
    assert printed[1] == "{'input_ids': 'int32[-1]', 'labels': 'int32[-1]'}"
    assert len(printed) == 6


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["write", "T", "-o", "O/x.txt", "--template", "bare"], 2, "need a name like train.mindrecord"),
        (["write", "nowhere.jsonl", "-o", "O/x.mindrecord", "--template", "bare"], 2, "no such file"),
        (["write", "T", "-o", "O/x.mindrecord", "--template", "bar"], 2, "bare"),
        (["write", "T", "-o", "O/x.mindrecord", "--template", "bare", "--seq-length", "0"], 2, "at least 1"),
        (["write", "T", "-o", "O/x.mindrecord", "--template", "bare", "--seq-length", "3"], 1, "no row is left"),
        (
            ["write", "T", "-o", "O/x.mindrecord", "--template", "bare", "--seq-length", "5", "--over-length", "error"],
            1,
            "longer than seq_length=5",
        ),
        (["write", "T", "-o", "O/x.mindrecord", "--template", "bare", "--max-unsupervised", "2"], 2, "a share"),
        (["info", "T"], 1, "not a MindRecord file"),
        (["info", "O/x.mindrecord"], 2, "no such file"),
        (["read", "T", "--ids"], 1, "not a MindRecord file"),
        (["show", "T"], 2, "--template is needed"),
    ],
)
def test_bad_arguments(talks, small, tmp_path, capsys, args, code, message):
    words = [str(talks) if word == "T" else word.replace("O/", f"{tmp_path}/out/") for word in args]
    if args[0] in ("write", "show"):
        words += ["--tokenizer", str(small["byte_level"])]
    with pytest.raises(UserError, match=message) as caught:
        main(words)
    assert caught.value.exit_code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["a", "3-4", "4:2", "-1:2"])
def test_rows_that_are_no_range(tmp_path, text):
    path = tmp_path / "x.mindrecord"
    write(path)
    with pytest.raises(UsageError, match="--rows"):
        main(["read", str(path), "--ids", f"--rows={text}"])


def test_help_of_every_command_imports_nothing_heavy():
    for command in ("write", "info", "read", "show"):
        code = (
            "import sys; from mindrecord.__main__ import main\n"
            f"try: main([{command!r}, '--help'])\n"
            "except SystemExit: sys.exit(bool({'numpy', 'tokenizers', 'mindspore', 'tqdm'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0
        assert "examples:" in done.stdout


def test_not_a_mindrecord(talks, tmp_path):
    write(tmp_path / "x.mindrecord")
    assert is_mindrecord(tmp_path / "x.mindrecord")
    assert row_length(read_header(tmp_path / "x.mindrecord")) == 32
    assert not is_mindrecord(talks)
    assert not is_mindrecord(tmp_path)
