"""MindSpore checkpoints without MindSpore: bit for bit, in pieces, and damage is said in one line."""

import zlib

import ml_dtypes
import numpy as np
import pytest
from exchange_files import random_bits, write_ckpt
from hypothesis import given
from hypothesis import strategies as st

from backends.weights import mindspore_ckpt as ckpt
from backends.weights.dtypes import numpy_types
from backends.weights.mindspore_ckpt import TYPE_NAMES, CkptWriter, open_ckpt, open_weights
from converters.common.errors import UsageError, UserError

# what mindspore 2.9.0 wrote for b = [1.5, 2.25, −2.755e−40] in bfloat16 and big = zeros (3, 5) in float16
WRITTEN_BY_MINDSPORE = (
    b"\n\x19\n\x01b\x12\x14\x08\x03\x12\x08BFloat16\x1a\x06\xc0?\x10@\x03\x80\n4\n\x03big\x12-\x08\x03\x08\x05\x12\x07Float16\x1a\x1e"
    + bytes(30)
)
TEXT = b'\n"\n\x01s\x12\x1d\x08\x00\x12\x03str\x1a\x14' + "hällo".encode("utf-32-le")


def test_bytes_of_mindspore_are_read_and_written_again(tmp_path):
    file = tmp_path / "x.ckpt"
    file.write_bytes(WRITTEN_BY_MINDSPORE)
    found = open_ckpt(file)
    assert [(name, found.shape(name), found.dtype(name)) for name in found] == [
        ("b", (3,), "BF16"),
        ("big", (3, 5), "F16"),
    ]
    values = found.read("b")
    assert values.dtype == ml_dtypes.bfloat16
    assert values[:2].astype(float).tolist() == [1.5, 2.25]
    again = write_ckpt(tmp_path / "again.ckpt", {name: found.read(name) for name in found})
    assert again.read_bytes() == WRITTEN_BY_MINDSPORE


def test_texts_are_metadata(tmp_path):
    file = tmp_path / "x.ckpt"
    file.write_bytes(WRITTEN_BY_MINDSPORE + TEXT)
    assert open_ckpt(file).metadata == {"s": "hällo"}
    assert len(open_ckpt(file)) == 2


@given(
    drawn=st.lists(
        st.tuples(st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from(sorted(TYPE_NAMES))),
        min_size=1,
        max_size=6,
    ),
    piece=st.integers(1, 40),
)
def test_what_is_written_is_read_bit_for_bit(tmp_path_factory, drawn, piece):
    file = tmp_path_factory.mktemp("ckpt") / "x.ckpt"
    arrays = {f"t{i}": random_bits(shape, numpy_types()[kind], i) for i, (shape, kind) in enumerate(drawn)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ckpt, "PIECE_BYTES", piece)
        write_ckpt(file, arrays)
    found = open_ckpt(file)
    assert found.names() == list(arrays)
    for name, array in arrays.items():
        read = found.read(name)
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_single_number_as_older_versions_wrote_it(tmp_path):
    file = tmp_path / "x.ckpt"
    file.write_bytes(b"\n\x16\n\x01s\x12\x11\x08\x00\x12\x07Float32\x1a\x04\x00\x00\x80?")
    assert open_ckpt(file).read("s").tolist() == 1.0


def test_a_checksum_is_verified(tmp_path):
    file = tmp_path / "x.ckpt"
    checksum = b"crc_num" + zlib.crc32(WRITTEN_BY_MINDSPORE).to_bytes(10, "big")
    file.write_bytes(WRITTEN_BY_MINDSPORE + checksum)
    assert open_ckpt(file).names() == ["b", "big"]
    file.write_bytes(WRITTEN_BY_MINDSPORE[:-1] + b"\x01" + checksum)
    with pytest.raises(UserError, match="checksum does not match"):
        open_ckpt(file)


def test_every_cut_is_noticed(tmp_path):
    file = tmp_path / "x.ckpt"
    boundaries = {27}  # between two tensors: what is missing then is said when names are compared
    for length in range(len(WRITTEN_BY_MINDSPORE)):
        file.write_bytes(WRITTEN_BY_MINDSPORE[:length])
        if length in boundaries:
            assert open_ckpt(file).names() == ["b"]
            continue
        with pytest.raises(UserError, match=r"cut off|holds no tensors"):
            open_ckpt(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04" + bytes(40), "a PyTorch file"),
        (b"\x80\x02}q\x00." * 9, "damaged, or encrypted"),
        (WRITTEN_BY_MINDSPORE + WRITTEN_BY_MINDSPORE[:27], "holds b twice"),
        (WRITTEN_BY_MINDSPORE.replace(b"\x08\x03\x12", b"\x08\x04\x12"), r"b: 6 bytes where its shape \[4\] has 8"),
        (WRITTEN_BY_MINDSPORE.replace(b"BFloat16", b"XFloat16"), "XFloat16"),
        (b"\n\x05\n\x01m\x1a\x00", "MapParameter"),
    ],
)
def test_damage_is_one_line(tmp_path, content, problem):
    file = tmp_path / "x.ckpt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        open_ckpt(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_without_a_name_is_refused(tmp_path):
    with CkptWriter(tmp_path / "x.ckpt") as writer:
        with pytest.raises(UserError, match="no type for float8_e5m2"):
            writer.add("a", np.zeros(1, ml_dtypes.float8_e5m2))
        writer.add("b", np.zeros(1))
        with pytest.raises(UserError, match="b was written twice"):
            writer.add("b", np.zeros(1))


def test_a_directory_is_searched_for_one_file(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(WRITTEN_BY_MINDSPORE)
    assert len(open_weights(tmp_path)) == 2
    (tmp_path / "y.ckpt").write_bytes(WRITTEN_BY_MINDSPORE)
    with pytest.raises(UsageError, match=r"holds 2 \.ckpt files; name one"):
        open_weights(tmp_path)
    (tmp_path / "rank_0").mkdir()
    with pytest.raises(UserError, match="parts of several devices"):
        open_weights(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        open_ckpt(tmp_path / "absent.ckpt")
