"""Spectra cut into patches: full coverage, masks without influence."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.tokenizers.spectrum.patches import cut, join, n_patches, patch_features


@pytest.mark.parametrize("patch_size", [1, 7, 8, 32, 100])
def test_cutting_and_joining_keeps_every_pixel(patch_size):
    values = np.random.default_rng(0).normal(size=(4, 75)).astype(np.float32)
    patches = cut(values, patch_size, 0.0)
    assert patches.shape == (4, n_patches(75, patch_size), patch_size)
    assert np.array_equal(join(patches, 75), values)


def test_padding_has_precision_zero_and_no_flux_of_its_own():
    flux, precision = np.full((1, 10), 3.0, np.float32), np.full((1, 10), 2.0, np.float32)
    features = patch_features(flux, precision, 8)
    assert features.shape == (1, 2, 16)
    assert (features[0, 1, :8] == 3).all() and features[0, 1, 8:].tolist() == [2, 2, 0, 0, 0, 0, 0, 0]


def test_what_stands_in_a_masked_pixel_does_not_matter():
    rng = np.random.default_rng(0)
    flux, precision = rng.normal(size=(5, 40)), rng.uniform(1, 2, (5, 40))
    precision[:, ::6] = 0
    other = np.where(precision > 0, flux, np.resize([1e9, -1e9, np.nan, np.inf], flux.shape))
    assert np.array_equal(patch_features(flux, precision, 8), patch_features(other, precision, 8))
