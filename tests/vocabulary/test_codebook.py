"""Codebooks: standardisation from usage, against samples drawn with that usage."""

import numpy as np
import pytest

from astromodal.core import Codebook, ScalarCodebook
from astromodal.errors import ArtifactError


def test_mean_and_scale_are_those_of_the_codes_as_they_were_used():
    rng = np.random.default_rng(0)
    entries, counts = rng.normal(3, 2, (7, 4)).astype(np.float32), rng.integers(0, 50, 7)
    book = Codebook(entries, counts)
    used = np.repeat(entries, counts, axis=0).astype(np.float64)
    np.testing.assert_allclose(book.mean, used.mean(0), rtol=1e-6)
    np.testing.assert_allclose(book.scale, np.sqrt(used.var(0).sum()), rtol=1e-6)


def test_predicting_the_mean_has_a_standardised_error_of_one_in_any_dimension():
    rng = np.random.default_rng(1)
    for n_dims in (1, 2, 64):
        book = Codebook(rng.normal(size=(100, n_dims)) * 17)
        errors = ((book.entries - book.mean) ** 2).sum(1) / book.scale**2
        np.testing.assert_allclose(errors.mean(), 1, rtol=1e-5)


def test_codebooks_without_counts_use_or_spread_stay_finite():
    assert Codebook(np.zeros((3, 2))).scale == 1
    unused = Codebook(np.array([[0.0], [2.0]]), np.zeros(2))
    np.testing.assert_allclose([unused.mean[0], unused.scale], [1, 1])
    assert Codebook(np.arange(3.0)).entries.shape == (3, 1)


def test_bad_codebooks_are_refused():
    with pytest.raises(ArtifactError):
        Codebook(np.array([[np.nan]]))
    with pytest.raises(ArtifactError, match="counts"):
        Codebook(np.zeros((3, 1)), np.ones(2))
    with pytest.raises(ArtifactError):
        ScalarCodebook(("a",), np.full((1, 2), np.inf), np.ones((1, 2)), [2])
    with pytest.raises(ArtifactError, match="centers"):
        ScalarCodebook(("a", "b"), np.zeros((1, 2)), np.ones((1, 2)), [2])


def test_padding_of_scalar_columns_never_counts():
    rng = np.random.default_rng(2)
    centers, counts, n_bins = np.zeros((3, 8)), np.zeros((3, 8)), np.array([8, 5, 3])
    for row, n in enumerate(n_bins):
        centers[row, :n] = rng.normal(10, 2, n)
        counts[row, :n] = rng.integers(1, 9, n) if row < 2 else 0  # the last column was never seen
    counts[1, 5:] = 100  # nonsense in the padding
    book = ScalarCodebook(("a", "b", "c"), centers, counts, n_bins)
    for row, n in enumerate(n_bins):
        repeats = counts[row, :n].astype(int) if row < 2 else np.ones(n, int)
        used = np.repeat(book.centers[row, :n].astype(np.float64), repeats)
        np.testing.assert_allclose([book.mean[row], book.scale[row]], [used.mean(), used.std()], rtol=1e-5)
