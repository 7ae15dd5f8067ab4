"""Tests of calibration: a calibrated toy passes; biased, overconfident and underconfident ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from astromodal.errors import DataError
from astromodal.metrics import calibration


def toy(bias: float = 0.0, std: float = 1.0, n: int = 3000) -> np.ndarray:
    """PIT values of predictions N(bias, std) of a standard normal truth."""
    return ndtr((np.random.default_rng(0).normal(size=n) - bias) / std)


def test_the_calibrated_toy_passes():
    found = calibration.uniformity(toy())
    assert found["ks"] < 0.03 and found["ks_p"] > 1e-3 and found["chi2_p"] > 1e-3  # see the next test
    assert calibration.coverage(toy()) == pytest.approx([0.68, 0.95], abs=0.03)
    assert calibration.coverage_error(toy()) < 0.02


def test_p_values_of_calibrated_toys_are_themselves_uniform():
    rng = np.random.default_rng(1)
    found = [calibration.uniformity(rng.random(300)) for _ in range(200)]
    for name in ("ks_p", "chi2_p"):
        assert np.mean([f[name] < 0.05 for f in found]) == pytest.approx(0.05, abs=0.05)


@pytest.mark.parametrize(("bias", "std", "wider"), [(0.5, 1.0, None), (0.0, 0.5, False), (0.0, 2.0, True)])
def test_wrong_toys_are_detected(bias, std, wider):
    pit = toy(bias, std)
    found = calibration.uniformity(pit)
    assert found["ks_p"] < 1e-6 and found["chi2_p"] < 1e-6
    assert calibration.coverage_error(pit) > 0.03
    expected = ndtr(bias + std * 0.99446) - ndtr(bias - std * 0.99446)  # of the central 68 %
    assert calibration.coverage(pit)[0] == pytest.approx(expected, abs=0.03)
    if wider is not None:
        assert (calibration.coverage(pit)[0] > 0.68) == wider


def test_histogram_and_missing_values():
    pit = np.array([0.0, 0.24, 0.26, 1.0, np.nan])
    assert calibration.pit_histogram(pit, 4).tolist() == [2, 1, 0, 1]
    found = calibration.uniformity(pit)
    assert (found["n"], found["n_left_out"]) == (4, 1)
    nothing = calibration.uniformity(np.array([np.nan]))
    assert nothing["n"] == 0 and np.isnan(nothing["ks"]) and np.isnan(calibration.coverage(np.array([]))).all()
    with pytest.raises(DataError):
        calibration.pit_histogram(np.array([1.2]))


def test_intervals_and_pulls():
    low, high = np.array([0.0, 0.0, np.nan, 1.0]), np.array([1.0, 2.0, 1.0, 5.0])
    assert calibration.sharpness(low, high) == 2.0
    rng = np.random.default_rng(2)
    mean = rng.normal(size=5000)
    found = calibration.pull_figures(mean + rng.normal(0.2, 3.0, 5000), mean, np.full(5000, 1.5))
    assert found["pull_mean"] == pytest.approx(0.2 / 1.5, abs=0.1) and found["pull_std"] == pytest.approx(2.0, abs=0.1)
