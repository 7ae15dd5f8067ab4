"""Coefficients are drawn towards their mean as far as their errors ask for, before they are coded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig, SpectrumGroupConfig, SpectrumKind, SpectrumTokenizerConfig
from astromodal.data.spectra import SpectrumBatch
from astromodal.tokenizers.spectrum.groups import PatchSample, fit_group, kept_share, true_variance

CONFIG = SpectrumTokenizerConfig(patch_size=5, quantizer=KMeansConfig(n_codes=64))
GROUP = SpectrumGroupConfig(kind=SpectrumKind.coefficients, flux="c", error="e", n_coefficients=8)
SPREAD = np.array([3.0, 1.0, 1.0, 0.5, 0.3, 0.3, 0.2, 0.1])


def fitted(batch, config):
    sample = PatchSample("xp", GROUP, config)
    sample.add(batch, np.arange(len(batch), dtype=np.uint64), 0)
    return fit_group(sample, GROUP, config, 0)[0]


@pytest.fixture(scope="module")
def coefficients():
    """True coefficients around a mean, and a batch of what is seen of them; a tenth has no known errors."""
    rng, n = np.random.default_rng(0), 3000
    true = 2.0 + SPREAD * rng.normal(size=(n, 8))
    error = np.exp(rng.normal(-1.5, 0.8, (n, 1))) * np.ones(8)
    seen = (true + error * rng.normal(size=true.shape)).astype(np.float32)
    has = np.arange(n) % 10 > 0
    precision = np.where(has[:, None], 1 / error, 1.0).astype(np.float32)
    return true, SpectrumBatch(seen, precision, np.ones(n), np.ones(n, bool), has)


def test_the_true_variance_is_found_below_the_noise():
    rng, n = np.random.default_rng(1), 20_000
    error = np.exp(rng.normal(0, 1.0, (n, 1))) * np.ones(3)
    true = np.array([1.0, 0.5, 0.0]) * rng.normal(size=(n, 3))
    position = np.zeros(n, np.int64)
    found = true_variance(true + error * rng.normal(size=(n, 3)), 1 / error, position, 3)
    assert found == pytest.approx([1.0, 0.25, 0.02], rel=0.1, abs=0.02)
    assert np.isinf(true_variance(true, np.zeros_like(true), position, 3)).all()


def test_noisy_coefficients_come_nearer_to_the_truth_and_exact_ones_stay(coefficients):
    true, batch = coefficients
    codec = fitted(batch, CONFIG)
    clean = codec.clean(batch)
    known = batch.has_ivar
    before, after = (np.abs((f - true) * batch.precision)[known] for f in (batch.flux, clean.flux))
    faint = SPREAD < 0.25  # below most errors
    assert np.sqrt((after[:, faint] ** 2).mean()) < 0.75 * np.sqrt((before[:, faint] ** 2).mean())
    assert (
        np.sqrt((after**2).mean()) < 0.9 and (clean.variance <= 1 / batch.precision.astype(float) ** 2 * 1.0001).all()
    )
    assert np.allclose(clean.flux[~known], batch.flux[~known], atol=1e-5)
    exact = dataclasses.replace(batch, precision=np.full_like(batch.precision, 1e4))
    assert np.allclose(codec.clean(exact).flux, batch.flux, rtol=1e-3, atol=1e-3)


def test_nothing_is_shrunk_where_that_is_not_wanted_or_nothing_is_known(coefficients):
    _, batch = coefficients
    for config, given in (
        (dataclasses.replace(CONFIG, denoise=0.0), batch),
        (CONFIG, dataclasses.replace(batch, has_ivar=np.zeros_like(batch.has_ivar))),
    ):
        codec = fitted(given, config)
        assert np.isinf(codec.signal).all() and np.array_equal(codec.clean(given).flux, given.flux)
    assert kept_share(np.array([2.0, 0.0, 5.0]), np.array([True, True, False]), np.ones(3)).tolist() == [
        pytest.approx(0.8),
        1.0,
        1.0,
    ]
