"""Noise goes, what is significant stays, and what is left of the noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.data.spectra import SpectrumBatch
from astromodal.tokenizers.spectrum.denoise import denoise, threshold
from astromodal.tokenizers.spectrum.groups import cleaned

N, P = 40, 1500
X = np.arange(P)


def observed(truth: np.ndarray, precision: np.ndarray | float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy spectra (N, P) of one truth, with a sky line and a tenth masked, and their precision."""
    rng = np.random.default_rng(seed)
    precision = precision * (1 - 0.8 * np.exp(-0.5 * ((X - 300) / 4) ** 2)) * np.ones((N, 1))
    flux = truth + rng.normal(size=(N, P)) / precision
    masked = rng.random((N, P)) < 0.1
    flux[masked] = rng.normal(size=masked.sum()) * 1e3
    return flux.astype(np.float32), np.where(masked, 0, precision).astype(np.float32)


def line(strength: float, precision: float, width: float = 4.0) -> np.ndarray:
    """A line at pixel 900, ``strength`` times the least error of its flux."""
    shape = np.exp(-0.5 * ((X - 900) / width) ** 2)
    return strength / precision / np.sqrt((shape**2).sum()) * shape


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_noise_goes_and_what_is_left_of_it_is_known(level):
    truth = level * (1 + 0.3 * np.sin(X / 200))
    flux, precision = observed(truth, 3.0)
    found, variance = denoise(flux, precision, 1.0)
    good = precision > 0
    off = ((found - truth) * precision)[good]
    assert np.sqrt(np.mean(off**2)) < 0.35  # of the noise; as observed: 1
    left = np.square(found - truth) / variance
    assert 0.5 < np.median(left[good]) / 0.455 < 2.5  # median of chi^2 of one degree of freedom


@pytest.mark.parametrize("strength, least", [(6, 0.85), (12, 0.93), (50, 0.97)])
def test_a_line_keeps_its_flux(strength, least):
    truth = 1 + line(strength, 3.0)
    flux, precision = observed(truth, 3.0)
    found, _ = denoise(flux, precision, 1.0)
    window = slice(900 - 20, 900 + 21)
    kept = (found[:, window] - 1).sum(1) / (truth[window] - 1).sum()
    assert least < np.mean(kept) < 1.08


@pytest.mark.parametrize("strength, least", [(6, 0.97), (30, 0.99)])
def test_a_line_is_not_made_lower_and_wider(strength, least):
    """By its own shape; means alone leave .95 and .98."""
    shape = line(strength, 3.0)
    found, _ = denoise(*observed(1 + shape, 3.0), 1.0)
    assert least < np.mean((found - 1) @ shape) / (shape @ shape) < 1.02


def test_bright_spectra_stay_as_they_are():
    truth = 1 + 0.2 * np.sin(X / 12) + line(300, 100.0, 1.5)
    flux, precision = observed(truth, 100.0)
    found, _ = denoise(flux, precision, 1.0)
    off = ((found - truth) * precision)[precision > 0]
    assert np.sqrt(np.mean(off**2)) < 1.1  # no worse than observed


def test_masked_pixels_count_for_nothing_and_what_is_unknown_is_said_so():
    flux, precision = observed(1 + line(20, 3.0), 3.0)
    wild = np.where(precision > 0, flux, np.float32(-1e30))
    np.testing.assert_array_equal(denoise(flux, precision, 1.0)[0], denoise(wild, precision, 1.0)[0])
    found, variance = denoise(flux[:2], np.zeros_like(precision[:2]), 1.0)
    assert not found.any() and np.isinf(variance).all()
    assert np.isfinite(denoise(flux, precision, 1.0)[1][precision > 0]).all()


def test_a_pixel_that_claims_to_know_everything_does_not_blot_out_the_others():
    truth = 1 + line(30, 3.0)
    flux, precision = observed(truth, 3.0)
    precision[:, 700] = 1e9
    flux[:, 700] = truth[700]
    off = ((denoise(flux, precision, 1.0)[0] - truth) * precision)[:, np.arange(P) != 700]
    assert np.sqrt(np.mean(off**2)) < 0.5


def test_neither_company_nor_unit_matters():
    flux, precision = observed(1 + line(8, 3.0), 3.0)
    whole = denoise(flux, precision, 1.0)
    for row in (0, 17, N - 1):
        alone = denoise(flux[[row]], precision[[row]], 1.0)
        np.testing.assert_allclose(alone[0][0], whole[0][row], rtol=1e-5)
    unit = np.float32(2.0**-40)
    np.testing.assert_allclose(denoise(flux * unit, precision / unit, 1.0)[0], whole[0] * unit, rtol=1e-5)


def test_narrow_features_need_more_significance_and_the_rate_is_what_it_says():
    assert threshold(1, 3000, 1.0) > threshold(4, 3000, 1.0) > threshold(64, 3000, 1.0) >= 1.5
    assert threshold(4, 3000, 0.1) > threshold(4, 3000, 1.0)
    flux, precision = observed(np.zeros(P), 1.0)
    rough = [np.mean((denoise(flux, precision, rate)[0] * precision)[precision > 0] ** 2) for rate in (0.1, 1, 10)]
    assert rough[0] < rough[1] < rough[2] and rough[0] < 0.04


def test_spectra_of_unknown_noise_are_coded_as_they_are():
    flux, precision = observed(np.ones(P), 3.0)
    known = np.arange(N) % 2 == 0
    batch = SpectrumBatch(flux, precision, np.ones(N), np.ones(N, bool), known)
    clean, valid = cleaned(batch, 1.0), precision > 0
    assert np.array_equal(clean.flux[~known], flux[~known])
    assert (clean.flux[known] != flux[known])[valid[known]].mean() > 0.9
    assert np.array_equal(cleaned(batch, 0.0).flux, flux)
    raw = cleaned(batch, 0.0).variance[valid]
    np.testing.assert_allclose(raw, 1 / precision[valid].astype(float) ** 2, rtol=1e-6)
