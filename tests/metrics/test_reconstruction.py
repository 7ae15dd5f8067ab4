"""Errors of reconstructions, and their streaming sums against whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.metrics import ErrorSums, chi2, fraction_of_variance, mae, r2, rmse


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    true = rng.normal(5e6, 3.0, (200, 4))
    return true, true + rng.normal(0, 0.5, true.shape), rng.random(true.shape) < 0.7


def test_masked_values_weigh_nothing(arrays):
    true, predicted, mask = arrays
    spoiled = np.where(mask, predicted, np.nan)
    for metric in (rmse, mae, fraction_of_variance, r2):
        assert metric(true, spoiled, mask) == metric(true[mask], predicted[mask])


def test_predicting_the_mean_leaves_all_of_the_variance(arrays):
    true = arrays[0]
    assert fraction_of_variance(true, np.full_like(true, true.mean())) == pytest.approx(1.0)
    assert r2(true, true) == 1.0


def test_a_constant_truth_is_met_exactly_or_not_at_all():
    assert fraction_of_variance(np.ones(3), np.ones(3)) == 0.0
    assert fraction_of_variance(np.ones(3), np.zeros(3)) == float("inf")


def test_nothing_to_compare_gives_nan():
    assert all(np.isnan(f(np.ones(2), np.ones(2), np.zeros(2))) for f in (rmse, mae, fraction_of_variance, chi2))


def test_chi2_of_an_error_as_large_as_the_noise_is_one():
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.1, 10, 20_000)
    ivar = np.where(rng.random(20_000) < 0.1, 0.0, 1 / sigma**2)
    assert chi2(np.zeros(20_000), rng.normal(0, sigma), ivar) == pytest.approx(1.0, abs=0.05)


def test_sums_over_batches_equal_the_whole(arrays):
    true, predicted, mask = arrays
    sums = ErrorSums(4)
    precision = np.full(true.shape, 2.0)
    for start in range(0, 200, 33):
        rows = slice(start, start + 33)
        sums.add(true[rows], predicted[rows], mask[rows], precision[rows])
    for j in range(4):
        column = true[:, j], predicted[:, j], mask[:, j]
        assert sums.rmse()[j] == pytest.approx(rmse(*column))
        assert sums.mae()[j] == pytest.approx(mae(*column))
        assert sums.fractions_of_variance()[j] == pytest.approx(fraction_of_variance(*column))
    assert sums.total_rmse() == pytest.approx(rmse(true, predicted, mask))
    assert sums.chi2() == pytest.approx(chi2(true, predicted, 4.0 * mask))


def test_a_column_without_values_is_nan_and_does_not_spoil_the_total(arrays):
    true, predicted, mask = arrays
    mask = mask & (np.arange(4) != 2)
    sums = ErrorSums(4)
    sums.add(np.where(mask, true, np.nan), np.where(mask, predicted, np.nan), mask)
    assert np.isnan(sums.rmse()[2]) and np.isnan(sums.std()[2])
    assert sums.total_rmse() == pytest.approx(rmse(true, predicted, mask))
