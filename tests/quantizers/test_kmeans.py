"""k-means: quality against scikit-learn, dead codes, counts over all rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from astromodal.config.schema import KMeansConfig
from astromodal.quantizers import KMeans
from astromodal.quantizers import kmeans as module
from astromodal.quantizers.kmeans import distinct_rows, seed_centroids


def mixture(n, n_dims, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(60, n_dims))
    return (centers[rng.integers(60, size=n)] + 0.25 * rng.normal(size=(n, n_dims))).astype(np.float32)


@pytest.mark.parametrize("n_dims", [2, 16])
def test_the_inertia_is_no_worse_than_that_of_minibatch_kmeans(n_dims):
    X = mixture(20_000, n_dims)
    ours = KMeans(KMeansConfig(n_codes=128), 0).fit(X)
    theirs = MiniBatchKMeans(128, random_state=0, n_init=1, batch_size=1024).fit(X)
    inertia = float(((X - theirs.cluster_centers_[theirs.predict(X)]) ** 2).sum())
    assert ours.inertia_ <= 1.01 * inertia
    assert ours.inertia_ == pytest.approx(((X - ours.decode(ours.encode(X))) ** 2).sum(), rel=1e-3)


@pytest.mark.parametrize("n_dims", [2, 16])
def test_all_rows_take_part_when_iterations_use_a_subsample(n_dims, monkeypatch):
    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", 500)
    X = mixture(6000, n_dims)
    quantizer = KMeans(KMeansConfig(n_codes=16), 0).fit(X)
    assert quantizer.counts_.sum() == 6000


@pytest.mark.parametrize("n_dims", [2, 8])
def test_codes_that_lose_all_rows_are_revived_where_the_error_is_largest(n_dims):
    X = np.concatenate([np.random.default_rng(0).normal(size=(500, n_dims)), np.full((20, n_dims), 50.0)])
    X = X.astype(np.float32)
    centroids = np.concatenate([np.zeros((1, n_dims)), np.full((3, n_dims), -900.0)]).astype(np.float32)
    codes, errors = module.NearestEntry(centroids).query(X)
    updated, mass, n_dead = KMeans._update(X, np.ones(len(X), np.float32), codes, errors, centroids)
    assert n_dead == 3 and mass.tolist() == [520, 0, 0, 0]
    assert (updated[1] == 50).all() and np.abs(updated).max() <= 50
    assert len(np.unique(updated, axis=0)) == 4  # the twenty equal outliers revive one code only


def test_seeds_are_rows_and_distinct():
    X = mixture(500, 4)
    seeds = seed_centroids(X, 50, np.random.default_rng(0), np.ones(500, np.float32), 3)
    assert len(np.unique(seeds, axis=0)) == 50
    assert all((seed == X).all(1).any() for seed in seeds)


def test_rows_without_weight_never_become_a_code():
    X = np.concatenate([mixture(500, 2), np.full((50, 2), 1e4, np.float32)])
    weights = np.concatenate([np.ones(500), np.zeros(50)])
    assert KMeans(KMeansConfig(n_codes=20)).fit(X, weights).centroids_.max() < 100


def test_distinct_rows_are_counted_by_value():
    X = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]] * 40, dtype=np.float32)
    assert len(distinct_rows(X, 5)) == 2
    assert distinct_rows(mixture(100, 2), 5) is None


def test_an_offset_does_not_spoil_the_codebook():
    X = mixture(5000, 16)
    near, far = (KMeans(KMeansConfig(n_codes=64)).fit(X + np.float32(offset)) for offset in (0, 1000))
    assert far.inertia_ == pytest.approx(near.inertia_, rel=0.03)
