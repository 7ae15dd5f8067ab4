"""Numbers from posteriors, against slow computations."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.ask.posterior import ColumnBins
from astromodal.data.scalars import inverse_transform, transform
from astromodal.files.io import load_npz

from . import hand_built as hand

QUANTILES = [0.025, 0.16, 0.5, 0.84, 0.975]


@pytest.fixture(scope="module")
def bins() -> ColumnBins:
    return ColumnBins(hand.scalar_tokenizer())


def posteriors(n_bins: int, n: int = 40) -> np.ndarray:
    """Wide, narrow and holed ones; beyond the column's bins nothing."""
    rng = np.random.default_rng(n_bins)
    p = rng.dirichlet(np.full(n_bins, 0.4), n)
    p[0], p[1] = np.eye(n_bins)[n_bins // 2], 1 / n_bins
    p[2] = np.eye(n_bins)[0] / 2 + np.eye(n_bins)[-1] / 2
    return np.concatenate([p, np.zeros((n, 8 - n_bins))], 1).astype(np.float32)


@pytest.mark.parametrize("column", range(4))
def test_quantiles_are_those_of_many_draws_within_the_bins(bins, column):
    """Draw a bin, then evenly within it, in the transformed space; compare order statistics."""
    n, config = bins.n_bins[column], bins.configs[column]
    p, rng = posteriors(n), np.random.default_rng(0)
    found = bins.summary(p, column, QUANTILES)
    for row in (1, 3, 7, 20):
        chosen = rng.choice(n, 400_000, p=p[row, :n] / p[row, :n].astype(np.float64).sum())
        edges = bins.edges[column]
        drawn = edges[chosen] + rng.random(len(chosen)) * (edges[chosen + 1] - edges[chosen])
        expected = np.quantile(drawn, QUANTILES)
        # the same probability: where the density vanishes, a quantile is any number in between
        cdf = np.searchsorted(np.sort(drawn), transform(found["quantiles"][row], config)) / len(drawn)
        np.testing.assert_allclose(cdf, QUANTILES, atol=0.004)
        np.testing.assert_allclose(found["median"][row], inverse_transform(expected[2], config), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("column", range(4))
def test_quantiles_equal_interpolation_by_numpy(bins, column):
    n, config = bins.n_bins[column], bins.configs[column]
    p = np.random.default_rng(1).dirichlet(np.ones(n), 30)  # no empty bin: the polygon has one inverse
    below = np.concatenate([np.zeros((30, 1)), np.cumsum(p, 1)], 1)
    found = bins.summary(p, column, QUANTILES)["quantiles"]
    for row in range(30):
        expected = inverse_transform(np.interp(QUANTILES, below[row], bins.edges[column, : n + 1]), config)
        np.testing.assert_allclose(found[row], expected, rtol=1e-9)
    fine = bins.summary(p, column, np.linspace(0.001, 0.999, 200).tolist())["quantiles"]
    assert (np.diff(fine, axis=1) >= 0).all()
    low, high = inverse_transform(bins.edges[column, [0, n]], config)
    assert fine.min() >= low and fine.max() <= high


@pytest.mark.parametrize("column", range(4))
def test_mean_and_spread_follow_the_law_of_total_variance(bins, column):
    n = bins.n_bins[column]
    p = posteriors(n)
    found = bins.summary(p, column, [0.5])
    centers = inverse_transform(
        hand.scalar_tokenizer().binners[column].centers_.astype(np.float64), bins.configs[column]
    )
    for row in range(len(p)):
        mean = sum(float(p[row, k]) * centers[k] for k in range(n))
        variance = sum(float(p[row, k]) * ((centers[k] - mean) ** 2 + bins.spread[column, k] ** 2) for k in range(n))
        assert found["mean"][row] == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert found["std"][row] == pytest.approx(np.sqrt(variance), rel=1e-5)
    middle = n // 2
    assert found["mean"][0] == pytest.approx(centers[middle], rel=1e-5)
    assert found["std"][0] == pytest.approx(bins.spread[column, middle], rel=1e-5) and found["std"][0] > 0


@pytest.mark.parametrize("column", range(4))
def test_pit_is_uniform_when_truth_is_drawn_from_the_posterior(bins, column):
    n, config = bins.n_bins[column], bins.configs[column]
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(n), 4000)
    chosen = (rng.random(4000)[:, None] > np.cumsum(p, 1)).sum(1).clip(max=n - 1)
    edges = bins.edges[column]
    truth = inverse_transform(edges[chosen] + rng.random(4000) * (edges[chosen + 1] - edges[chosen]), config)
    truth[0], truth[1] = np.nan, inverse_transform(edges[n] + 1.0, config)
    pit = bins.summary(p, column, [0.5], truth)["pit"]
    assert np.isnan(pit[0]) and pit[1] == 1.0
    counts, _ = np.histogram(pit[2:], bins=10, range=(0, 1))
    assert ((counts - 399.8) ** 2 / 399.8).sum() < 21.7  # chi2 of 9 degrees of freedom: 1 % lies above


def test_pit_inverts_the_quantiles(bins):
    p = np.random.default_rng(3).dirichlet(np.ones(8), 50)
    for q in QUANTILES:
        value = bins.summary(p, 1, [q])["quantiles"][:, 0]
        np.testing.assert_allclose(bins.summary(p, 1, [q], value)["pit"], q, atol=1e-9)


def test_the_bins_are_written_in_physical_units(bins, tmp_path):
    bins.save(tmp_path / "bins.npz", ["t", "r"])
    arrays = load_npz(tmp_path / "bins.npz")
    assert arrays["columns"].tolist() == ["t", "r"]
    np.testing.assert_allclose(np.log10(arrays["edges_t"]), arrays["transformed_edges_t"])
    assert len(arrays["edges_t"]) == len(arrays["centers_t"]) + 1 == 5


@pytest.mark.parametrize("column", range(4))
def test_the_crps_is_the_integral_of_its_definition(bins, column):
    """By brute force: the squared difference of distribution and step, on a fine grid, in the physical unit."""
    n, config = bins.n_bins[column], bins.configs[column]
    p = posteriors(n, 6)
    edges = inverse_transform(bins.edges[column, : n + 1], config)
    truth = np.linspace(edges[0], edges[-1], 6) + np.array([0, 0, 0.1, 0, 0, 0.3]) * np.ptp(edges)
    found = bins.summary(p, column, [0.5], truth)["crps"]
    grid = np.linspace(edges[0], max(edges[-1], truth.max()), 200_001)
    for row, y in enumerate(truth):
        below = np.r_[0, np.cumsum(p[row, :n].astype(np.float64))]
        cdf = np.interp(grid, edges, below / below[-1])
        expected = ((cdf - (grid >= y)) ** 2).sum() * (grid[1] - grid[0])
        assert found[row] == pytest.approx(expected, rel=2e-3, abs=1e-4 * np.ptp(edges))
    assert np.isnan(bins.summary(p, column, [0.5])["crps"]).all()
