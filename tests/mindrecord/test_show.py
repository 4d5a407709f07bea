"""The command `python -m mindrecord show`, and the audit it prints."""

import json
import os
import resource
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from converters.text.conversation import problem_row
from converters.text.template import get_template
from converters.tokenizers.load import load_tokenizer
from mindrecord.__main__ import main
from mindrecord.commands import marked_text
from mindrecord.tokens.audit import Audit
from mindrecord.tokens.encode import encode


@pytest.fixture
def talks(tmp_path):
    path = tmp_path / "talks.jsonl"
    rows = [
        {"id": f"r{i}", "conversations": [{"from": "human", "value": "计" * i}, {"from": "gpt", "value": f"答 {i}"}]}
        for i in range(1, 31)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "mindrecord", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )


def test_show_in_a_pipe(talks, small):
    done = run("show", talks, "--tokenizer", small["byte_level"], "--template", "llama3", "--rows", 2, "--ids")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("── row r1: ")
    assert lines[1] == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>"
    assert lines[3] == "计<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    assert lines[5] == "⟦答 1<|eot_id|>⟧"
    eot = load_tokenizer(small["byte_level"]).special_id("<|eot_id|>")
    assert lines[6].startswith("400 ")
    assert lines[6].endswith(f" ⟦{eot}⟧")
    assert sum(line.startswith("── row") for line in lines) == 2
    assert "\x1b" not in done.stdout
    assert f"template llama3 {get_template('llama3').hash[:12]}" in done.stdout
    assert "rows 30 of 30" in done.stdout
    assert "0 dropped (no length limit)" in done.stdout


def test_show_on_a_terminal_is_green_unless_no_color(talks, small, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    arguments = ["show", str(talks), "--tokenizer", str(small["byte_level"]), "--template", "bare", "--rows", "1"]
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(arguments)
    assert "计\x1b[32m答 1<|end_of_text|>\x1b[0m\n" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(arguments)
    assert "计⟦答 1<|end_of_text|>⟧\n" in capsys.readouterr().out


def test_show_counts_what_is_over_length(talks, small):
    arguments = ["show", talks, "--tokenizer", small["byte_level"], "--template", "bare", "--rows", 0]
    done = run(*arguments, "--seq-length", 20)
    assert done.stdout.splitlines()[2].endswith("dropped (over seq_length 20) (rows r6, r7, r8, r9, r10, …)"), (
        done.stdout
    )
    done = run(*arguments, "--seq-length", 20, "--over-length", "truncate")
    assert "truncated (over seq_length 20), end token lost (rows r6, r7" in done.stdout
    done = run(*arguments, "--seq-length", 20, "--over-length", "error")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"file": "gone.jsonl"}, 2, "gone.jsonl: no such file"),
        ({"tokenizer": "gone"}, 2, "gone: no such file or directory"),
        ({"template": "lama3"}, 2, "did you mean 'llama3'"),
        ({"rows": -1}, 2, "--rows is -1"),
    ],
)
def test_wrong_use_is_one_line(talks, small, change, code, words):
    use = {"file": talks, "tokenizer": small["byte_level"], "template": "bare", "rows": 1, **change}
    done = run(
        "show", use["file"], "--tokenizer", use["tokenizer"], "--template", use["template"], f"--rows={use['rows']}"
    )
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_template_whose_tokens_are_missing_is_one_line(talks, genuine):
    done = run("show", talks, "--tokenizer", genuine.source, "--template", "chatml")
    assert done.returncode == 1
    assert "there is no special token '<|im_start|>'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_is_quick():
    # processor time: a busy machine is no failure
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("show", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "examples:" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_imports_nothing_heavy():
    code = "import sys, mindrecord.__main__; sys.exit(bool({'numpy', 'tokenizers', 'tiktoken'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["bare", "llama2", "vicuna"])
def test_marked_text_is_the_whole_text(tokenizer, name):
    rows, _ = encode([problem_row("计算 1 + 1", "the 2", "1")], get_template(name), tokenizer, seq_length=None)
    pieces = marked_text(rows, 0, tokenizer)
    assert "".join(text for text, _ in pieces) == tokenizer.decode(rows.row(0)[0], skip_special=False)
    assert [marked for _, marked in pieces] == [False, True]
    end = next(token for token, i in tokenizer.specials.items() if i == tokenizer.eos_id)
    assert pieces[1][0].strip() == {"bare": f"the 2{end}", "vicuna": f"the 2{end}", "llama2": f"the 2 {end}"}[name]


def test_histogram_covers_all_lengths():
    for lengths in ([7], [5, 5, 5], list(range(3, 90)), [1, 1000], [2, 3]):
        audit = Audit()
        audit.measure(np.array(lengths))
        classes = audit.histogram
        assert len(classes) <= 10
        assert (classes[0][0], classes[-1][1], audit.longest) == (min(lengths), max(lengths), max(lengths))
        assert sum(count for *_, count in classes) == len(lengths)
        for low, high, count in classes:
            assert count == sum(low <= length <= high for length in lengths)
        assert all(before[1] + 1 == after[0] for before, after in pairwise(classes))


def test_audit_as_json_and_bars():
    audit = Audit(rows=3)
    audit.measure(np.array([10, 10, 29]))
    assert json.loads(json.dumps(audit.to_dict()))["histogram"][0] == [10, 11, 2]
    bars = audit.lines()[-10:]
    assert bars[0] == "10–11 " + "█" * 40 + " 2"
    assert bars[-1] == "28–29 " + "█" * 20 + " 1"
