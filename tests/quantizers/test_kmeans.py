"""k-means: quality against scikit-learn, dead codes, counts over all rows."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from astromodal.config.schema import KMeansConfig
from astromodal.errors import DataError
from astromodal.quantizers import KMeans
from astromodal.quantizers import kmeans as module
from astromodal.quantizers.kmeans import distinct_rows
from astromodal.quantizers.seeding import _WeightedSquares, seed_centroids


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
@pytest.mark.parametrize("in_order", [True, False])
def test_a_small_subsample_and_one_pass_are_about_as_good(n_dims, in_order, monkeypatch):
    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", 500)
    X = mixture(30_000, n_dims)
    X = X[np.argsort(X[:, 0])] if in_order else X  # rows come field by field, not shuffled
    ours = KMeans(KMeansConfig(n_codes=128), 0).fit(X)
    theirs = MiniBatchKMeans(128, random_state=0, n_init=1, batch_size=1024).fit(X)
    inertia = float(((X - theirs.cluster_centers_[theirs.predict(X)]) ** 2).sum())
    assert ours.inertia_ <= 1.03 * inertia
    whole = module.KMeans(KMeansConfig(n_codes=128), 0)
    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", len(X))
    assert ours.inertia_ <= 1.06 * whole.fit(X).inertia_


@pytest.mark.parametrize("n_dims", [2, 16])
def test_the_codebook_does_not_depend_on_threads_or_on_who_multiplies(n_dims, monkeypatch):
    import torch

    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", 500)
    X, config = mixture(12_000, n_dims), KMeansConfig(n_codes=64)
    books, n_threads = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            books.append(KMeans(config, 3).fit(X).codebook)
    finally:
        torch.set_num_threads(n_threads)
    monkeypatch.setitem(sys.modules, "torch", None)
    books.append(KMeans(config, 3).fit(X).codebook)
    for book in books[1:]:
        assert np.array_equal(book.entries, books[0].entries) and np.array_equal(book.counts, books[0].counts)


def test_running_means_are_weighted_means_of_the_rows_of_a_code(monkeypatch):
    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", 200)
    rng = np.random.default_rng(0)
    centers = 20 * np.eye(8)[rng.integers(8, size=5000)]
    X = (centers + rng.normal(size=(5000, 8))).astype(np.float32)  # far apart: nobody changes sides
    weights = rng.uniform(0.5, 3, 5000)
    quantizer = KMeans(KMeansConfig(n_codes=8)).fit(X, weights)
    codes = quantizer.encode(X)
    means = np.stack([np.average(X[codes == k], axis=0, weights=weights[codes == k]) for k in range(8)])
    assert np.allclose(quantizer.centroids_, means, atol=1e-4) and quantizer.n_iter_ <= 3


def test_codes_without_rows_after_the_pass_are_revived(monkeypatch):
    X = mixture(4000, 8)
    lost = np.concatenate([X[:10], np.full((2, 8), 1e3, np.float32)])
    rng, w = np.random.default_rng(0), np.ones(len(X), np.float32)
    found = KMeans(KMeansConfig(n_codes=12))._running_means(X, w, lost.copy(), rng)
    assert np.abs(found).max() < 50 and len(np.unique(found, axis=0)) == 12


def test_the_next_code_is_the_nearest_of_the_neighbours():
    X = mixture(3000, 2)
    centroids = X[:60].copy()
    codes, _ = module.NearestEntry(centroids).query(X)
    moved = centroids + 0.02 * np.random.default_rng(0).normal(size=centroids.shape).astype(np.float32)
    found, errors = module.Neighbours(X).follow(codes, moved)
    expected, distances = module.NearestEntry(moved).query(X)
    assert (found == expected).mean() > 0.99
    np.testing.assert_allclose(errors[found == expected], distances[found == expected], rtol=1e-4, atol=1e-7)


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


@pytest.mark.parametrize("n_trials", [1, 3])
def test_seeds_are_drawn_in_proportion_to_weight_and_squared_distance(n_trials):
    X = np.array([[0.0, 0.0]] * 600 + [[3.0, 0.0]] * 100 + [[0.0, 1.0]] * 100, np.float32)
    weights = np.where(X[:, 1] > 0, 3.0, 1.0).astype(np.float32)
    far = 0
    for seed in range(300):
        first, second = seed_centroids(X, 2, np.random.default_rng(seed), weights, 1)
        if not first.any():  # then 900 : 300 by weight times squared distance
            far += second[0] > 0
    n = sum(not seed_centroids(X, 1, np.random.default_rng(seed), weights, 1).any() for seed in range(300))
    assert abs(n / 300 - 0.6) < 0.09 and abs(far / n - 0.75) < 0.1
    best = [seed_centroids(X, 2, np.random.default_rng(seed), weights, n_trials)[1] for seed in range(60)]
    assert len(best) == 60 and all((b == X).all(1).any() for b in best)


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


def masked_mixture(n, n_dims, seed=0):
    """Rows, weights of their numbers (a fifth 0, the rest 0.1 to 10), and the rows with 0 where these are 0."""
    X, rng = mixture(n, n_dims, seed), np.random.default_rng(seed + 100)
    weights = np.where(rng.random(X.shape) < 0.2, 0, 10 ** rng.uniform(-1, 1, X.shape)).astype(np.float32)
    return X, weights, np.where(weights > 0, X, np.float32(0))


def test_sums_and_means_by_number_are_those_of_the_double_loop():
    X, weights, _ = masked_mixture(300, 5)
    codes = np.random.default_rng(1).integers(0, 7, 300)
    weights[codes == 3, 2] = 0
    start = np.full((9, 5), 7.0, np.float32)
    mass, sums = module.no_sums(weights, start)
    module.add_up(X, weights, codes, mass, sums)
    found, alive = module.means(mass, sums, start)
    for c in range(9):
        for d in range(5):
            w = weights[codes == c, d].astype(np.float64)
            expected = (w * X[codes == c, d]).sum() / w.sum() if w.sum() > 0 else 7.0
            assert found[c, d] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert alive.tolist() == [True] * 7 + [False] * 2 and found[3, 2] == 7


@pytest.mark.parametrize("min_rows", [500, 20_000])  # a pass of running means; iterations on all rows
def test_numbers_that_weigh_nothing_leave_the_codebook_as_good_as_it_was(min_rows, monkeypatch):
    monkeypatch.setattr(module, "MIN_LLOYD_ROWS", min_rows)
    X, weights, shown = masked_mixture(8000, 16)
    fits = [KMeans(KMeansConfig(n_codes=96), 0).fit(rows, w) for rows, w in ((X, None), (shown, weights))]
    plain, masked = (np.square(X - q.decode(q.encode(X))).mean() for q in fits)
    assert masked < 1.15 * plain
    codes = fits[1].encode(shown, weights)
    assert np.array_equal(fits[1].counts_, np.bincount(codes, minlength=96))
    gaps = (shown - fits[1].decode(codes)).astype(np.float64)
    assert fits[1].inertia_ == pytest.approx((weights * gaps**2).sum(), rel=1e-4)


def test_weighted_seeds_are_drawn_by_weighted_squared_distances():
    X, weights, _ = masked_mixture(400, 6)
    rows = np.array([3, 77, 210])
    found = _WeightedSquares(X, weights)(rows)
    gaps = X[:, None].astype(np.float64) - X[rows].astype(np.float64)
    np.testing.assert_allclose(found, (weights[:, None] * gaps**2).sum(2), rtol=1e-3, atol=1e-3)
    seeds = seed_centroids(X, 20, np.random.default_rng(0), weights, 3)
    assert len(np.unique(seeds, axis=0)) == 20 and all((seed == X).all(1).any() for seed in seeds)


@pytest.mark.parametrize("shape, value", [((499, 4), 1), ((500, 3), 1), ((500, 4), -1), ((500, 4), np.nan)])
def test_weights_that_cannot_be_are_refused(shape, value):
    weights = np.full(shape, float(value))
    X = mixture(500, 4)
    with pytest.raises(DataError, match=r"weights \(n,\) or \(n, D\) = \(500, 4\)"):
        KMeans(KMeansConfig(n_codes=8)).fit(X, weights)
    with pytest.raises(DataError, match=r"weights \(n, D\) = \(500, 4\)"):
        KMeans(KMeansConfig(n_codes=8)).fit(X).encode(X, weights)
