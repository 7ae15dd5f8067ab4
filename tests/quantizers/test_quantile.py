"""Quantile bins against np.quantile and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.quantizers import QuantileBinner
from astromodal.quantizers.quantile import LOOKUP_ROWS, exact_quantiles


@pytest.fixture
def values():
    return np.random.default_rng(0).lognormal(size=100_003).astype(np.float32)


def test_quantiles_are_those_of_numpy(values):
    expected = np.quantile(values, np.arange(1, 1024) / 1024, method="inverted_cdf")
    assert np.array_equal(exact_quantiles(np.sort(values), 1024), expected)


def test_weighted_quantiles_of_equal_weights_are_the_plain_ones(values):
    plain = QuantileBinner(256).fit(values)
    weighted = QuantileBinner(256).fit(values, np.full(len(values), 2.0))
    assert np.array_equal(plain.edges_, weighted.edges_)
    assert np.allclose(weighted.counts_, plain.counts_) and np.allclose(weighted.centers_, plain.centers_)


def test_centre_spread_and_count_are_those_of_the_values_in_the_bin(values):
    binner = QuantileBinner(64).fit(values)
    codes = binner.encode(values)
    for k in range(64):
        inside = values[codes == k].astype(np.float64)
        assert binner.centers_[k] == pytest.approx(inside.mean(), rel=1e-5)
        assert binner.spread_[k] == pytest.approx(inside.std(), rel=1e-3, abs=1e-6)
        assert binner.counts_[k] == len(inside)
    assert binner.counts_.max() - binner.counts_.min() <= 1


def test_a_heavy_value_takes_one_bin_and_leaves_none_empty():
    values = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)]).astype(np.float32)
    binner = QuantileBinner(20, 1).fit(values)
    assert binner.n_codes == 20 and (binner.counts_ > 0).all() and binner.counts_[0] == 900
    assert (np.diff(binner.edges_[1:]) > 0).all() and binner.counts_[1:].max() <= 6


HEAVY = {
    "low end": [-9.0],
    "high end": [9.0],
    "both ends": [-9.0, 9.0],
    "middle": [0.1],
    "several": [-9.0, -0.2, 0.1, 0.3, 9.0],
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("where", HEAVY)
def test_heavy_values_stand_alone_and_the_rest_keeps_its_bins(where, weighted):
    rng, heavy = np.random.default_rng(0), np.array(HEAVY[where])
    rest = rng.normal(size=3000)
    values = rng.permutation(np.concatenate([rest, np.repeat(heavy, 97_000 // len(heavy))]))
    weights = np.full(len(values), 0.5) if weighted else None
    binner = QuantileBinner(256, 8).fit(values, weights)
    codes = binner.encode(heavy)
    assert (binner.centers_[codes] == heavy).all() and (binner.spread_[codes] == 0).all()
    others = np.delete(binner.counts_, codes)
    assert binner.n_codes <= 256 and len(others) >= 256 - 2 * len(heavy) and others.sum() == 3000
    assert others.max() <= 2 * 3000 / len(others)
    error = binner.decode(binner.encode(rest))[:, 0] - rest
    assert np.sqrt(np.mean(error**2)) < 0.15 * rest.std(), "with 8 bins it would be a third"
    assert QuantileBinner(256, 8).fit(-values, weights).n_codes == binner.n_codes, "the same from either side"


def test_more_heavy_values_than_bins_for_each_still_keep_the_limit():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=500), np.repeat(rng.normal(size=30), 100)])
    binner = QuantileBinner(16, 1).fit(values)
    assert 8 <= binner.n_codes <= 16 and (binner.counts_ > 0).all() and binner.counts_.sum() == len(values)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("n", [2000, 300_000])
def test_bins_do_not_depend_on_the_unit_and_doubles_stay_apart(n, factor):
    days = 2459000.5 + np.random.default_rng(0).uniform(0, 1, n)  # float32 has steps of 0.25
    plain, scaled = QuantileBinner(256).fit(days), QuantileBinner(256).fit(days * factor)
    assert plain.n_codes == min(256, n // 8)
    assert np.array_equal(scaled.encode(days * factor), plain.encode(days))
    assert np.array_equal(plain.encode(days), np.searchsorted(plain.edges_[1:-1], days, side="left"))
    np.testing.assert_allclose(scaled.centers_, plain.centers_ * factor, rtol=1e-14)
    np.testing.assert_allclose(scaled.spread_, plain.spread_ * factor, rtol=1e-3)
    assert np.abs(plain.decode(plain.encode(days))[:, 0] - days).max() < 3 / plain.n_codes


def test_there_are_at_most_an_eighth_as_many_bins_as_values():
    values = np.random.default_rng(0).normal(size=100)
    assert QuantileBinner(1024).fit(values).n_codes == 12
    assert QuantileBinner(1024).fit(values[:3]).n_codes == 1


def test_the_smallest_and_the_largest_training_value_are_not_clipped(values):
    binner = QuantileBinner(100).fit(values)
    ends = np.array([values.min(), values.max()], dtype=np.float32)
    assert binner.encode(ends).tolist() == [0, 99] and not binner.clipped(ends).any()
    beyond = np.array([np.nextafter(ends[0], -np.inf), np.nextafter(ends[1], np.inf)])
    assert binner.encode(beyond).tolist() == [0, 99] and binner.clipped(beyond).all()


@pytest.mark.parametrize("kind", ["lognormal", "normal", "heavy", "integers", "two"])
def test_the_lookup_table_gives_exactly_what_the_search_gives(kind):
    rng = np.random.default_rng(1)
    draw = {
        "lognormal": lambda n: rng.lognormal(3, 2, n),
        "normal": lambda n: rng.normal(18, 2, n),
        "heavy": lambda n: rng.standard_cauchy(n) * 1e6,
        "integers": lambda n: rng.integers(-500, 500, n),
        "two": lambda n: rng.integers(0, 2, n),
    }[kind]
    binner = QuantileBinner(1024).fit(draw(50_000).astype(np.float32))
    values = np.concatenate([draw(60_000), binner.edges_, [-3e38, 3e38, -0.0, 0.0]]).astype(np.float32)
    values = np.concatenate([values, np.nextafter(values, np.float32(0))])
    assert np.array_equal(binner.encode(values), np.searchsorted(binner.edges_[1:-1], values, side="left"))
    double = QuantileBinner(1024).fit(draw(50_000) * 1e-60)
    values = np.concatenate([draw(60_000) * 1e-60, double.edges_, [-1e300, 1e300, -0.0, 0.0]])
    values = np.concatenate([values, np.nextafter(values, 0.0)])
    assert np.array_equal(double.encode(values), np.searchsorted(double.edges_[1:-1], values, side="left"))


@pytest.mark.parametrize("unit", [1e-300, 1e290])
def test_many_values_are_encoded_where_edges_span_too_little_or_too_much_for_a_table(unit):
    values = np.arange(8.0) * unit
    binner = QuantileBinner(n_bins=8, min_values_per_bin=1).fit(values)
    many = np.tile(values, LOOKUP_ROWS // 8 + 1)
    assert np.array_equal(binner.encode(many), np.tile(np.arange(8), LOOKUP_ROWS // 8 + 1))
