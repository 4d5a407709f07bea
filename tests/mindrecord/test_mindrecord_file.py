"""MindRecord files without MindSpore: rows come back, the sidecar speaks for them, bad input is one clear line."""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.common.errors import UsageError, UserError
from converters.tokenizers.segments import row_offsets
from mindrecord.file.header import index_of, read_header, sidecar_of
from mindrecord.file.reader import check, read_token_rows
from mindrecord.file.writer import write_token_rows
from mindrecord.tokens.encode import TokenRows
from mindrecord.tokens.pack import pack_rows

ROOT = Path(__file__).resolve().parents[2]
PAD = 128002


def make_rows(lengths, seed=0, most=128000) -> TokenRows:
    draw = np.random.default_rng(seed)
    offsets = row_offsets(np.array(lengths, dtype=np.int64))
    ids = (draw.integers(1, 1 << 40, offsets[-1]) % draw.choice([100, 30_000, most], offsets[-1])).astype(np.int32)
    labels = np.where(draw.random(len(ids)) < 0.5, ids, -100).astype(np.int32)
    return TokenRows(ids, labels, offsets, [f"r{i}" for i in range(len(lengths))])


def write(path, rows=None, seq_length=31, **sidecar):
    rows = make_rows(np.random.default_rng(1).integers(1, 33, 200)) if rows is None else rows
    write_token_rows(rows, path, seq_length=seq_length, pad_id=PAD, sidecar=sidecar)
    return rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(0, 1000), st.sampled_from([127, 200, 70_000]))
@settings(max_examples=25)
def test_rows_come_back(tmp_path_factory, lengths, seed, most):
    path = tmp_path_factory.mktemp("rows") / "x.mindrecord"
    rows = write(path, make_rows(lengths, seed, most), seq_length=39)
    back = read_token_rows(path)
    assert np.array_equal(back.input_ids, rows.input_ids)
    assert np.array_equal(back.labels, rows.labels)
    assert back.lengths.tolist() == lengths
    assert back.sha256 == rows.sha256 == json.loads(sidecar_of(path).read_text())["rows_sha256"]


def test_rows_over_many_pages(tmp_path):
    path = tmp_path / "x.mindrecord"
    rows = write(path, make_rows(np.random.default_rng(2).integers(1, 258, 5000)), seq_length=256)
    assert len(read_header(path).values["page"]) > 50
    assert read_token_rows(path).sha256 == rows.sha256
    some = read_token_rows(path, 1234, 3456)
    assert some.ids[0] == "1234"
    assert np.array_equal(some.input_ids, rows.input_ids[rows.offsets[1234] : rows.offsets[3456]])
    assert len(read_token_rows(path, 4999)) == len(read_token_rows(path, 4990, 4991)) == 1
    with pytest.raises(UsageError, match="no row 5000; it has rows 0 to 4999"):
        read_token_rows(path, 5000)


def test_a_small_file_is_small(tmp_path):
    path = tmp_path / "x.mindrecord"
    write(path, make_rows([20] * 10), seq_length=256)
    assert path.stat().st_size < 60_000
    assert path.stat().st_blocks * 512 < 60_000


def test_what_the_sidecar_says(tmp_path):
    path = tmp_path / "x.mindrecord"
    rows = write(path, template={"name": "bare", "hash": "b" * 64}, tokenizer={"source": "T", "hash": "c" * 64})
    found = check(path, seq_length=31, template_hash="b" * 64, tokenizer_hash="c" * 64)
    assert found["rows"] == len(rows)
    assert (found["seq_length"], found["pad_id"], found["packed"]) == (31, PAD, None)
    assert found["columns"] == ["input_ids", "labels"]
    assert found["rows_sha256"] == rows.sha256


def cut(path):
    with path.open("rb+") as handle:
        handle.truncate(path.stat().st_size - 1)


def cut_header(path):
    with path.open("rb+") as handle:
        handle.truncate(100)


def damage(path):
    layout = read_header(path)
    with path.open("rb+") as handle:
        handle.seek(layout.values["header_size"] + 8)
        handle.write(b"\xff" * 64)


def rename_columns(path):
    data = path.read_bytes().replace(b'"labels"', b'"label_"')
    path.write_bytes(data)


def other_type(path):
    path.write_bytes(path.read_bytes().replace(b'"int32"', b'"int64"'))


def drop_index_rows(path):
    with sqlite3.connect(index_of(path)) as database:
        database.execute("DELETE FROM INDEXES WHERE ROW_ID > 50")


def rename(path):
    kept = path.with_name("kept")
    for place in (Path, index_of, sidecar_of):
        shutil.copy(place(path), kept.with_name(place(kept).name))
    other = path.with_name("other.mindrecord")
    write(other)
    for place in (Path, index_of, sidecar_of):
        shutil.move(place(other), place(path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"x.mindrecord: cut off: [\d,]+ bytes of [\d,]+; copy or write it again"),
        (cut_header, "not a MindRecord file"),
        (damage, "rows 0 to 0 are damaged"),
        (lambda path: index_of(path).unlink(), r"its index x\.mindrecord\.db is missing"),
        (lambda path: index_of(path).write_bytes(b"no database" * 100), "cannot be read"),
        (drop_index_rows, "lists 51 rows, x.mindrecord holds 200; they do not belong together"),
        (rename_columns, r"its columns are input_ids \(int32\), label_ \(int32\); wanted are int32 arrays"),
        (other_type, r"its columns are input_ids \(int64\), labels \(int64\)"),
        (rename, "was written as other.mindrecord; MindSpore looks for the name kept inside: rename it back"),
        (lambda path: path.write_text("{}"), "not a MindRecord file; `python -m mindrecord write` makes one"),
        (
            lambda path: sidecar_of(path).write_text('{"rows": 7}'),
            "not the sidecar of x.mindrecord, which has 200 rows",
        ),
        (lambda path: sidecar_of(path).write_text("{"), "not JSON"),
    ],
)
def test_spoilt_files(tmp_path, spoil, message):
    path = tmp_path / "x.mindrecord"
    write(path)
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        check(path, seq_length=31, template_hash=None, tokenizer_hash=None)
    assert str(tmp_path) in str(caught.value)


def test_a_number_that_changed(tmp_path):
    """The file is whole and its index fits, but an id in it is another."""
    path = tmp_path / "x.mindrecord"
    write(path, make_rows([32] * 9))
    header_size = read_header(path).values["header_size"]
    with path.open("rb+") as handle:
        # row, column, number of elements, widths: then the first id
        handle.seek(header_size + 8 + 8 + 4 + 8)
        before = handle.read(1)[0]
        handle.seek(-1, 1)
        handle.write(bytes([before ^ 1]))
    with pytest.raises(UserError, match=r"its rows are not those that x\.mindrecord\.json speaks of"):
        read_token_rows(path)


def test_another_run(tmp_path):
    path = tmp_path / "x.mindrecord"
    write(path, template={"name": "bare", "hash": "b" * 64}, tokenizer={"source": "T", "hash": "c" * 64})
    right = {"seq_length": 31, "template_hash": "b" * 64, "tokenizer_hash": "c" * 64}
    for key, value, message in (
        ("seq_length", 256, "rows of 32 ids are for seq_length=31, not 256; set seq_length to 31"),
        ("template_hash", "d" * 64, "written with another template: bare bbbbbbbbbbbb, wanted is dddddddddddd"),
        ("tokenizer_hash", "d" * 64, "written with another tokenizer: T cccccccccccc, wanted is dddddddddddd"),
    ):
        with pytest.raises(UserError, match=message):
            check(path, **{**right, key: value})
    with pytest.raises(UsageError, match="no such file"):
        check(tmp_path / "y.mindrecord", **right)


def test_packed_rows_only_where_they_are_understood(tmp_path):
    path = tmp_path / "x.mindrecord"
    write(path, packed={"conversations": 500, "bos_id": 1})
    plain = {"seq_length": 31, "template_hash": None, "tokenizer_hash": None}
    with pytest.raises(UserError, match="its rows are packed, and would see each other here"):
        check(path, **plain)
    assert check(path, **plain, packed_allowed=True)["packed"]["conversations"] == 500


def test_without_a_sidecar(tmp_path, capsys):
    """A file that another program made: its template cannot be known, and that is said."""
    path = tmp_path / "x.mindrecord"
    write(path)
    sidecar_of(path).unlink()
    assert check(path, seq_length=31, template_hash="b" * 64, tokenizer_hash=None)["rows"] == 200
    assert "the template and the tokenizer of its rows cannot be checked" in capsys.readouterr().err
    assert set(read_token_rows(path).lengths.tolist()) == {32}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (make_rows([5, 33, 4]), "1 rows do not fit seq_length=31; row r1 has 33 ids"),
        (make_rows([]), "no rows to write"),
        (
            TokenRows(np.array([1, PAD], np.int32), np.array([-100, 5], np.int32), np.array([0, 2]), ["r9"]),
            "row r9 holds",
        ),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "x.mindrecord", rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.json", "x", "a:b.mindrecord", " x.mindrecord", "it's.mindrecord"])
def test_names_that_mindspore_refuses(tmp_path, name):
    with pytest.raises(UsageError, match=r"need a name like train\.mindrecord"):
        write(tmp_path / name)


def test_writing_again_replaces_all_three(tmp_path):
    path = tmp_path / "x.mindrecord"
    write(path)
    rows = write(path, make_rows([3, 4]))
    assert read_token_rows(path).sha256 == rows.sha256
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.mindrecord", "x.mindrecord.db", "x.mindrecord.json"]


def limited(code, limit):
    """Run code in a process whose files cannot grow beyond ``limit`` bytes, as on a full disk."""

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    prepared = (
        "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.path.insert(0, 'tests/mindrecord')\n"
        "from test_mindrecord_file import write, make_rows; from pathlib import Path\n"
    )
    command = [sys.executable, "-c", prepared + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, preexec_fn=limit_files, check=False)


def test_full_disk(tmp_path):
    done = limited(f"write(Path({str(tmp_path)!r}) / 'x.mindrecord', make_rows([32] * 4000))", 20_000)
    assert done.returncode == 1
    assert "x.mindrecord: could not be written (File too large); nothing was left" in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr("mindrecord.file.writer.index_of", lambda path: Path("/dev/full"))
    with pytest.raises(UserError, match=r"x\.mindrecord: could not be written \(.*; nothing was left"):
        write(tmp_path / "x.mindrecord")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write(tmp_path / "file" / "x.mindrecord")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="could not be written"):
        write(tmp_path / "x.mindrecord")


@pytest.mark.backend
def test_killed_while_writing(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests/mindrecord'); from pathlib import Path\n"
        "from test_mindrecord_file import write, make_rows\n"
        f"write(Path({str(tmp_path)!r}) / 'x.mindrecord', make_rows([32] * 200_000))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while process.poll() is None and not list(tmp_path.glob(".tmp-*/x.mindrecord")):
        pass
    process.kill()
    assert process.wait() != 0
    assert not list(tmp_path.glob("x.mindrecord*"))


def test_stopped_while_writing(tmp_path, monkeypatch):
    """The three files come under their names at the end only, the data file last."""
    path = tmp_path / "x.mindrecord"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mindrecord.file.writer._move", stop)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_packed_rows_hold_every_row_once(lengths):
    rows = make_rows(lengths, most=1000)
    rows.input_ids[rows.input_ids == 77] = 78
    rows.input_ids[rows.offsets[:-1]] = 77
    packed = pack_rows(rows, 20, 77)
    assert packed.lengths.max() <= 20
    starts = np.flatnonzero(packed.input_ids == 77).tolist()
    found = [packed.input_ids[a:b].tolist() for a, b in zip(starts, [*starts[1:], None], strict=True)]
    names = [name for one in packed.ids for name in one.split("+")]
    wanted = {name: rows.row(i)[0].tolist() for i, name in enumerate(rows.ids)}
    assert sorted(names) == sorted(rows.ids)
    assert found == [wanted[name] for name in names]
    # a packed row begins where a row begins
    assert set(packed.offsets[:-1].tolist()) <= set(starts)
    targets = {name: rows.row(i)[1].tolist() for i, name in enumerate(rows.ids)}
    assert packed.labels.tolist() == [label for name in names for label in targets[name]]


@pytest.mark.parametrize("bos_id", [None, 77, 5])
def test_rows_that_cannot_be_told_apart_are_not_packed(bos_id):
    rows = TokenRows(
        np.array([77, 5, 6, 77, 77, 9], np.int32), np.full(6, -100, np.int32), np.array([0, 3, 6]), ["a", "b"]
    )
    with pytest.raises(UserError, match=r"row [ab] cannot be packed: each row must begin with the BOS"):
        pack_rows(rows, 20, bos_id)
