"""Packing: every row once, no bin too full, never worse than first-fit decreasing, and fast."""

import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.common.errors import UserError
from converters.text.conversation import problem_row
from converters.text.template import get_template
from mindrecord.tokens.encode import encode
from mindrecord.tokens.pack import pack


def first_fit_decreasing(lengths, capacity):
    """The textbook's number of bins."""
    space = []
    for length in sorted(lengths, reverse=True):
        for i, left in enumerate(space):
            if length <= left:
                space[i] -= length
                break
        else:
            space.append(capacity - length)
    return len(space)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 90))
def test_laws(lengths, capacity):
    bins = pack(lengths, capacity)
    rows = sorted(int(row) for content in bins for row in content)
    assert rows == list(range(len(lengths)))
    sizes = np.array(lengths)
    assert all(sizes[content].sum() <= capacity for content in bins)
    assert all(len(content) for content in bins)
    assert len(bins) <= first_fit_decreasing(lengths, capacity)
    again = pack(np.array(lengths, dtype=np.int64), capacity)
    assert [content.tolist() for content in again] == [content.tolist() for content in bins]


def test_fits_that_one_of_the_two_ways_misses():
    lengths = [14, 15, 16, 17, 25, 28]
    assert first_fit_decreasing(lengths, 60) == 3
    assert len(pack(lengths, 60)) == 2
    # and one that filling each bin as best one can misses
    lengths = [10, 18, 19, 21, 22, 26, 28, 30]
    assert len(pack(lengths, 60)) == first_fit_decreasing(lengths, 60) == 3


def arithmetic_lengths(count, genuine):
    """Lengths of arithmetic rows in the contest's proportions of long and short kinds."""
    draw = random.Random(0)

    def number():
        return f"{draw.uniform(-1e4, 1e4):.2f}"

    def row(i):
        kind = draw.random()
        a, b, n = number(), number(), draw.randint(1, 100)
        if kind < 0.66:
            problem, answer = f"计算 {a} {draw.choice('+-*/')} {b} 等于多少？", f"{a} - {b} = {number()}"
        elif kind < 0.74:
            problem, answer = f"解方程 {n}x + {n + 3} = 0", f"{n}x = -{n + 3}, x = -{n + 3} / {n}, x = -1.0312"
        elif kind < 0.88:
            problem, answer = f"计算 {a} 的平方根", f"√{a} = {draw.random() * 100:.4f}"
        else:
            several = [str(draw.randint(1, 100)) for _ in range(draw.randint(2, 12))]
            problem = f"求以下数据的平均值：[{', '.join(several)}]"
            answer = f"({' + '.join(several)}) / {len(several)} = {draw.random() * 100:.4f}"
        return problem_row(problem, "计算过程：" + answer, str(i))

    rows, _ = encode([row(i) for i in range(count)], get_template("bare"), genuine, seq_length=256)
    return rows.lengths


def test_arithmetic_rows_fill_their_bins(genuine):
    lengths = arithmetic_lengths(4000, genuine)
    for capacity in (256, 1024):
        bins = pack(lengths, capacity)
        assert lengths.sum() / (len(bins) * capacity) >= 0.97


@pytest.mark.parametrize("capacity", [256, 4096])
def test_a_hundred_thousand_rows_in_a_second(capacity):
    lengths = np.random.default_rng(0).integers(20, 250, 100_000)
    start = time.process_time()
    bins = pack(lengths, capacity)
    assert time.process_time() - start < 1.0
    assert sum(map(len, bins)) == 100_000
    assert lengths.sum() / (len(bins) * capacity) >= 0.97


def test_no_rows():
    assert pack([], 256) == []


def test_a_row_that_fits_no_bin_is_named():
    with pytest.raises(UserError, match="row 1 has 300 tokens, more than a bin of 256"):
        pack([5, 300], 256)
    with pytest.raises(UserError, match="row 2 has no tokens"):
        pack([5, 3, 0], 256)
