"""What a weighted sum of low-rank updates must be, whatever the ranks, layers, scalings and weights."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_files import LAYERS, SHAPES, write_adapter

from backends.merge.adapters import all_modules, open_adapter
from backends.merge.combine import summed, truncate, write_sum

NAMES = [module.split(".")[1] for module in SHAPES]
weights = st.floats(-3, 3, allow_nan=False, width=32)
adapters = st.fixed_dictionaries(
    {
        "rank": st.integers(1, 6),
        "alpha": st.sampled_from([1, 2, 4, 8, 0.5, 3]),
        "targets": st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        "seed": st.integers(0, 99),
        "use_rslora": st.booleans(),
        "alpha_pattern": st.sampled_from([{}, {"q_proj": 6}, {"layers.1.self_attn.q_proj": 5}]),
    }
)


def expected(chosen, directory):
    """ΔW of every layer in float64, by the formula and from the numbers that were put in, and the size of its terms.

    Updates may cancel: rounding in float32 is relative to Σ |wᵢ·sᵢ|·|Bᵢ|·|Aᵢ|, not to what is left of the sum.
    """
    total, terms = {}, {}
    for index, (spec, weight) in enumerate(chosen):
        adapter = open_adapter(directory / f"in-{index}")
        for layer in range(LAYERS):
            for module in SHAPES:
                name = module.split(".")[1]
                if name not in spec["targets"]:
                    continue
                alpha = spec["alpha"]
                if name == "q_proj" and spec["alpha_pattern"]:
                    alpha = {"q_proj": 6}.get(next(iter(spec["alpha_pattern"])), 5 if layer == 1 else alpha)
                scaling = alpha / (math.sqrt(spec["rank"]) if spec["use_rslora"] else spec["rank"])
                path = f"model.layers.{layer}.{module}"
                a = adapter.tensors.read(adapter.modules[path].a).astype(np.float64)
                b = adapter.tensors.read(adapter.modules[path].b).astype(np.float64)
                total[path] = total.get(path, 0) + weight * scaling * (b @ a)
                terms[path] = terms.get(path, 0) + abs(weight * scaling) * (np.abs(b) @ np.abs(a))
    return total, terms


def product(adapter):
    """ΔW of every layer of an adapter, in float64."""
    parts = {module: adapter.update(module) for module in adapter.modules}
    return {module: b.astype(np.float64) @ a.astype(np.float64) for module, (a, b) in parts.items()}


def mixed(chosen, directory, rank=None):
    """Write and reopen the weighted sum of ``[(spec, weight), ...]``."""
    opened = []
    for index, (spec, weight) in enumerate(chosen):
        folder = directory / f"in-{index}"
        if not folder.exists():
            write_adapter(folder, **spec)
        opened.append(open_adapter(folder, weight))
    out = Path(tempfile.mkdtemp(dir=directory))
    result = write_sum(opened, out, rank, None)
    return open_adapter(out), result


def close(left, right, terms):
    """Compare updates to some float32 roundings of the terms that were added, and to where float32 ends."""
    assert left.keys() == right.keys()
    tiny = float(np.finfo(np.float32).tiny)  # factors below it have fewer digits
    for module in right:
        np.testing.assert_allclose(left[module], right[module], rtol=0, atol=1e-6 * terms[module].max() + tiny)


@given(st.lists(st.tuples(adapters, weights), min_size=1, max_size=3))
def test_the_sum_is_the_sum(chosen):
    with tempfile.TemporaryDirectory() as name:
        found, result = mixed(chosen, Path(name))
        close(product(found), *expected(chosen, Path(name)))
        assert {factors.scaling for factors in found.modules.values()} == {1.0}
        assert {module: factors.rank for module, factors in found.modules.items()} == result.ranks


@given(st.lists(st.tuples(adapters, weights), min_size=2, max_size=3))
@settings(max_examples=20)
def test_order_does_not_matter(chosen):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        forward = product(mixed(chosen, Path(one))[0])
        close(forward, product(mixed(chosen[::-1], Path(other))[0]), expected(chosen, Path(one))[1])


@given(adapters, st.floats(0.0625, 0.9375))
@settings(max_examples=20)
def test_parts_of_one_adapter_add_up_to_it(spec, share):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_adapter(directory / "in-0", **spec)
        whole = product(open_adapter(directory / "in-0"))
        close(product(mixed([(spec, 1.0)], directory)[0]), whole, expected([(spec, 1.0)], directory)[1])
        for first, second in ((0.5, 0.5), (share, 1 - share), (1.5, -0.5)):
            folder = Path(tempfile.mkdtemp(dir=directory))
            chosen = [(spec, first), (spec, second)]
            close(product(mixed(chosen, folder)[0]), whole, expected(chosen, folder)[1])
        folder, chosen = Path(tempfile.mkdtemp(dir=directory)), [(spec, 1.0), (spec, -1.0)]
        nothing = product(mixed(chosen, folder)[0])
        close(
            nothing, {module: np.zeros_like(values) for module, values in nothing.items()}, expected(chosen, folder)[1]
        )


def test_one_times_an_adapter_with_a_scaling_of_a_power_of_two_is_it_to_the_bit(tmp_path):
    spec = {"rank": 4, "alpha": 8}
    found, _ = mixed([(spec, 1.0)], tmp_path)
    before = open_adapter(tmp_path / "in-0")
    for module in before.modules:
        for left, right in zip(found.update(module), before.update(module), strict=True):
            np.testing.assert_array_equal(left, right)


@given(adapters, adapters, st.integers(1, 8))
def test_truncation_is_the_best_of_its_rank_and_its_error_is_true(first, second, rank):
    with tempfile.TemporaryDirectory() as name:
        chosen = [(first, 0.75), (second, -0.5)]
        cut, result = mixed(chosen, Path(name), rank)
        (exact, terms), short = expected(chosen, Path(name)), product(cut)
        lost = norm = noise = 0.0
        for module, update in exact.items():
            values = np.linalg.svd(update, compute_uv=False)
            size = np.linalg.norm(update)
            best = np.linalg.norm(values[rank:])
            found = np.linalg.norm(update - short[module])
            rounding = 1e-5 * np.linalg.norm(terms[module])
            assert found <= best + rounding
            assert result.errors[module] * size == pytest.approx(found, abs=rounding)
            assert cut.modules[module].rank <= rank
            lost, norm, noise = lost + found**2, norm + size**2, noise + rounding**2
        assert result.error * math.sqrt(norm) == pytest.approx(math.sqrt(lost), abs=math.sqrt(noise))


def test_truncation_never_makes_a_rank_that_the_layer_cannot_have():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(30, 5)).astype(np.float32), random.normal(size=(7, 30)).astype(np.float32)
    cut = truncate(a, b, 20)
    assert cut.a.shape == (5, 5)
    np.testing.assert_allclose(cut.b @ cut.a, b @ a, atol=1e-4)
    assert cut.error < 1e-12
    nothing = truncate(np.zeros((4, 5), np.float32), b[:, :4], 2)
    assert nothing.error == 0.0


def test_adding_the_factors_is_not_the_sum(tmp_path):
    """The mistake that the concatenation avoids: with √w on both factors an adapter averaged with itself doubles."""
    a, b = open_adapter(write_adapter(tmp_path / "a")).update("model.layers.0.self_attn.q_proj")
    root = math.sqrt(0.5)
    np.testing.assert_allclose((root * b + root * b) @ (root * a + root * a), 2 * (b @ a), rtol=1e-5, atol=1e-9)
    halves = [open_adapter(tmp_path / "a", 0.5), open_adapter(tmp_path / "a", 0.5)]
    ours_a, ours_b = summed(halves, "model.layers.0.self_attn.q_proj")
    np.testing.assert_allclose(ours_b @ ours_a, b @ a, rtol=1e-4, atol=1e-8)
    assert all_modules(halves) == list(halves[0].modules)
