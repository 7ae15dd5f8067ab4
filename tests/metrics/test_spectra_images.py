"""Errors of spectra and cutouts in units of the noise, against loops and against noise of known size."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.errors import DataError
from astromodal.metrics.images import flux_pull, noise_units
from astromodal.metrics.spectra import PixelChi2, chi2_per_pixel


def noisy(n=40, p=300):
    rng = np.random.default_rng(0)
    truth = np.sin(np.arange(p) / 20) + rng.normal(size=(n, 1))
    ivar = rng.uniform(0.5, 20.0, (n, p))
    flux = truth + rng.normal(size=(n, p)) / np.sqrt(ivar)
    ivar[rng.random((n, p)) < 0.1] = 0.0
    flux[rng.random((n, p)) < 0.05] = np.nan
    return truth, flux, ivar


def test_chi2_agrees_with_a_loop():
    truth, flux, ivar = noisy(5, 30)
    ivar[4] = 0.0
    found, n = chi2_per_pixel(flux, truth, ivar)
    for i in range(5):
        terms = [w * (f - t) ** 2 for w, f, t in zip(ivar[i], flux[i], truth[i], strict=True) if w > 0 and f == f]
        assert n[i] == len(terms)
        assert np.isnan(found[i]) if not terms else found[i] == pytest.approx(sum(terms) / len(terms))


def test_chi2_of_the_truth_is_one_with_the_models_variance_counted():
    truth, flux, ivar = noisy()
    assert chi2_per_pixel(flux, truth, ivar)[0].mean() == pytest.approx(1.0, abs=0.03)
    model = truth + 0.5 * np.random.default_rng(1).normal(size=truth.shape)
    assert chi2_per_pixel(flux, model, ivar)[0].mean() > 2
    honest = chi2_per_pixel(flux, model, ivar, np.full(truth.shape, 0.25))[0]
    assert honest.mean() == pytest.approx(1.0, abs=0.03)
    truth[0, :10] = np.inf  # an infinite model pixel is left out, not an infinite chi2
    assert np.isfinite(chi2_per_pixel(flux, truth, ivar)[0]).all()


def test_pixels_over_batches_are_those_of_the_whole():
    truth, flux, ivar = noisy()
    sums = PixelChi2(300)
    for part in np.array_split(np.arange(40), 3):
        sums.add(flux[part], truth[part] + 0.1, ivar[part])
    ok = (ivar > 0) & np.isfinite(flux)
    terms = np.where(ok, ivar * (np.nan_to_num(flux) - truth - 0.1) ** 2, 0)
    assert sums.chi2() == pytest.approx(terms.sum(0) / ok.sum(0))
    assert sums.total() == pytest.approx(terms.sum() / ok.sum())
    assert sums.mean_pull().mean() < -0.1  # the model lies above the flux
    assert np.isnan(PixelChi2(3).total()) and np.isnan(PixelChi2(3).chi2()).all()


def test_images_in_units_of_noise():
    rng = np.random.default_rng(2)
    sigma = np.array([0.5, 2.0])
    truth = rng.normal(size=(6, 2, 16, 16))
    image = truth + sigma[:, None, None] * rng.normal(size=truth.shape)
    mask = np.zeros((6, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    image[0, 1] = np.nan
    image[1, 0, 5, 5] = np.nan
    rms, n = noise_units(image, truth, sigma, mask)
    assert n[0].tolist() == [64, 0] and n[1].tolist() == [63, 64] and np.isnan(rms[0, 1])
    assert np.nanmean(rms) == pytest.approx(1.0, abs=0.05)
    slow = np.sqrt(
        np.mean([((image[2, 1, i, j] - truth[2, 1, i, j]) / 2) ** 2 for i in range(4, 12) for j in range(4, 12)])
    )
    assert rms[2, 1] == pytest.approx(slow)
    everywhere = noise_units(image, truth, np.broadcast_to(sigma, (6, 2)))[1]
    assert everywhere[2].tolist() == [256, 256]
    with pytest.raises(DataError):
        noise_units(image[:, 0], truth[:, 0], sigma)


def test_the_flux_of_noise_averages_out_and_a_wrong_total_does_not():
    rng = np.random.default_rng(3)
    sigma = np.array([0.5])
    truth = np.ones((400, 1, 8, 8))
    image = truth + 0.5 * rng.normal(size=truth.shape)
    assert flux_pull(image, truth, sigma).std() == pytest.approx(1.0, abs=0.1)
    assert flux_pull(image, truth - 0.5, sigma).mean() == pytest.approx(8.0, abs=0.2)  # 64 pixels, one sigma each
    assert np.isnan(flux_pull(image * np.nan, truth, sigma)).all()
