"""A pixel counts in a spectrum's tokens by its precision, and a masked one not at all: in the code, and in the fit."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig, SpectrumGroupConfig, SpectrumKind, SpectrumTokenizerConfig
from astromodal.data.spectra import SpectrumBatch
from astromodal.tokenizers.spectrum.groups import GroupCodec, PatchSample, fit_group
from astromodal.tokenizers.spectrum.patches import pixel_weights

P, N_FIT, N_TEST = 64, 1500, 400
NOISE = 0.01  # of the scale: a signal-to-noise of 100


def make(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (n, P) of one shape at any phase, and their precision."""
    rng = np.random.default_rng(seed)
    flux = 1 + 0.1 * np.sin(np.arange(P) / 5 + rng.uniform(0, 6.3, (n, 1))) + NOISE * rng.normal(size=(n, P))
    return flux.astype(np.float32), np.full(flux.shape, 1 / NOISE, np.float32)


def hidden(flux: np.ndarray, precision: np.ndarray, share: float, seed: int = 7, wild: float = 0.0) -> SpectrumBatch:
    """A batch with a share of the pixels masked, and what ``wild`` times noise puts there."""
    rng = np.random.default_rng(seed)
    masked = rng.random(flux.shape) < share
    n, yes = len(flux), np.ones(len(flux), bool)
    shown = np.where(masked, np.float32(wild) * rng.normal(size=flux.shape), flux).astype(np.float32)
    return SpectrumBatch(shown, np.where(masked, np.float32(0), precision), np.ones(n), yes, yes)


def fitted(batch: SpectrumBatch, n_codes: int = 64, kind=SpectrumKind.spectrum, **settings) -> GroupCodec:
    settings = {"quantizer": KMeansConfig(n_codes=n_codes), "patch_size": 32, "denoise": 0.0} | settings
    config = SpectrumTokenizerConfig(**settings)
    group_config = SpectrumGroupConfig(flux="f", kind=kind)
    drawn = PatchSample("b", group_config, config)
    drawn.add(batch, np.arange(len(batch.present)), 0)
    return fit_group(drawn, group_config, config, seed=0)[0]


def codes(codec: GroupCodec, batch: SpectrumBatch) -> np.ndarray:
    X, weights = codec.features(codec.clean(batch))
    flat = (-1, X.shape[2])
    return codec.quantizer.encode(X.reshape(flat), weights.reshape(flat)).reshape(len(batch), -1)


def decoded(codec: GroupCodec, batch: SpectrumBatch) -> np.ndarray:
    found = codec.quantizer.decode(codes(codec, batch).ravel())
    return codec.flux(found.reshape(len(batch), codec.length, -1))


def chi2(codec: GroupCodec, batch: SpectrumBatch) -> float:
    """Per good pixel."""
    good = batch.precision > 0
    return float(np.mean(((decoded(codec, batch) - batch.flux) * batch.precision)[good] ** 2))


@pytest.fixture(scope="module")
def clean():
    return fitted(hidden(*make(N_FIT, 0), 0.0))


@pytest.mark.parametrize("share, most", [(0.02, 1.05), (0.1, 1.1)])
def test_masked_pixels_cost_the_good_ones_next_to_nothing(clean, share, most):
    test, fit = make(N_TEST, 1), make(N_FIT, 0)
    whole = chi2(clean, hidden(*test, 0.0))
    assert 1.0 < whole < 1.3
    assert chi2(clean, hidden(*test, share)) < most * whole  # in the code
    assert chi2(fitted(hidden(*fit, share)), hidden(*test, share)) < most * whole  # and in the fit


def test_the_share_of_masked_pixels_in_the_fit_hardly_changes_how_clean_spectra_are_coded(clean):
    """No more than other spectra in the fit do."""
    test, fit = hidden(*make(N_TEST, 1), 0.0), make(N_FIT, 0)
    whole, other = chi2(clean, test), chi2(fitted(hidden(*make(N_FIT, 5), 0.0)), test)
    found = [chi2(fitted(hidden(*fit, share)), test) for share in (0.02, 0.1, 0.3)]
    assert max(found) < whole + max(3 * abs(other - whole), 0.1 * whole)


def test_what_stands_in_a_masked_pixel_changes_nothing(clean):
    test, fit = make(N_TEST, 1), make(N_FIT, 0)
    assert np.array_equal(codes(clean, hidden(*test, 0.1)), codes(clean, hidden(*test, 0.1, wild=1e6)))
    one, two = (fitted(hidden(*fit, 0.1, wild=wild)) for wild in (0.0, 1e6))
    assert np.array_equal(one.quantizer.codebook.entries, two.quantizer.codebook.entries)


def test_codes_are_chosen_by_the_weights_of_the_valid_pixels(clean):
    """The obvious loop, with precisions over three decades and a tenth masked."""
    flux, _ = make(50, 3)
    rng = np.random.default_rng(4)
    batch = hidden(flux, (10 ** rng.uniform(-1, 2, flux.shape)).astype(np.float32), 0.1)
    entries, found = clean.quantizer.codebook.entries.astype(np.float64), codes(clean, batch)
    for i in range(len(batch)):
        for k in range(2):
            patch = slice(32 * k, 32 * k + 32)
            p = batch.precision[i, patch].astype(np.float64)
            w = p**2 / (1 + (p / 100) ** 2)
            distances = [(w * (batch.flux[i, patch] - entry) ** 2).sum() for entry in entries]
            assert distances[found[i, k]] == pytest.approx(min(distances), rel=1e-5)


def test_weights_are_inverse_variances_that_level_off():
    p = np.array([0, 1e-30, 1, 10, 100, 1e4, 1e30], np.float32)
    np.testing.assert_allclose(pixel_weights(p), [0, 0, 1 / 1.0001, 100 / 1.01, 5e3, 1e4 / 1.0001, 1e4], rtol=1e-5)
    np.testing.assert_allclose(pixel_weights(p, 10), [0, 0, 1 / 1.01, 50, 100 / 1.01, 100, 100], rtol=1e-5)


def test_a_patch_without_a_valid_pixel_is_coded_by_its_neighbours_and_not_learned_from(clean):
    flux, precision = make(N_TEST, 1)
    precision[:, 32:] = 0
    batch = hidden(flux, precision, 0.0, wild=0.0)
    found = decoded(clean, batch)[:, 32:]
    assert np.abs(found - flux[:, 31:32]).mean() < 0.1  # the last valid value, as far as an entry can be flat
    half = fitted(batch)
    assert half.quantizer.codebook.counts.sum() == N_TEST


def test_spectra_without_ivar_count_as_if_of_the_usual_precision():
    flux, precision = make(N_FIT, 0)
    batch = hidden(flux, precision / 10, 0.1)
    batch.has_ivar = np.arange(N_FIT) % 2 == 0
    codec = fitted(batch)
    assert codec.neutral == pytest.approx(10)
    _, weights = codec.features(codec.clean(batch))
    assert np.unique(weights.round(1)).tolist() == [0, 99]


@pytest.mark.parametrize("precision_weight", [0.0, 0.25])
def test_coefficients_that_are_missing_or_poorly_known_weigh_little(precision_weight):
    """Ten coefficients of two populations; the last two are pure noise of known error, a few are masked."""
    rng = np.random.default_rng(0)
    flux = np.where(rng.random((N_FIT, 1)) < 0.5, 1.0, -1.0) * np.array([1, -1, 0.5, 0.5, -0.5, 1, 0.3, 0.2, 0, 0])
    error = np.array([0.01] * 8 + [3.0] * 2)
    flux = (flux + rng.normal(size=flux.shape) * error).astype(np.float32)
    batch = hidden(flux, np.broadcast_to(1 / error, flux.shape).astype(np.float32), 0.05, wild=50.0)
    settings = {"patch_size": 10, "precision_weight": precision_weight}
    codec = fitted(batch, 2, SpectrumKind.coefficients, **settings)
    found = codes(codec, batch)[:, 0]
    truth = flux[:, 0] > 0
    assert (found == found[truth][0]).astype(bool).tolist() == truth.tolist()
    good = batch.precision[:, :8] > 0
    assert np.abs(decoded(codec, batch) - flux)[:, :8][good].max() < 0.1
