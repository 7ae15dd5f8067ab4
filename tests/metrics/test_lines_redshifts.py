"""Lines are measured without bias and as well as noise allows; cross-correlation finds the shift that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.metrics.lines import fit_lines
from astromodal.metrics.redshifts import cross_correlate, high_pass
from astromodal.metrics.spectra import errors_by_snr, signal_to_noise

WAVE = 4000 + 0.8 * np.arange(600)


def lines(n: int, flux: float, noise: float, moved: float = 0.0, seed: int = 0):
    """Lines at their places on a slope, with noise; flux, ivar, centre and sigma."""
    rng = np.random.default_rng(seed)
    centre, sigma = rng.uniform(4050, 4400, n), rng.uniform(2.0, 5.0, n)
    x = (WAVE - centre[:, None] - moved) / sigma[:, None]
    shape = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) / sigma[:, None]
    spectra = 3 + 0.002 * (WAVE - 4000) + flux * shape + noise * rng.normal(size=(n, len(WAVE)))
    return spectra, np.full(spectra.shape, (noise or 1.0) ** -2), centre, sigma


def test_flux_and_place_are_found_and_their_errors_are_the_scatter():
    spectra, ivar, centre, sigma = lines(3000, 20.0, 0.5)
    ivar[:, ::17] = 0
    spectra[:, ::17] = np.nan
    found = fit_lines(WAVE, spectra, ivar, centre, sigma)
    pull = (found.flux - 20) / found.flux_error
    assert np.isfinite(pull).all() and abs(pull.mean()) < 0.06 and abs(pull.std() - 1) < 0.05
    place = found.shift / found.shift_error
    assert abs(place.mean()) < 0.1 and abs(place.std() - 1) < 0.1
    moved = fit_lines(WAVE, *lines(50, 20.0, 0.0, moved=0.2))
    np.testing.assert_allclose(moved.shift, 0.2, atol=0.01)


@pytest.mark.parametrize("centre, hidden", [(3990.0, 0), (4479.0, 0), (4200.0, 60)])
def test_a_line_that_is_not_all_there_is_not_measured(centre, hidden):
    spectra, ivar = np.ones((1, 600)), np.ones((1, 600))
    ivar[:, 250 : 250 + hidden] = 0
    assert np.isnan(fit_lines(WAVE, spectra, ivar, np.array([centre]), np.array([3.0])).flux).all()


def test_shifts_are_found_whatever_the_continuum_does():
    rng, n, n_pixels, n_shifts = np.random.default_rng(0), 60, 800, 300
    x = np.arange(n_pixels + n_shifts)
    template = sum(a * np.exp(-0.5 * ((x - c) / 3) ** 2) for a, c in ((3, 420), (1, 500), (-1.5, 610), (2, 700)))
    shift = rng.integers(0, n_shifts + 1, n)
    truth = np.stack([template[n_shifts - s : n_shifts - s + n_pixels] for s in shift])
    continuum = 5 + 3 * np.sin(np.arange(n_pixels) / 150 + rng.uniform(0, 6, (n, 1)))
    ivar = rng.uniform(2, 20, (n, n_pixels))
    ivar[rng.random(ivar.shape) < 0.1] = 0
    noise = np.divide(rng.normal(size=ivar.shape), np.sqrt(ivar), out=np.full(ivar.shape, 1e3), where=ivar > 0)
    found, gain, lead = cross_correlate(truth + continuum + noise, ivar, np.stack([template, -template]), 40.0)
    assert np.abs(found - shift).max() < 0.6 and (gain > 30).all()
    assert (lead > 10).all() and (lead < gain).all()
    noise_alone = np.stack([template, -template]), 40.0
    assert np.median(cross_correlate(noise, ivar, *noise_alone)[2]) < 10
    lone, _, _ = cross_correlate((truth + continuum + noise)[:1], ivar[:1], np.stack([template, -template]), 40.0)
    assert lone[0] == pytest.approx(found[0], abs=1e-6)


def test_the_high_pass_takes_off_what_is_smooth_and_nothing_masked():
    flux, ivar = np.full((2, 500), 7.0), np.ones((2, 500))
    flux[:, 250] += 5
    flux[0, 100], ivar[0, 100] = 1e6, 0
    high = high_pass(flux, ivar, 30.0)
    assert np.abs(np.delete(high, 250, axis=1)).max() < 0.1 and high[0, 250] == pytest.approx(5, abs=0.1)
    assert high[0, 100] == 0


def test_errors_are_sorted_by_signal_to_noise():
    rng = np.random.default_rng(0)
    flux = np.array([0.3, 3.0, 9.0, 50.0])[:, None] + rng.normal(size=(4, 2000))
    ivar = np.ones(flux.shape)
    ivar[:, ::3] = 0
    flux[:, ::3] = np.nan
    np.testing.assert_allclose(signal_to_noise(flux, ivar), [0.3, 3, 9, 50], atol=0.2)
    rows = errors_by_snr(signal_to_noise(flux, ivar), np.arange(1.0, 5), np.array([10, 10, 10, 70]), np.full(4, 0.25))
    assert [row["chi2_median"] for row in rows] == [1, 2, 3, 4, 2.5] and rows[-1]["chi2_pooled"] == pytest.approx(3.4)
    assert all(row["error_over_noise"] == pytest.approx(0.5) for row in rows)
    assert signal_to_noise(np.zeros((1, 3)), np.zeros((1, 3))).tolist() == [0]
