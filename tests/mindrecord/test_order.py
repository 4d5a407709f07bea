"""The order of an epoch: each row once, the same everywhere, another one each epoch."""

from hypothesis import given
from hypothesis import strategies as st

from mindrecord.tokens.order import epoch_order


@given(st.integers(0, 200), st.integers(0, 2**32), st.integers(0, 100))
def test_each_row_once_and_repeatable(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == epoch_order(n, seed, epoch).tolist()


def test_seed_and_epoch_both_matter():
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_without_shuffling_rows_stay():
    assert epoch_order(5, 3, 2, shuffle=False).tolist() == [0, 1, 2, 3, 4]


def test_the_order_is_part_of_the_recipe():
    # a run is repeated with the same order on another machine, backend or numpy
    assert epoch_order(10, 0, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert epoch_order(10, 42, 3).tolist() == [0, 8, 6, 5, 1, 3, 7, 4, 2, 9]
