"""The bytes of MindRecord rows: arrays of int32, each number in as few bytes as it needs.

A row in a page is eight bytes (its length, little-endian), then each column: eight bytes (its length, big-endian), four
bytes (number of elements, big-endian), two bits an element that say how wide it is (1, 2 or 4 bytes), first element in
the highest bits, and the elements themselves, little-endian, two's complement. MindSpore writes arrays of int32 so and
no other way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# bytes before a row, before a column, and of a column's number of elements
_ROW, _COLUMN, _COUNT = 8, 8, 4


class Column:
    """One column of many rows, end to end, each row padded to the same length.

    Args:
        values: int32 [t].
        offsets: int64 [n + 1]; row i is ``offsets[i]:offsets[i + 1]``.
        length: elements of each padded row.
        fill: the padding value.
    """

    def __init__(self, values: NDArray[np.int32], offsets: NDArray[np.int64], length: int, fill: int):
        self.values, self.offsets, self.length = values, offsets, length
        self.codes = _width_codes(values)
        self.fill_code = int(_width_codes(np.array([fill], np.int32))[0])
        width = 1 << self.fill_code
        self.filling = fill.to_bytes(width, "little", signed=True) * length
        # two bits an element, so four to a byte
        self.head = _COUNT + -(-length // 4)
        # bytes of the elements up to each row's start, then of each row
        self.ends = np.concatenate([[0], np.cumsum(1 << self.codes.astype(np.int64))])[offsets]
        self.sizes = self.head + np.diff(self.ends) + width * (length - np.diff(offsets))

    def pieces(self, start: int, end: int) -> list[bytes]:
        """Return the bytes of this column in rows ``start:end``."""
        places = slice(self.offsets[start], self.offsets[end])
        # of the four little-endian bytes of each number, those that its width keeps
        within = np.arange(4) < (1 << self.codes[places])[:, None]
        elements = self.values[places].astype("<i4").view(np.uint8).reshape(-1, 4)[within].tobytes()
        bitmaps = self._bitmaps(start, end)
        cuts = (self.ends[start : end + 1] - self.ends[start]).tolist()
        sizes = self.sizes[start:end].tolist()
        count = self.length.to_bytes(_COUNT, "big")
        pieces = []
        for i, size in enumerate(sizes):
            left, right = cuts[i], cuts[i + 1]
            filling = self.filling[: size - self.head - (right - left)]
            pieces.append(b"".join((size.to_bytes(_COLUMN, "big"), count, bitmaps[i], elements[left:right], filling)))
        return pieces

    def _bitmaps(self, start: int, end: int) -> list[bytes]:
        lengths = np.diff(self.offsets[start : end + 1])
        # whole bytes: the bits behind the last element stay 0
        codes = np.zeros((end - start, -(-self.length // 4) * 4), np.uint8)
        codes[:, : self.length] = self.fill_code
        codes[np.arange(codes.shape[1]) < lengths[:, None]] = self.codes[self.offsets[start] : self.offsets[end]]
        packed = codes[:, 0::4] << 6 | codes[:, 1::4] << 4 | codes[:, 2::4] << 2 | codes[:, 3::4]
        return [row.tobytes() for row in packed]


def row_sizes(columns: Sequence[Column]) -> NDArray[np.int64]:
    """Return the bytes of each row in a page, int64 [n]."""
    return _ROW + sum((_COLUMN + column.sizes for column in columns), np.zeros(len(columns[0].sizes), np.int64))


def page_bytes(columns: Sequence[Column], start: int, end: int) -> bytes:
    """Return the bytes of some rows as they lie in a page.

    Args:
        columns: all of the same number of rows.
        start: first row.
        end: one after the last row.
    """
    sizes = (row_sizes(columns)[start:end] - _ROW).tolist()
    pieces = zip(*(column.pieces(start, end) for column in columns), strict=True)
    return b"".join(
        part for size, row in zip(sizes, pieces, strict=True) for part in (size.to_bytes(_ROW, "little"), *row)
    )


def _width_codes(values: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return 0, 1 or 2 for numbers that fit into 1, 2 or 4 bytes, uint8 [t]."""
    codes = np.zeros(len(values), np.uint8)
    for dtype in (np.int8, np.int16):
        # a number that the narrower type changes does not fit into it
        codes += values != values.astype(dtype)
    return codes


def decode_page(page: bytes, starts: NDArray[np.int64], columns: int) -> list[NDArray[np.int32]]:
    """Read rows back.

    Args:
        page: bytes of a page (or of several).
        starts: where rows begin in it, int64 [n].
        columns: number of columns of a row.

    Returns:
        One int32 [n, length] a column.

    Raises:
        ValueError: the bytes are no rows of arrays of one length.
    """
    # elements are read four bytes at a time, the last of a page too
    data = np.frombuffer(page + bytes(4), np.uint8)
    place = starts + _ROW
    decoded = []
    for _ in range(columns):
        size = _integers(data, place, _COLUMN)
        values, used = _decode_column(data, place + _COLUMN)
        if (used != size).any():
            raise ValueError("a column's length is not that of its elements")
        decoded.append(values)
        place = place + _COLUMN + size
    return decoded


def _decode_column(data: NDArray[np.uint8], place: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return elements int32 [n, length] and the bytes that each row's column takes, int64 [n]."""
    counts = _integers(data, place, _COUNT)
    length = int(counts[0])
    if (counts != length).any():
        raise ValueError("rows are of different lengths")
    head = _COUNT + -(-length // 4)
    # checked before indexing: the lengths come from the file and may be anything
    if int(place.max()) + head > len(data):
        raise ValueError("a row goes beyond its page")
    bitmaps = data[place[:, None] + np.arange(_COUNT, head)]
    codes = (bitmaps[:, :, None] >> np.array([6, 4, 2, 0], np.uint8)).reshape(len(place), -1)[:, :length] & 3
    widths = 1 << codes.astype(np.int64)
    ends = np.cumsum(widths, axis=1)
    at = (place + head)[:, None] + ends - widths
    # code 3 stands for no width of an int32
    if codes.max(initial=0) > 2 or at.max(initial=0) + 4 > len(data):
        raise ValueError("a row goes beyond its page")
    words = np.zeros(at.shape, np.uint32)
    for byte in range(4):
        words |= data[at + byte].astype(np.uint32) << np.uint32(8 * byte)
    # the sign of a narrow number is its own highest bit: up to the top and back
    shift = 32 - 8 * widths
    values = (words << shift.astype(np.uint32)).view(np.int32) >> shift.astype(np.int32)
    return values, head + ends[:, -1]


def _integers(data: NDArray[np.uint8], place: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the big-endian numbers of ``width`` bytes at each place, int64 [n]."""
    if int(place.max()) + width > len(data):
        raise ValueError("a row goes beyond its page")
    numbers = np.zeros(len(place), np.int64)
    for byte in range(width):
        numbers = numbers << 8 | data[place + byte]
    return numbers
