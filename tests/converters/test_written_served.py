"""The small base behind a real server, `transformers serve`, writes and scores pairs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.novel import __main__ as novel

pytestmark = pytest.mark.backend
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("transformers", "fastapi", "uvicorn", "openai", "pydantic"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(ROOT / "models/tiny", folder)
    # the server wants a chat template; the small base's is text alone
    template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "from transformers.commands.transformers_cli import main; main()"
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            script,
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--force-model",
            str(folder),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
    )
    try:
        deadline = time.monotonic() + 300  # importing takes its time on a busy machine
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"transformers serve does not start: {(folder / 'serve.log').read_text()[-2000:]}")
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        log.close()


def test_pairs_written_and_scored_by_a_served_model(served: str, tmp_path: Path) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("甲走在山路上。\n12+34=\n乙说：走吧。\n", encoding="utf-8")
    # the small base computes where a line ends with = or ~: it goes on with a sum, and its score is a fraction's part
    (tmp_path / "generate.txt").write_text("{passage}\n12+34=")
    (tmp_path / "judge.txt").write_text("{completion} 6/2~")
    out = tmp_path / "out.json"
    command = [str(text), "-o", str(out), "--generator", served, "--judge", served, "--generator-model", "tiny"]
    command += ["--writes", "continuation", "--context", "5,12", "--max-tokens", "16", "--concurrency", "1"]
    command += ["--generator-prompt", str(tmp_path / "generate.txt"), "--judge-prompt", str(tmp_path / "judge.txt")]
    # greedy, so that the same server gives the same pairs
    command += ["--temperature", "0", "--threshold", "0", "--timeout", "60", "--tries", "2"]
    novel.main(command)
    rows = json.loads(out.read_text(encoding="utf-8"))
    log = [
        json.loads(line) for line in (tmp_path / "out.json.pairs.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert len(log) == 3
    assert rows
    assert [row["prompt"] for row in log if "fault" not in row] == [row["input"] for row in rows]
    assert all(row["output"].strip() for row in rows)
    assert all(0 <= row["score"] <= 10 for row in log if "fault" not in row)
    report = json.loads((tmp_path / "out.json.report.json").read_text())
    # this server tells no tokens, and that is told
    requests = report["tokens"]["generator"]["requests"]
    assert report["tokens"]["generator"]["untold"] == requests >= 2
    novel.main(command)
    assert json.loads((tmp_path / "out.json.report.json").read_text())["tokens"]["generator"]["requests"] == requests
    assert json.loads(out.read_text(encoding="utf-8")) == rows
