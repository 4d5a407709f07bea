"""Safetensors without a framework: what is written is read, bit for bit, and damage is said in one line."""

import json

import numpy as np
import pytest
from exchange_files import random_bits
from hypothesis import given
from hypothesis import strategies as st

from backends.weights import safetensors_files as tensors
from backends.weights.dtypes import numpy_types
from backends.weights.safetensors_files import ShardWriter, open_tensors
from converters.common.errors import UsageError, UserError

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def write(folder, arrays, **options):
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, **options) as writer:
        for name, array in arrays.items():
            writer.add(name, array)


@given(
    drawn=st.lists(st.tuples(SHAPES, st.sampled_from(sorted(numpy_types()))), min_size=1, max_size=8),
    shard_bytes=st.one_of(st.none(), st.integers(1, 300)),
    small_file=st.sampled_from([0, 2**26]),
    room=st.sampled_from([64, 2**20]),
)
def test_what_is_written_is_read_bit_for_bit(tmp_path_factory, drawn, shard_bytes, small_file, room):
    folder = tmp_path_factory.mktemp("shards")
    arrays = {f"t{i}": random_bits(shape, numpy_types()[kind], i) for i, (shape, kind) in enumerate(drawn)}
    with pytest.MonkeyPatch.context() as patch:
        # both ways of putting the header before the data, whatever the size
        patch.setattr(tensors, "SMALL_FILE", small_file)
        patch.setattr(tensors, "HEADER_ROOM", room)
        write(folder, arrays, max_shard_bytes=shard_bytes)
    found = open_tensors(folder)
    assert found.names() == list(arrays)
    for name, array in arrays.items():
        read = found.read(name)
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
    if shard_bytes is not None:
        for file in folder.glob("*.safetensors"):
            sizes = [entry.nbytes for entry in open_tensors(file).entries.values() if entry.nbytes]
            assert len(sizes) <= 1 or sum(sizes) <= shard_bytes


def test_shards_and_their_index_are_what_transformers_writes(tmp_path):
    write(tmp_path, {"b": np.zeros(4, np.float32), "a": np.ones(4, np.float32)}, max_shard_bytes=16)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[2]).read_text())
    assert index == {"metadata": {"total_size": 32}, "weight_map": {"a": names[1], "b": names[0]}}
    assert open_tensors(tmp_path).metadata == {"format": "pt"}


def test_a_small_file_has_no_blank_header(tmp_path):
    write(tmp_path, {"a": np.zeros(4, np.float32)})
    assert (tmp_path / "model.safetensors").stat().st_size < 200


def test_a_failed_write_leaves_nothing(tmp_path):
    def failing():
        with ShardWriter(tmp_path) as writer:
            writer.add("a", np.zeros(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_written_once(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.add("a", np.zeros(1))
        with pytest.raises(UserError, match="a was written twice"):
            writer.add("a", np.zeros(1))


def test_nothing_to_write_is_said(tmp_path):
    with pytest.raises(UserError, match="no tensors"), ShardWriter(tmp_path):
        pass


def test_a_type_without_a_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="no type for complex64"), ShardWriter(tmp_path) as writer:
        writer.add("a", np.zeros(1, np.complex64))


def test_every_cut_is_noticed(tmp_path):
    write(tmp_path, {"a": np.arange(6.0), "b": np.arange(3)})
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut off|not a safetensors file"):
            open_tensors(tmp_path)


def damaged(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 60, "not a safetensors file"),
        (damaged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\x00" * 9), "longer than its header"),
        (damaged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\x00" * 4), "does not fit its shape"),
        (damaged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\x00" * 8), "does not fit its shape"),
        (damaged({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\x00" * 4), "F99"),
        (damaged({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\x00" * 4), "negative"),
        (damaged({"a": {"dtype": "F32", "shape": [1]}}, b"\x00" * 4), "data_offsets"),
        (damaged({"a": 3}), "header cannot be read"),
    ],
)
def test_damage_is_one_line(tmp_path, content, problem):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        open_tensors(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, {"a": np.zeros(4), "b": np.zeros(4), "c": np.zeros(4)}, max_shard_bytes=32)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="1 of 3 shards are missing, model-00002-of-00003"):
        open_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"shard model-00002-of-00003\.safetensors is missing"):
        open_tensors(tmp_path)


def test_an_index_that_its_shards_do_not_keep_is_refused(tmp_path):
    write(tmp_path, {"a": np.zeros(4), "b": np.zeros(4)}, max_shard_bytes=32)
    file = tmp_path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["lost"] = index["weight_map"]["a"]
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match="lists 1 tensors that its shards do not hold, lost first"):
        open_tensors(tmp_path)
    file.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="outside its own directory"):
        open_tensors(tmp_path)
    file.write_text("[]")
    with pytest.raises(UserError, match="no 'weight_map'"):
        open_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    for stem in ("x", "y"):
        write(tmp_path, {"a": np.zeros(4)}, stem=stem)
    with pytest.raises(UserError, match=r"holds a, which x\.safetensors holds as well"):
        open_tensors(tmp_path)


def test_nothing_there_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"no \*\.safetensors there"):
        open_tensors(tmp_path)
    with pytest.raises(UsageError, match="no such file or directory"):
        open_tensors(tmp_path / "absent")


def test_a_file_that_shrinks_is_noticed(tmp_path):
    write(tmp_path, {"a": np.arange(100.0)})
    found = open_tensors(tmp_path)
    with (tmp_path / "model.safetensors").open("rb+") as handle:
        handle.truncate(200)
    with pytest.raises(UserError, match="changed since it was opened"):
        found.read("a")
    with pytest.raises(UserError, match="no tensor 'b'"):
        found.read("b")
