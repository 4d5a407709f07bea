"""Conversations to a MindRecord file: ``python -m mindrecord write``, and one row at a time, in the same run.

The plain way is the contest's script: read all conversations, then encode a row, pad it, ``write_raw_data([row])``, for
each; here with our own template and tokenizer code, so that both ways give the same integers (checked). It is timed on
a share of the rows, after its imports, and compared by rows a second; ours is the whole process, start and all. A
second plain way hands MindSpore lists of 5,000 rows. Every measurement is a process of its own; ways alternate, and
the best of the repeats counts.

    python benchmarks/write_mindrecord.py                                # 100,000 rows, models/tiny's tokenizer
    python benchmarks/write_mindrecord.py --tokenizer llama3/tokenizer.model --out genuine.json
    python benchmarks/write_mindrecord.py --rows 20000 --plain-rows 1000 --repeats 1 --out /tmp/try.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SEQ_LENGTH = 256
LIMIT = 10.0
LIST = 5000


def plain(conversations: Path, out: Path, tokenizer_path: str, name: str, rows: int, at_a_time: int) -> None:
    """Encode and write ``rows`` rows, ``at_a_time`` a call; print seconds as JSON."""
    import numpy as np
    from mindspore.mindrecord import FileWriter

    from converters.text.conversation import read_conversations
    from converters.text.template import get_template
    from converters.tokenizers.load import load_tokenizer
    from mindrecord.tokens.encode import encode

    template, tokenizer = get_template(name), load_tokenizer(tokenizer_path)
    talks = read_conversations(conversations)[:rows]
    writer = FileWriter(str(out), 1, overwrite=True)
    column = {"type": "int32", "shape": [-1]}
    writer.add_schema({"input_ids": column, "labels": column}, "qa")
    # what is loaded on first use is not counted against it
    encode(talks[:1], template, tokenizer, seq_length=SEQ_LENGTH)

    began, before = time.perf_counter(), time.process_time()
    for first in range(0, len(talks), at_a_time):
        encoded, _ = encode(talks[first : first + at_a_time], template, tokenizer, seq_length=SEQ_LENGTH)
        batch = []
        for i in range(len(encoded)):
            ids = np.full(SEQ_LENGTH + 1, tokenizer.pad_id, np.int32)
            labels = np.full(SEQ_LENGTH + 1, -100, np.int32)
            row = encoded.row(i)
            ids[: len(row[0])], labels[: len(row[0])] = row
            batch.append({"input_ids": ids, "labels": labels})
        writer.write_raw_data(batch)
    writer.commit()
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - before}))


def measure_plain(args: argparse.Namespace, conversations: Path, out: Path, at_a_time: int) -> dict[str, float]:
    """Time a plain way in a process of its own."""
    words = ["--plain", conversations, out, "--plain-rows", args.plain_rows, "--at-a-time", at_a_time]
    words += ["--tokenizer", args.tokenizer, "--template", args.template]
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_ours(args: argparse.Namespace, conversations: Path, out: Path) -> dict[str, float]:
    """Time ``python -m mindrecord write``, the whole process."""
    words = ["write", conversations, "-o", out, "--tokenizer", args.tokenizer, "--template", args.template]
    words += ["--seq-length", SEQ_LENGTH]
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-m", "mindrecord", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu}


def best(found: list[dict[str, float]], rows: int) -> dict[str, Any]:
    """Summarise repeats by the fastest."""
    fastest = min(found, key=lambda one: one["seconds"])
    return {
        "rows": rows,
        "seconds": round(fastest["seconds"], 3),
        "cpu_seconds": round(min(one["cpu_seconds"] for one in found), 3),
        "rows_a_second": round(rows / fastest["seconds"]),
        "rows_a_cpu_second": round(rows / min(one["cpu_seconds"] for one in found)),
        "all_seconds": [round(one["seconds"], 3) for one in found],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="int: conversations (default %(default)s)")
    parser.add_argument("--plain-rows", type=int, default=5000, help="int: rows of a plain way (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="int: of each way (default %(default)s)")
    parser.add_argument("--tokenizer", default=str(ROOT / "models" / "tiny"), help="default: models/tiny")
    parser.add_argument("--template", default="bare", help="default: %(default)s")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "mindrecord.json"), metavar="FILE")
    parser.add_argument("--plain", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--at-a-time", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain(*args.plain, args.tokenizer, args.template, args.plain_rows, args.at_a_time)
        return 0

    import numpy as np

    from mindrecord.file.reader import read_token_rows

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=Path(args.out).resolve().parent) as folder:
        talks, raw = Path(folder) / "talks.jsonl", Path(folder) / "raw.jsonl"
        for words in (
            # of the raw rows, duplicates and more are left out
            ["synthesize", "--rows", args.rows * 2, "--seed", 0, "-o", raw],
            ["convert", raw, "-o", talks, "--rows", args.rows, "--seed", 0],
        ):
            command = [sys.executable, "-m", "converters.arithmetic", *map(str, words)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        ours, one, many = (Path(folder) / f"{name}.mindrecord" for name in ("ours", "one", "lists"))
        found: dict[str, list[dict[str, float]]] = {"one": [], "lists": [], "ours": []}
        for _ in range(args.repeats):
            found["one"].append(measure_plain(args, talks, one, 1))
            found["ours"].append(measure_ours(args, talks, ours))
            found["lists"].append(measure_plain(args, talks, many, LIST))
        # no sidecar names the pad of the plain file: its rows keep their full length
        whole, rows = read_token_rows(one), read_token_rows(ours, 0, args.plain_rows)
        tables = whole.input_ids.reshape(len(rows), -1), whole.labels.reshape(len(rows), -1)
        within = np.arange(SEQ_LENGTH + 1) < rows.lengths[:, None]
        same = all(
            np.array_equal(table[within], flat)
            for table, flat in zip(tables, (rows.input_ids, rows.labels), strict=True)
        )
        result: dict[str, Any] = {
            "conditions": {
                "cores": len(os.sched_getaffinity(0)),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "mindspore": version("mindspore"),
                "load_average_at_start": round(load, 2),
                "tokenizer": Path(args.tokenizer).name,
                "template": args.template,
                "seq_length": SEQ_LENGTH,
                "note": "one row at a time and lists: after imports, on a share of the rows; ours: the whole process",
            },
            "same_integers": same,
            "one_row_at_a_time": best(found["one"], args.plain_rows),
            "lists_of_5000": best(found["lists"], args.plain_rows),
            "ours": best(found["ours"], args.rows) | {"file_mb": round(ours.stat().st_size / 1e6, 1)},
        }
    times = result["ours"]["rows_a_second"] / result["one_row_at_a_time"]["rows_a_second"]
    result["times_faster"] = round(times, 1)
    result["times_faster_than_lists"] = round(
        result["ours"]["rows_a_second"] / result["lists_of_5000"]["rows_a_second"], 1
    )
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0 if same and times >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
