"""Order statistics, moments and cells without a full sort, against NumPy's sort and quantiles."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.quantizers import QuantileBinner, order
from astromodal.quantizers.cells import N_CELLS, CellMap, best_map
from astromodal.quantizers.order import Ranked
from astromodal.quantizers.quantile import quantile_ranks

KINDS = {
    "normal": lambda rng, n: rng.normal(18, 2, n),
    "around zero": lambda rng, n: rng.normal(0, 1e-3, n),
    "lognormal": lambda rng, n: rng.lognormal(0, 3, n),
    "cauchy": lambda rng, n: rng.standard_cauchy(n) * 1e6,
    "ties": lambda rng, n: np.round(rng.normal(0, 30, n)),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
    "two": lambda rng, n: rng.integers(0, 2, n),
    "wild": lambda rng, n: np.where(np.arange(n) % 1000 == 3, -3e15, rng.normal(5, 1, n)),
    "signed zeros": lambda rng, n: rng.choice([-0.0, 0.0, 1.0, -1.0, 2.0], n),
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def values(request, monkeypatch):
    monkeypatch.setattr(order, "MIN_ROWS", 1000)
    return KINDS[request.param](np.random.default_rng(0), 40_003).astype(np.float32)


@pytest.mark.parametrize("n_bins", [7, 256, 1024])
def test_quantiles_are_exactly_those_of_numpy(values, n_bins):
    expected = np.quantile(values, np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    assert np.array_equal(Ranked(values).at(quantile_ranks(len(values), n_bins)), expected)


def test_bins_are_the_same_as_those_of_sorted_values(values, monkeypatch):
    fast = QuantileBinner(256).fit(values)
    monkeypatch.setattr(order, "MIN_ROWS", 1 << 30)
    slow = QuantileBinner(256).fit(values)
    assert np.array_equal(fast.edges_, slow.edges_) and np.array_equal(fast.counts_, slow.counts_)
    codes = np.searchsorted(fast.edges_[1:-1], values, side="left")
    for k in range(fast.n_codes):
        inside = values[codes == k].astype(np.float64)
        assert fast.counts_[k] == len(inside)
        assert fast.centers_[k] == pytest.approx(inside.mean(), rel=1e-6, abs=1e-6 * np.abs(inside).max())
        assert fast.spread_[k] == pytest.approx(inside.std(), rel=1e-4, abs=1e-6 * np.abs(inside).max())


def test_the_bin_of_a_value_is_exactly_the_search(values):
    binner = QuantileBinner(1024).fit(values)
    asked = np.concatenate(
        [values, binner.edges_, np.nextafter(values, np.float32(0)), -values, [0.0, -0.0, 3e38, -3e38]]
    )
    asked = asked.astype(np.float32)
    assert np.array_equal(binner.encode(asked), np.searchsorted(binner.edges_[1:-1], asked, side="left"))


def test_the_fast_way_is_taken_and_sorts_little():
    values = np.random.default_rng(0).normal(size=1 << 19).astype(np.float32)
    ranked = Ranked(values)
    ranked.at(quantile_ranks(len(values), 1024))
    assert ranked.by_cells and len(ranked._opened) < 0.1 * len(values)
    assert np.array_equal(ranked._opened, np.sort(ranked._opened))


@pytest.mark.parametrize("linear", [True, False])
def test_cells_never_fall_where_values_rise(linear):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=5000), rng.standard_cauchy(5000) * 1e20, [0.0, -0.0, 3e38, -3e38, 1e-45]])
    values = np.sort(values.astype(np.float32))
    cells = CellMap(np.float32(-2.5), np.float32(3.25), linear)(values)
    assert cells.dtype == np.uint16 and (np.diff(cells.astype(int)) >= 0).all()
    assert len(np.unique(cells)) > 2000 and cells[0] == 0
    zeros = CellMap(np.float32(-2.5), np.float32(3.25), linear)(np.array([0.0, -0.0], np.float32))
    assert zeros[0] == zeros[1]


def test_the_map_that_separates_the_cuts_is_chosen():
    even, wide = np.linspace(-3, 3, 1000).astype(np.float32), np.geomspace(1e-6, 1e6, 1000).astype(np.float32)
    assert best_map(even).linear and not best_map(wide).linear
    assert all(len(np.unique(best_map(cuts)(cuts))) == 1000 for cuts in (even, wide))
    assert best_map(np.full(5, 2.0, np.float32)) is None
    assert not best_map(np.array([-3e38, 3e38], np.float32)).linear and N_CELLS == 1 << 16


def test_infinities_are_refused():
    values = np.random.default_rng(0).normal(size=1 << 19).astype(np.float32)
    values[5] = np.inf
    with pytest.raises(DataError, match="NaN or infinity in 1 of 524288 rows"):
        QuantileBinner(1024).fit(values)
