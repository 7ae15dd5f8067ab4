"""Quantile bins against np.quantile and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.quantizers import QuantileBinner
from astromodal.quantizers.quantile import exact_quantiles


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


def test_heavy_ties_give_fewer_bins_and_no_empty_one():
    values = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)]).astype(np.float32)
    binner = QuantileBinner(20, 1).fit(values)
    assert binner.n_codes < 20 and (binner.counts_ > 0).all() and binner.counts_[0] == 900
    assert (np.diff(binner.edges_[1:]) > 0).all()


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
