"""Figures of redshifts and other numbers against values worked out by hand or by loops."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.metrics.photo_z import normalised_errors, photo_z_figures
from astromodal.metrics.scalars import by_bins, equal_count_edges, scalar_figures, signal_to_noise


def slow_photo_z(z, p):
    errors = [b - a for a, b in zip(z, p, strict=True)]
    middle = float(np.median(errors))
    scaled = [abs(e - middle) / (1 + a) for e, a in zip(errors, z, strict=True)]
    far = [abs(e) / (1 + a) > 0.15 for e, a in zip(errors, z, strict=True)]
    return 1.4826 * float(np.median(scaled)), sum(far) / len(far)


def test_photo_z_agrees_with_a_loop_and_leaves_out_what_is_missing():
    rng = np.random.default_rng(0)
    z = rng.uniform(0, 2, 301)
    p = z + rng.normal(0.01, 0.1, 301) * (1 + z)
    found = photo_z_figures(np.r_[z, np.nan, 0.5, -1.5], np.r_[p, 0.3, np.inf, 0.0])
    assert (found["sigma_nmad"], found["outlier_fraction"]) == pytest.approx(slow_photo_z(z, p))
    assert (found["n"], found["n_left_out"]) == (301, 3)
    assert found["bias_median"] == pytest.approx(np.median((p - z) / (1 + z)))
    assert found["bias_mean"] == pytest.approx(((p - z) / (1 + z)).mean())


def test_photo_z_of_a_gaussian_scatter_is_its_sigma_and_outliers_do_not_move_it():
    rng = np.random.default_rng(1)
    z = rng.uniform(0, 1, 20_000)
    p = z + (1 + z) * rng.normal(0.0, 0.02, len(z))
    p[:1000] += 2.0 * (1 + z[:1000])
    found = photo_z_figures(z, p)
    assert found["sigma_nmad"] == pytest.approx(0.02, rel=0.1)
    assert found["outlier_fraction"] == pytest.approx(0.05)
    assert found["bias_median"] == pytest.approx(0.0, abs=0.003) and found["bias_mean"] > 0.09


def test_photo_z_of_a_bias_and_of_nothing():
    z = np.linspace(0, 1, 11)
    found = photo_z_figures(z, z + 0.1 * (1 + z))
    assert found["bias_median"] == pytest.approx(0.1) and found["outlier_fraction"] == 0.0
    nothing = photo_z_figures(np.array([np.nan]), np.array([1.0]))
    assert nothing["n"] == 0 and nothing["n_left_out"] == 1 and np.isnan(nothing["sigma_nmad"])
    assert np.isnan(normalised_errors(np.array([-1.0]), np.array([0.0])))[0]


def test_scalar_figures_use_the_mean_for_squares_and_the_median_for_the_rest():
    true = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    mean, median = true + 1.0, true + np.array([0.0, 0.1, -0.1, 0.2, 0.0, np.nan])
    found = scalar_figures(true, mean, median)
    assert found["rmse"] == pytest.approx(1.0) and found["r2"] == pytest.approx(1 - 4 / 5.0)
    assert found["mae"] == pytest.approx(0.1) and found["bias"] == pytest.approx(0.05)
    assert found["scatter"] == pytest.approx(1.4826 * 0.1)  # of -0.1, 0, 0.1, 0.2 about 0.05: 0.15, 0.05, 0.05, 0.15
    assert (found["n"], found["n_left_out"]) == (4, 2)
    assert np.isnan(scalar_figures(np.array([np.nan]), np.array([0.0]))["r2"])
    with pytest.raises(DataError):
        scalar_figures(np.zeros(3), np.zeros(2))


def test_bins_hold_each_object_once():
    rng = np.random.default_rng(2)
    of = np.r_[rng.normal(18, 1, 500), np.nan]
    edges = equal_count_edges(of, 5)
    rows = by_bins(lambda a: {"n": len(a), "sum": float(a.sum())}, of, edges, np.arange(501.0))
    assert [row["n"] for row in rows] == [100] * 5
    assert sum(row["sum"] for row in rows) == np.arange(500).sum()
    assert all(row["low"] <= row["middle"] <= row["high"] for row in rows)
    assert len(equal_count_edges(np.arange(50.0), 10, min_per_bin=20)) == 3
    assert not len(equal_count_edges(np.full(9, 1.0), 3)) and not len(equal_count_edges(np.array([np.nan]), 3))


def test_signal_to_noise_of_a_flux_and_of_a_magnitude():
    flux = signal_to_noise(np.array([10.0, -10.0, 1.0, np.nan, 1.0]), np.array([2.0, 2.0, 0.0, 1.0, np.nan]))
    assert flux[:2].tolist() == [5.0, 5.0] and np.isnan(flux[2:]).all()
    bright, step = 1e4, 1.0  # a flux of 1e4 ± 1 has an error of 1.0857e-4 mag
    error = 2.5 * np.log10((bright + step) / bright)
    assert signal_to_noise(np.array([15.0]), np.array([error]), "mag")[0] == pytest.approx(bright, rel=1e-4)
