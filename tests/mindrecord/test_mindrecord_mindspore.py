"""MindRecord files held against MindSpore's own writer and reader, and mindformers' loader."""

import json
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from converters.tokenizers.segments import row_offsets
from mindrecord.file.header import COLUMNS, index_of, read_header, sidecar_of
from mindrecord.file.reader import check, read_token_rows
from mindrecord.file.row_codec import Column
from mindrecord.file.writer import write_file

NEEDED = ("mindspore", "mindformers")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason=f"needs {' and '.join(NEEDED)}"),
]
ROOT = Path(__file__).resolve().parents[2]
PAD = 128002


def random_rows(n, length, seed):
    """Rows of numbers of every width, flat, and their places."""
    draw = np.random.default_rng(seed)
    offsets = row_offsets(draw.integers(1, length + 1, n))
    widest = draw.choice([100, 30_000, 128_000], offsets[-1])
    ids = (draw.integers(0, 1 << 40, offsets[-1]) % widest).astype(np.int32)
    return ids, np.where(draw.random(len(ids)) < 0.5, ids, -100).astype(np.int32), offsets


def filled(values, offsets, length, fill):
    table = np.full((len(offsets) - 1, length), fill, np.int32)
    table[np.arange(length) < np.diff(offsets)[:, None]] = values
    return table


def index(path):
    with sqlite3.connect(index_of(path)) as database:
        queries = ("SELECT name, sql FROM sqlite_master", "SELECT * FROM INDEXES", "SELECT * FROM SHARD_NAME")
        return [database.execute(query).fetchall() for query in queries]


# one row · some pages · many pages, several of raw data · pages with one row each · larger pages
@pytest.mark.parametrize(
    ("n", "length", "page_size"),
    [(1, 9, 1 << 15), (700, 257, 1 << 15), (7000, 64, 1 << 15), (40, 4097, 1 << 15), (900, 257, 1 << 17)],
)
def test_the_bytes_that_mindspore_writes(tmp_path, n, length, page_size):
    from mindspore.mindrecord import FileWriter

    ids, labels, offsets = random_rows(n, length, seed=n)
    ours, theirs = tmp_path / "ours" / "x.mindrecord", tmp_path / "theirs" / "x.mindrecord"
    ours.parent.mkdir()
    theirs.parent.mkdir()
    columns = {"input_ids": Column(ids, offsets, length, PAD), "labels": Column(labels, offsets, length, -100)}
    write_file(ours, columns, "token rows", page_size)

    writer = FileWriter(str(theirs), 1)
    writer.set_header_size(read_header(ours).values["header_size"])
    writer.set_page_size(page_size)
    writer.add_schema(COLUMNS, "token rows")
    table = zip(filled(ids, offsets, length, PAD), filled(labels, offsets, length, -100), strict=True)
    writer.write_raw_data([{"input_ids": a, "labels": b} for a, b in table])
    writer.commit()
    assert ours.read_bytes() == theirs.read_bytes()
    assert index(ours) == index(theirs)


def test_files_that_mindspore_wrote_row_by_row(tmp_path, capsys):
    """The contest's way of writing, default sizes and all, is read too."""
    from mindspore.mindrecord import FileWriter

    ids, labels, offsets = random_rows(50, 257, seed=3)
    path = tmp_path / "x.mindrecord"
    writer = FileWriter(str(path), 1)
    writer.add_schema(COLUMNS, "qa")
    tables = filled(ids, offsets, 257, PAD), filled(labels, offsets, 257, -100)
    for a, b in zip(*tables, strict=True):
        writer.write_raw_data([{"input_ids": a, "labels": b}])
    writer.commit()
    assert check(path, seq_length=256, template_hash=None, tokenizer_hash=None)["rows"] == 50
    back = read_token_rows(path)
    assert np.array_equal(back.input_ids.reshape(50, 257), tables[0])
    assert np.array_equal(back.labels.reshape(50, 257), tables[1])


# a fresh process: MindSpore's context is global
READ = """
import sys
import numpy as np
from mindformers.dataset import CausalLanguageModelDataset
loader = {"type": "MindDataset", "dataset_dir": sys.argv[1], "shuffle": False}
data = CausalLanguageModelDataset(data_loader=loader, input_columns=["input_ids", "labels"], batch_size=1,
    drop_remainder=True, num_parallel_workers=1)
columns = zip(*data.create_tuple_iterator(num_epochs=1, output_numpy=True))
ids, labels = (np.concatenate(column) for column in columns)
np.savez(sys.argv[2], ids=ids, labels=labels)
"""


@pytest.mark.parametrize("kind", ["tiny", "genuine"])
def test_mindformers_reads_the_integers_that_cuda_trains_on(tmp_path, kind, request):
    """The rows of a recipe on CUDA, and what mindformers' own loader makes of the file: one id, one label at a time."""
    from backends.recipe.load import load_recipe
    from backends.run.rows import load_rows

    if kind == "tiny":
        tokenizer, template = ROOT / "models" / "tiny", "bare"
    else:
        tokenizer, template = request.getfixturevalue("genuine").source, "vicuna"
    talks = tmp_path / "talks.jsonl"
    rows = [
        {"id": str(i), "instruction": f"计算 {i}.09 - -{688 + i * 1001}.16 等于多少？", "output": f"{i} = {i * 7919}"}
        for i in range(60)
    ]
    talks.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    file = tmp_path / "x.mindrecord"
    words = ["write", talks, "-o", file, "--tokenizer", tokenizer, "--template", template, "--seq-length", 128]
    subprocess.run([sys.executable, "-m", "mindrecord", *map(str, words)], cwd=ROOT, check=True, capture_output=True)

    settings = [f"data.train={talks}", f"data.tokenizer={tokenizer}", f"data.template={template}"]
    recipe = load_recipe(ROOT / "yaml" / "demo.yaml", [*settings, "model.model_config.seq_length=128"])
    cuda = load_rows(recipe, quiet=True)
    assert json.loads(sidecar_of(file).read_text())["rows_sha256"] == cuda.record["rows_sha256"]

    out = tmp_path / "read.npz"
    done = subprocess.run(
        [sys.executable, "-c", READ, file, out], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as read:
        ids, labels = read["ids"], read["labels"]
    assert ids.dtype == labels.dtype == np.int32
    assert ids.shape == labels.shape == (60, 129)
    pad = cuda.tokenizer.pad_id
    for i in range(60):
        row_ids, row_labels = cuda.rows.row(i)
        # mindformers: inputs ids[:-1], targets labels[1:], counted where input is not the pad and target not -100
        assert np.array_equal(ids[i, : len(row_ids)], row_ids)
        assert np.array_equal(labels[i, : len(row_ids)], row_labels)
        assert (ids[i, len(row_ids) :] == pad).all()
        counted = (ids[i, :-1] != pad) & (labels[i, 1:] != -100)
        assert counted.sum() == (row_labels[1:] >= 0).sum() == cuda.supervised[i]
    if kind == "genuine":
        assert pad == PAD
