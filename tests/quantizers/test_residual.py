"""Residual k-means against the obvious loop over rows and stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astromodal.config.schema import KMeansConfig, ResidualKMeansConfig
from astromodal.errors import ArtifactError, ConfigError
from astromodal.quantizers import KMeans, ResidualKMeans


def mixture(n, n_dims, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(60, n_dims))
    return (centers[rng.integers(60, size=n)] + 0.25 * rng.normal(size=(n, n_dims))).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_dims", [2, 8])
def test_encoding_is_the_greedy_search_stage_by_stage(n_dims, weighted):
    X = mixture(3000, n_dims)
    weights = np.random.default_rng(1).integers(0, 4, X.shape).astype(np.float32) if weighted else None
    quantizer = ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=20)).fit(X, weights)
    codes, each = quantizer.encode(X, weights), np.ones_like(X) if weights is None else weights
    for row, w, found in zip(X[:200], each[:200], codes[:200], strict=True):
        residual = row.astype(np.float64)
        for stage, book in enumerate(quantizer.codebooks):
            distances = [(w * (residual - entry) ** 2).sum() for entry in book.entries.astype(np.float64)]
            # the residual that the quantizer sees is rounded to float32: near ties may go either way
            if w.any():
                assert distances[found[stage]] == pytest.approx(min(distances), rel=1e-5, abs=1e-9)
            residual = residual - book.entries[found[stage]]
    errors = each * (X - quantizer.decode(codes)) ** 2
    assert quantizer.distortion_[-1] == pytest.approx(errors.sum() / each.sum() * n_dims, rel=1e-4)
    assert (np.diff(quantizer.distortion_) < 0).all()


def test_every_stage_lowers_the_distortion_and_the_first_is_plain_kmeans():
    X = mixture(4000, 4)
    quantizer = ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=24), seed=2).fit(X)
    plain = KMeans(KMeansConfig(n_codes=24), seed=2).fit(X)
    assert np.array_equal(quantizer.codebooks[0].entries, plain.codebook.entries)
    assert quantizer.distortion_[0] == pytest.approx(plain.inertia_ / len(X), rel=1e-5)
    assert (np.diff(quantizer.distortion_) < 0).all()
    codes = quantizer.encode(X)
    for stage in range(3):
        kept = sum(quantizer.codebooks[s].entries[codes[:, s]] for s in range(stage + 1))
        assert quantizer.distortion_[stage] == pytest.approx(((X - kept) ** 2).sum(1).mean(), rel=1e-4)


def test_three_stages_beat_one_codebook_with_as_many_entries():
    X = np.random.default_rng(0).normal(size=(8000, 4)).astype(np.float32)
    staged = ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=16)).fit(X)
    single = KMeans(KMeansConfig(n_codes=48)).fit(X)
    assert staged.distortion_[-1] < 0.5 * single.inertia_ / len(X)


def test_distortion_is_weighted_as_the_fit_is():
    X = mixture(2000, 2)
    weights = np.random.default_rng(1).uniform(0.1, 5, len(X))
    quantizer = ResidualKMeans(ResidualKMeansConfig(n_stages=2, n_codes=8)).fit(X, weights)
    errors = ((X - quantizer.decode(quantizer.encode(X))) ** 2).sum(1)
    assert quantizer.distortion_[-1] == pytest.approx((weights * errors).sum() / weights.sum(), rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_best_of_several_first_codes_is_taken(weighted):
    X = mixture(1500, 6)
    weights = np.random.default_rng(1).integers(0, 4, X.shape).astype(np.float32) if weighted else None
    config = ResidualKMeansConfig(n_stages=2, n_codes=12)
    greedy = ResidualKMeans(config).fit(X, weights)
    tried = ResidualKMeans(dataclasses.replace(config, n_tried=12)).fit(X, weights)  # all
    first, second = (book.entries.astype(np.float64) for book in tried.codebooks)
    w = np.ones(X.shape) if weights is None else np.where(weights.any(1, keepdims=True), weights, 1)
    pairs = np.einsum("nabd,nd->nab", np.square(X[:, None, None] - first[:, None] - second), w).reshape(len(X), -1)
    codes = tried.encode(X, weights)
    assert np.allclose(pairs[np.arange(len(X)), codes[:, 0] * 12 + codes[:, 1]], pairs.min(1), rtol=1e-5, atol=1e-6)
    assert tried.distortion_[-1] < greedy.distortion_[-1]
    counts = [np.bincount(column, minlength=12) for column in codes.T]
    assert np.array_equal(np.stack([book.counts for book in tried.codebooks]), counts)


def test_stages_beyond_what_the_data_hold_are_a_single_zero():
    X = mixture(5, 3)[np.arange(500) % 5]
    quantizer = ResidualKMeans(ResidualKMeansConfig(n_stages=3, n_codes=16)).fit(X)
    assert quantizer.sizes == (5, 1, 1) and not quantizer.codebooks[2].entries.any()
    assert quantizer.distortion_.tolist() == [0, 0, 0]


def test_impossible_settings_and_states_are_refused():
    with pytest.raises(ConfigError, match="n_stages of 1 or more, got 0"):
        ResidualKMeans(ResidualKMeansConfig(n_stages=0))
    state = ResidualKMeans(ResidualKMeansConfig(n_stages=2, n_codes=4)).fit(mixture(100, 2)).state()
    with pytest.raises(ArtifactError, match="stages of one dimension"):
        ResidualKMeans.from_state(state | {"centroids_1": np.zeros((4, 3)), "counts_1": np.ones(4)})
