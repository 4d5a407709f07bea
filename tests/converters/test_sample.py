"""Quotas add up, and rows are chosen once."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.arithmetic.problems import KINDS
from converters.common.errors import UsageError, UserError
from converters.pipeline.output import PROPORTIONAL, SQUARE_ROOT, UNIFORM
from converters.pipeline.sampling import largest_remainder, level, parse_balance, pick, plan, random_keys, shuffled

COUNTS = st.dictionaries(st.sampled_from(KINDS), st.integers(0, 10_000), min_size=1).filter(
    lambda counts: sum(counts.values()) > 0
)


@given(COUNTS, st.integers(0, 100_000))
def test_largest_remainder_adds_up_and_is_within_one(weights: dict[str, int], total: int) -> None:
    shares = largest_remainder(weights, total)
    assert sum(shares.values()) == total
    whole = sum(weights.values())
    for name, weight in weights.items():
        assert abs(shares[name] - Fraction(total * weight, whole)) < 1


def test_largest_remainder_by_hand() -> None:
    # quotas 4.2, 3.5, 2.3: the one left over goes to the largest fraction
    assert largest_remainder({"a": 42, "b": 35, "c": 23}, 10) == {"a": 4, "b": 4, "c": 2}
    # equal fractions: the earlier first
    assert largest_remainder({"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 1, "c": 1}


def test_largest_remainder_of_report_004() -> None:
    counts = [359_347, 40_080, 19_709, 45, 100, 6_275, 8_665, 39_227, 39_207, 6_266, 20_028]
    shares = largest_remainder(dict(zip(KINDS, counts, strict=False)), 100_000)
    assert sum(shares.values()) == 100_000
    published = [66_675, 7_436, 3_656, 8, 18, 1_164, 1_607, 7_278, 7_274, 1_162, 3_716]
    # the report rounded every share down and came to 99,994
    assert all(0 <= ours - theirs <= 1 for ours, theirs in zip(shares.values(), published, strict=True))


@given(COUNTS, st.data())
def test_plans_add_up_and_never_ask_for_more_than_there_is(available: dict[str, int], data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, sum(available.values())))
    multiple = data.draw(st.integers(1, 16))
    for balance in (PROPORTIONAL, UNIFORM):
        shares = plan(available, rows, balance, multiple)
        assert sum(shares.values()) == rows - rows % multiple
        assert all(shares[name] <= count for name, count in available.items())


@given(COUNTS, st.data())
def test_level_is_as_even_as_the_kinds_allow(available: dict[str, int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(available.values())))
    shares = level(available, total)
    assert sum(shares.values()) == total
    full = [name for name in available if shares[name] == available[name]]
    others = [shares[name] for name in available if name not in full]
    if others:
        assert max(others) - min(others) <= 1
        assert max([shares[name] for name in full], default=0) <= max(others)


@given(COUNTS, st.data())
def test_square_roots_share_out_what_the_kinds_have(available: dict[str, int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(available.values())))
    shares = level(available, total, SQUARE_ROOT)
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= count for name, count in available.items())
    open_kinds = [name for name, count in available.items() if shares[name] < count]
    for one, other in itertools.combinations(open_kinds, 2):
        wanted = math.sqrt(available[one] / available[other])
        assert abs(shares[one] - wanted * shares[other]) <= 1.01 * (1 + wanted)


def test_square_roots_bring_rare_kinds_forward() -> None:
    available = {"direct computation": 360_000, "eq solve": 40_000, "sales revenue": 6_400, "fraction simplify": 45}
    shares = plan(available, 1_000, SQUARE_ROOT, 1)
    assert shares == {"direct computation": 677, "eq solve": 225, "sales revenue": 90, "fraction simplify": 8}


def test_explicit_counts_and_the_rest_in_proportion() -> None:
    available = {"eq solve": 100, "direct computation": 600, "mean computation": 300}
    assert plan(available, None, {"eq solve": 40}, 1) == {
        "eq solve": 40,
        "direct computation": 0,
        "mean computation": 0,
    }
    assert plan(available, 100, {"eq solve": 40}, 1) == {
        "eq solve": 40,
        "direct computation": 40,
        "mean computation": 20,
    }


@pytest.mark.parametrize(
    ("rows", "balance", "multiple", "error", "message"),
    [
        (101, PROPORTIONAL, 1, UserError, "101 rows wanted, 100 there are"),
        (None, UNIFORM, 1, UsageError, "--balance uniform needs --rows"),
        (None, SQUARE_ROOT, 1, UsageError, "--balance square-root needs --rows"),
        (None, {"eq solve": 41}, 1, UserError, "eq solve: 41 rows wanted, 40 there are"),
        (None, {"eq solve": 30}, 8, UsageError, "a multiple of 8"),
        (20, {"eq solve": 30}, 1, UsageError, "names 30 rows, but the total is 20"),
    ],
)
def test_impossible_plans_say_why(
    rows: int | None, balance: str | dict[str, int], multiple: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan({"eq solve": 40, "direct computation": 60}, rows, balance, multiple)


def test_balance_is_read() -> None:
    assert parse_balance("uniform", KINDS) == UNIFORM
    assert parse_balance("square-root", KINDS) == SQUARE_ROOT
    assert parse_balance("eq solve=12000, direct computation=5", KINDS) == {"eq solve": 12000, "direct computation": 5}
    with pytest.raises(UsageError, match="did you mean 'eq solve'"):
        parse_balance("eq slove=3", KINDS)
    for text in ("even", "eq solve", "eq solve=many", "eq solve=-1", ""):
        with pytest.raises(UsageError, match="expected proportional, uniform"):
            parse_balance(text, KINDS)


@given(st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=40), st.integers(0, 100), st.data())
def test_picked_sets_are_disjoint_and_as_planned(kinds: list[int], seed: int, data: st.DataObject) -> None:
    array = np.array(kinds, dtype=np.uint8)
    counts = {name: kinds.count(number) for number, name in enumerate(KINDS)}
    first = {name: data.draw(st.integers(0, count)) for name, count in counts.items()}
    second = {name: data.draw(st.integers(0, count - first[name])) for name, count in counts.items()}
    a, b = pick(array, KINDS, random_keys(len(kinds), seed), [first, second])
    assert not set(a.tolist()) & set(b.tolist())
    for chosen, wanted in ((a, first), (b, second)):
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert {name: int((array[chosen] == number).sum()) for number, name in enumerate(KINDS)} == wanted


def test_random_choices_depend_on_the_seed_alone() -> None:
    assert random_keys(5, 1).tolist() == random_keys(5, 1).tolist() != random_keys(5, 2).tolist()
    assert shuffled(50, 1).tolist() == shuffled(50, 1).tolist() != shuffled(50, 2).tolist()
    assert sorted(shuffled(50, 1).tolist()) == list(range(50))
