"""Scores of distributions: against closed forms, sums over samples, and slow integrals on a grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from astromodal.errors import DataError
from astromodal.metrics import posterior

LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


def random_bins(rng: np.random.Generator, n: int, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    edges = np.sort(rng.normal(size=bins + 1))
    p = rng.dirichlet(np.full(bins, 0.4), n)
    return edges, p, rng.normal(0, 1.5, n)


def slow_cdf(knots, cdf, x):
    if x < knots[0]:
        return 0.0
    return 1.0 if x > knots[-1] else float(np.interp(x, knots, cdf))


def slow_crps(knots, cdf, y):
    """The integral by the midpoint rule, with a step at the observation."""
    low, high = min(knots[0], y) - 0.01, max(knots[-1], y) + 0.01
    x = np.linspace(low, high, 200_001)
    x = (x[1:] + x[:-1]) / 2
    f = np.where(x < knots[0], 0.0, np.where(x > knots[-1], 1.0, np.interp(x, knots, cdf)))
    return float(((f - (x >= y)) ** 2).mean() * (high - low))


def gaussian_bins(mean, std, edges):
    return np.diff(ndtr((edges - np.asarray(mean)[:, None]) / np.asarray(std)[:, None]), axis=1)


def test_crps_and_cdf_agree_with_slow_integrals():
    edges, p, y = random_bins(np.random.default_rng(0), 12, 7)
    cdf = posterior.cdf_of_bins(p)
    slow = [slow_crps(edges, row, value) for row, value in zip(cdf, y, strict=True)]
    assert posterior.crps(edges, cdf, y) == pytest.approx(slow, abs=2e-4)
    slow = [slow_cdf(edges, row, value) for row, value in zip(cdf, y, strict=True)]
    assert posterior.cdf_at(edges, cdf, y) == pytest.approx(slow)
    assert (y < edges[0]).any() and (y > edges[-1]).any()  # both sides outside of the bins were there


def test_crps_agrees_with_the_sum_over_pieces_to_rounding():
    """Bins cut at the observation, each piece integrated for itself."""
    rng = np.random.default_rng(9)
    edges, p, y = random_bins(rng, 60, 40)
    y[:3] = edges[0], edges[-1], edges[17]  # on edges
    edges[5] = edges[6]  # a bin without width
    cdf = posterior.cdf_of_bins(p)
    expected = []
    for f, value in zip(cdf, y, strict=True):
        total = abs(value - np.clip(value, edges[0], edges[-1]))
        for k in range(40):
            cuts = [edges[k], np.clip(value, edges[k], edges[k + 1]), edges[k + 1]]
            for left, right, step in ((cuts[0], cuts[1], 0.0), (cuts[1], cuts[2], 1.0)):
                if right > left:
                    a, b = np.interp([left, right], edges[k : k + 2], f[k : k + 2]) - step
                    total += (right - left) * (a * a + a * b + b * b) / 3
        expected.append(total)
    assert posterior.crps(edges, cdf, y) == pytest.approx(expected, rel=1e-9)
    shifted = posterior.crps(edges * 1e3 + 1e7, cdf, y * 1e3 + 1e7)  # far from 0
    assert shifted == pytest.approx(1e3 * np.array(expected), rel=1e-4)


def test_crps_of_fine_bins_is_that_of_the_gaussian():
    rng = np.random.default_rng(1)
    mean, std, y = rng.normal(size=50), rng.uniform(0.3, 2.0, 50), rng.normal(0, 2, 50)
    edges = np.linspace(-15, 15, 4001)
    found = posterior.crps(edges, posterior.cdf_of_bins(gaussian_bins(mean, std, edges)), y)
    assert found == pytest.approx(posterior.crps_of_gaussian(mean, std, y), abs=1e-5)


def test_crps_of_the_gaussian_is_that_of_samples():
    """E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007, eq. 20)."""
    rng = np.random.default_rng(2)
    x, other = rng.normal(1.0, 0.7, (2, 400_000))
    for y in (-1.0, 0.9, 3.0):
        sampled = np.abs(x - y).mean() - 0.5 * np.abs(x - other).mean()
        assert posterior.crps_of_gaussian(1.0, 0.7, np.array(y)) == pytest.approx(sampled, abs=4e-3)


def test_crps_of_many_quantiles_is_that_of_the_gaussian():
    rng = np.random.default_rng(3)
    mean, std, y = rng.normal(size=40), rng.uniform(0.3, 2.0, 40), rng.normal(0, 2, 40)
    levels = (np.arange(2000) + 0.5) / 2000
    quantiles = mean[:, None] + std[:, None] * ndtri(levels)
    found = posterior.crps_of_quantiles(quantiles, levels, y)
    assert found == pytest.approx(posterior.crps_of_gaussian(mean, std, y), abs=2e-3)


def test_crps_of_few_quantiles_agrees_with_the_slow_integral_and_crossed_ones_are_sorted():
    quantiles = np.array([[0.0, 1.0, 2.0, 2.5, 6.0], [0.0, 2.0, 1.0, 2.5, 6.0]])
    for y in (-2.0, 0.3, 2.5, 9.0):
        found = posterior.crps_of_quantiles(quantiles, LEVELS, np.full(2, y))
        assert found[0] == pytest.approx(slow_crps(quantiles[0], np.array(LEVELS), y), abs=2e-4)
        assert found[1] == found[0]


def test_a_certain_and_right_prediction_scores_zero_and_a_wrong_one_its_distance():
    edges = np.array([0.0, 1.0, 1.0 + 1e-9, 3.0])
    cdf = posterior.cdf_of_bins(np.array([[0, 1.0, 0]] * 2))
    assert posterior.crps(edges, cdf, np.array([1.0, 2.5])) == pytest.approx([0.0, 1.5], abs=1e-8)


def test_the_true_distribution_has_the_least_crps():
    y = np.random.default_rng(4).normal(0, 1, 4000)
    edges = np.linspace(-8, 8, 400)

    def score(mean, std):
        p = gaussian_bins(np.full(len(y), mean), np.full(len(y), std), edges)
        return posterior.crps(edges, posterior.cdf_of_bins(p), y).mean()

    best = score(0.0, 1.0)
    assert best < min(score(0.3, 1.0), score(0.0, 0.5), score(0.0, 2.0))


def test_pit_of_a_calibrated_toy_is_uniform_and_of_an_overconfident_one_is_not():
    rng = np.random.default_rng(5)
    mean, y = rng.normal(0, 3, 4000), None
    y = mean + rng.normal(size=4000)
    edges = np.linspace(-25, 25, 2001)
    right = posterior.cdf_at(edges, posterior.cdf_of_bins(gaussian_bins(mean, np.ones(4000), edges)), y)
    narrow = posterior.cdf_at(edges, posterior.cdf_of_bins(gaussian_bins(mean, np.full(4000, 0.5), edges)), y)
    assert np.abs(np.sort(right) - np.arange(4000) / 4000).max() < 0.03
    assert np.histogram(narrow, 10, (0, 1))[0][[0, 9]].min() > 800  # piled up at both ends


def test_pit_of_calibrated_quantiles_is_uniform_also_in_the_tails():
    y = np.random.default_rng(6).normal(size=20_000)
    quantiles = np.broadcast_to(ndtri(np.array(LEVELS)), (len(y), 5))
    pit = posterior.pit_of_quantiles(quantiles, LEVELS, y)
    inside = (y[:, None] <= ndtri(np.array(LEVELS))).mean(0)
    assert (pit[:, None] <= np.array(LEVELS)).mean(0) == pytest.approx(inside)  # exact at the levels
    assert np.histogram(pit, 40, (0, 1))[0][[0, 39]] == pytest.approx(500, abs=80)  # not one heap at 0 and 1
    assert (pit == posterior.pit_of_quantiles(quantiles, LEVELS, y)).all()


def test_quantiles_and_moments_of_bins():
    edges, p, _ = random_bins(np.random.default_rng(7), 6, 9)
    cdf = posterior.cdf_of_bins(p)
    quantiles = posterior.quantiles_of_cdf(edges, cdf, LEVELS)
    for j, level in enumerate(LEVELS):
        assert posterior.cdf_at(edges, cdf, quantiles[:, j]) == pytest.approx(np.full(6, level))
    mean, std = posterior.moments_of_bins(edges, p)
    u = np.random.default_rng(8).random((6, 200_000))
    samples = np.stack([np.interp(u[i], cdf[i], edges) for i in range(6)])
    assert mean == pytest.approx(samples.mean(1), abs=0.01)
    assert std == pytest.approx(samples.std(1), abs=0.01)


def test_log_score_is_the_density_of_the_bin():
    edges, p = np.array([0.0, 1.0, 5.0]), np.array([[0.2, 0.8]] * 4)
    found = posterior.log_score(edges, p, np.array([0.5, 3.0, 6.0, np.nan]))
    assert found[:3] == pytest.approx([-np.log(0.2), -np.log(0.2), np.inf])
    assert np.isnan(found[3])


def test_what_is_missing_stays_missing():
    edges = np.array([0.0, 1.0, 2.0])
    p = np.array([[0.5, 0.5], [np.nan, 1.0], [0.0, 0.0], [-1.0, 2.0], [2.0, 2.0]])
    cdf = posterior.cdf_of_bins(p)
    y = np.array([1.5, 1.5, 1.5, 1.5, np.nan])
    for found in (posterior.cdf_at(edges, cdf, y), posterior.crps(edges, cdf, y)):
        assert np.isfinite(found).tolist() == [True, False, False, False, False]
    assert posterior.cdf_at(edges, cdf, np.full(5, 0.5))[4] == 0.25  # rows are normalised
    assert np.isnan(posterior.quantiles_of_cdf(edges, cdf, [0.5])[1:4]).all()


def test_wrong_shapes_and_falling_knots_are_refused():
    with pytest.raises(DataError):
        posterior.crps(np.array([0.0, 1.0]), np.ones((3, 3)), np.zeros(3))
    with pytest.raises(DataError):
        posterior.cdf_at(np.array([1.0, 0.0]), np.ones((1, 2)), np.zeros(1))
    with pytest.raises(DataError):
        posterior.crps_of_quantiles(np.zeros((2, 2)), [0.5, 0.4], np.zeros(2))
    with pytest.raises(DataError):
        posterior.pit_of_quantiles(np.zeros((2, 2)), [0.0, 1.0], np.zeros(2))


def test_a_running_sum_that_is_rounded_up_stays_a_probability():
    p = np.random.default_rng(0).dirichlet(np.full(400, 0.05), 500)
    p[:, -40:] = 0.0  # the sum is there before the last bin
    assert (np.cumsum(p / p.sum(1, keepdims=True), axis=1) > 1).any()
    assert posterior.cdf_of_bins(p).max() == 1.0
