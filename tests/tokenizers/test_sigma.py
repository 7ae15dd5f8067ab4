"""Errors of tokens in units of their codebook, by hand: transforms, patches, masks, what is unknown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from astromodal.config.schema import DataConfig, KMeansConfig, ScalarConfig, SpectrumTokenizerConfig, Transform
from astromodal.data.scalars import read_scalars, transform, transform_error
from astromodal.data.spectra import read_spectra
from astromodal.tokenizers import ScalarTokenizer, SpectrumTokenizer
from astromodal.tokenizers.spectrum.patches import SATURATION, pixel_weights
from astromodal.tokenizers.spectrum.sigma import MAX_SIGMA, NoiseGain, latent_sigma, patch_sigma, scalar_sigma
from tests.tokenizers.survey import make_survey, whole

NAN = float("nan")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("survey"), n_fields=1, n=200)


@pytest.mark.parametrize("kind", list(Transform))
def test_an_error_is_carried_through_the_transform_as_its_derivative_says(kind):
    config = ScalarConfig(transform=kind, softening=0.5)
    values, step = np.array([0.01, 0.3, 20.0, 4e5]), 1e-6
    slope = (transform(values * (1 + step), config) - transform(values * (1 - step), config)) / (2 * step * values)
    errors = 0.1 * values
    np.testing.assert_allclose(transform_error(values, errors, config), np.abs(slope) * errors, rtol=1e-6)


def test_a_negative_value_has_an_error_under_asinh_and_none_under_log10():
    values, errors = np.array([-3.0]), np.array([0.5])
    asinh = transform_error(values, errors, ScalarConfig(transform=Transform.asinh, softening=4.0))
    assert asinh[0] == pytest.approx(0.5 / 5.0)
    assert np.isnan(transform_error(values, errors, ScalarConfig(transform=Transform.log10))[0])


def test_scalars_by_hand():
    """log10: err / (x ln 10) / scale. Unknown and impossible errors are 0, one above max_error counts as max_error."""
    columns = {
        "teff": ScalarConfig(error="e_teff", transform=Transform.log10),
        "mag": ScalarConfig(error="e_mag", max_error=1.0),
        "z": ScalarConfig(),
    }
    data = DataConfig(name="t", root="x", scalars=columns)
    batch = read_scalars(
        pa.record_batch(
            {
                "teff": [5000.0, 4000.0, NAN, 1e-3],
                "e_teff": [100.0, 0.0, 50.0, 1e9],
                "mag": [20.0, 21.0, 22.0, 99.0],
                "e_mag": [0.1, 4.7e5, NAN, 0.1],
                "z": [0.5, 1.0, 2.0, 3.0],
            }
        ),
        data,
        columns,
    )
    found = scalar_sigma(batch, columns, np.array([0.2, 2.0, 1.0]), batch.present)
    by_hand = [[100 / (5000 * np.log(10)) / 0.2, 0, 0, MAX_SIGMA], [0.05, 0.5, 0, 0], [0, 0, 0, 0]]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.T, by_hand, rtol=1e-3)


def test_the_scalar_tokenizer_divides_by_the_scale_of_its_codebook(survey, tmp_path):
    data, cubes, splits = survey
    tokenizer = ScalarTokenizer()
    tokenizer.fit(cubes, splits, data)
    tokenizer.save(tmp_path)
    batch = read_scalars(whole(cubes[0]), data, tokenizer.configs)
    codes = tokenizer.encode(batch)
    known = codes.present[:, 0] & np.isfinite(batch.errors[:, 0])
    expected = batch.errors[known, 0] / tokenizer.codebook.scale[0]
    np.testing.assert_allclose(codes.sigma[known, 0], expected, rtol=1e-3)
    poor = batch.uncertain[:, 0] & codes.present[:, 0]
    assert poor.any() and np.allclose(codes.sigma[poor, 0], 0.5 / tokenizer.codebook.scale[0], rtol=1e-3)
    assert not codes.sigma[~codes.present].any() and not codes.sigma[:, 1:].any()
    np.testing.assert_array_equal(ScalarTokenizer.load(tmp_path).encode(batch).sigma, codes.sigma)


def test_a_patch_by_hand():
    """Patches of 3: 3 times the mean variance by weight; masked and padded pixels are as noisy as the others."""
    precision = np.array([[2.0, 1.0, 0.5, 10.0, 0.0, 5.0, 0.0, 0.0, 0.0, 4.0], [2.0] * 10], np.float32)
    found = patch_sigma(precision, np.array([True, True]), 3, scale=2.0)
    level = {p: 1 / (1 + p * p / SATURATION**2) for p in (0.5, 1, 2, 4, 5, 10)}  # weight times variance

    def variance(*pixels):
        return 3 * sum(level[p] for p in pixels) / sum(level[p] * p * p for p in pixels) / 4

    first = [variance(2, 1, 0.5), variance(10, 5), MAX_SIGMA**2, variance(4)]
    np.testing.assert_allclose(found.astype(float) ** 2, [first, [0.75 / 4] * 4], rtol=2e-3)
    unknown = patch_sigma(precision, np.array([False, False]), 3, scale=2.0)
    assert unknown.tolist() == [[0, 0, MAX_SIGMA, 0], [0] * 4]
    faint = patch_sigma(np.full((1, 3), 1e-30, np.float32), np.array([True]), 3, 1.0)
    assert faint.tolist() == [[MAX_SIGMA]]


@pytest.mark.parametrize("denoise, tolerance", [(0.0, 0.05), (1.0, 0.5)])
def test_noise_in_the_flux_moves_the_features_by_sigma(survey, denoise, tolerance):
    """The oracle: draw the noise that ivar promises, make the features, take their scatter in the codebook's scale."""
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(
        SpectrumTokenizerConfig(
            patch_size=8, quantizer=KMeansConfig(n_codes=64), patch_sizes={"xp": 10}, denoise=denoise
        )
    )
    tokenizer.fit(cubes, splits, data)
    batch = read_spectra(whole(cubes[0]), data, "blue")
    seen = np.flatnonzero(batch.present & (batch.precision > 0).all(1))[:3]
    one, rng, n = batch.only(seen), np.random.default_rng(0), 3000 if not denoise else 300
    codec, drawn = tokenizer.codecs["blue"], []
    one.flux[:] = codec.clean(one).flux  # denoised, the observed one would be drawn from as if its noise were real
    for _ in range(n):
        noise = (rng.normal(size=one.flux.shape) / one.precision).astype(np.float32)
        drawn.append(codec.features(codec.clean(dataclasses.replace(one, flux=one.flux + noise)))[0])
    scatter = np.sqrt(np.stack(drawn).var(0).sum(-1)) / codec.quantizer.codebook.scale
    sigma = tokenizer.sigma("blue", batch)
    assert sigma.shape == tokenizer.encode("blue", batch)[0].shape and (sigma[seen] > 0).all()
    # the last patch is padded with copies of one pixel, which counts once for each of them in both; denoised, what is
    # found differs from draw to draw
    ratio = scatter / sigma[seen]
    assert np.abs(np.median(ratio) - 1) < tolerance and (denoise or np.abs(ratio - 1).max() < tolerance)


def test_standardised_coefficients_have_standardised_errors(survey):
    data, cubes, splits = survey
    tokenizer = SpectrumTokenizer(SpectrumTokenizerConfig(patch_size=10, quantizer=KMeansConfig(n_codes=16)))
    tokenizer.fit(cubes, splits, data)
    batch = read_spectra(whole(cubes[0]), data, "xp")
    assert not tokenizer.sigma("xp", batch)[batch.present].any()  # no errors in this survey
    batch.has_ivar[:] = True
    codec = tokenizer.codecs["xp"]
    precision = batch.precision[batch.present].astype(float) * codec.spread
    weights = pixel_weights(precision)
    variance = 10 * (weights / precision**2).sum(1) / weights.sum(1)
    found = tokenizer.sigma("xp", batch)[batch.present, 0]
    np.testing.assert_allclose(found, np.minimum(np.sqrt(variance) / codec.scales[0], MAX_SIGMA), rtol=2e-3)


def test_errors_of_latents_by_hand():
    gain = NoiseGain(3)
    gain.add(np.zeros(1000, int), np.full(1000, 8.0), np.full(1000, 2.0))  # gain 4
    gain.add(np.ones(1000, int), np.full(1000, 0.5), np.full(1000, 0.5))  # gain 1
    gain.add(np.full(2, 2), np.array([9.0, NAN]), np.array([np.inf, 1.0]))  # nothing is known of it
    found = gain.per_code()
    np.testing.assert_allclose(found, [4.0, 1.0, 2.5], rtol=0.02)
    sigma = latent_sigma(found, np.array([[0, 1], [0, 1], [2, 2]]), np.array([[4.0], [NAN], [np.inf]]), scale=2.0)
    np.testing.assert_allclose(sigma, [[2.0, 1.0], [0.0, 0.0], [MAX_SIGMA, MAX_SIGMA]], rtol=0.02)
    assert sigma.dtype == np.float16 and not latent_sigma(None, np.array([[0]]), np.array([[1.0]]), 1.0).any()
    assert not NoiseGain(2).per_code().any()
