"""Nearest entries against the obvious distance matrix in float64."""

from __future__ import annotations

import numpy as np
import pytest

from astromodal.quantizers import NearestEntry, assign, nearest


def slowly(X, entries, weights=None):
    gaps = X[:, None].astype(np.float64) - entries[None].astype(np.float64)
    return (gaps**2 * (1.0 if weights is None else weights[:, None].astype(np.float64))).sum(2)


def patchy(rng, shape):
    """Weights (n, D): a third 0, the rest over five decades, some rows all 0, some all the same."""
    weights = np.where(rng.random(shape) < 0.3, 0, 10 ** rng.uniform(-3, 2, shape)).astype(np.float32)
    weights[::50], weights[1::50] = 0, 0.3
    return weights


@pytest.mark.parametrize("n_dims", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_assignment_is_exact(n_dims, offset):
    rng = np.random.default_rng(n_dims)
    X = (rng.normal(size=(3000, n_dims)) + offset).astype(np.float32)
    entries = (rng.normal(size=(200, n_dims)) + offset).astype(np.float32)
    distances = slowly(X, entries)
    codes, squared = NearestEntry(entries).query(X)
    assert np.array_equal(codes, distances.argmin(1))
    assert np.allclose(squared, distances.min(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_dims", [1, 2, 5, 16])
def test_ties_go_to_the_lowest_index(n_dims):
    rng = np.random.default_rng(0)
    entries = rng.integers(0, 3, (60, n_dims)).astype(np.float32)  # many duplicates and equidistant pairs
    X = rng.integers(0, 5, (500, n_dims)).astype(np.float32) / 2
    assert np.array_equal(nearest(X, entries), slowly(X, entries).argmin(1))


@pytest.mark.parametrize("n_dims", [2, 16])
def test_blocks_do_not_change_the_result(n_dims, monkeypatch):
    rng = np.random.default_rng(0)
    X, entries = rng.normal(size=(1000, n_dims)), rng.normal(size=(50, n_dims))
    whole = nearest(X, entries)
    monkeypatch.setattr(assign, "BLOCK_BYTES", 4 * 50 * 7)
    monkeypatch.setattr(assign, "TREE_ROWS", 7)
    assert np.array_equal(nearest(X, entries), whole)


@pytest.mark.parametrize("n_dims", [2, 16])
def test_one_entry_and_no_rows_are_fine(n_dims):
    assert nearest(np.ones((3, n_dims)), np.zeros((1, n_dims))).tolist() == [0, 0, 0]
    assert nearest(np.ones((0, n_dims)), np.zeros((4, n_dims))).shape == (0,)


def test_one_distant_entry_does_not_make_every_row_unsure(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 16)).astype(np.float32)
    entries = np.concatenate([rng.normal(size=(99, 16)), np.full((1, 16), 1e6)]).astype(np.float32)
    unsure = []
    decide = NearestEntry._decide
    monkeypatch.setattr(NearestEntry, "_decide", lambda self, X, *rest: unsure.append(len(X)) or decide(self, X, *rest))
    assert np.array_equal(nearest(X, entries), slowly(X, entries).argmin(1))
    assert sum(unsure) < 0.01 * len(X)


@pytest.mark.parametrize("n_dims", [1, 2, 4, 32])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_weighted_assignment_is_exact(n_dims, offset):
    rng = np.random.default_rng(n_dims)
    X = (rng.normal(size=(2000, n_dims)) + offset).astype(np.float32)
    entries = (rng.normal(size=(150, n_dims)) + offset).astype(np.float32)
    weights = patchy(rng, X.shape)
    distances = slowly(X, entries, np.where(weights.any(1, keepdims=True), weights, 1))  # 0 everywhere: as 1 everywhere
    codes, squared = NearestEntry(entries).query(X, weights)
    assert np.array_equal(codes, distances.argmin(1))
    expected = np.where(weights.any(1), distances.min(1), 0)
    assert np.allclose(squared, expected, rtol=1e-3, atol=1e-3 * (1 + offset) * weights.max())
    scaled = weights * (10 ** rng.uniform(-6, 6, (len(X), 1))).astype(np.float32)  # of a row: changes no comparison
    assert (NearestEntry(entries).codes(X, scaled) == codes).mean() > 0.999


def test_numbers_that_weigh_nothing_change_nothing_and_weighted_ties_go_to_the_lowest_index():
    rng = np.random.default_rng(0)
    X, weights = rng.integers(0, 5, (500, 6)).astype(np.float32) / 2, rng.integers(0, 3, (500, 6)).astype(np.float32)
    weights[:, 0] = 1
    entries = rng.integers(0, 3, (60, 6)).astype(np.float32)  # many duplicates and equidistant pairs
    codes = NearestEntry(entries).codes(X, weights)
    assert np.array_equal(codes, slowly(X, entries, weights).argmin(1))
    wild = np.where(weights > 0, X, rng.choice([1e4, -1e4], X.shape)).astype(np.float32)
    assert np.array_equal(NearestEntry(entries).codes(wild, weights), codes)


def test_blocks_and_other_rows_do_not_change_a_weighted_result(monkeypatch):
    rng = np.random.default_rng(0)
    X, entries = rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    weights = patchy(rng, X.shape)
    whole, one_by_one = NearestEntry(entries).codes(X, weights), NearestEntry(entries)
    assert [one_by_one.codes(X[i : i + 1], weights[i : i + 1])[0] for i in range(600)] == whole.tolist()
    monkeypatch.setattr(assign, "BLOCK_BYTES", 4 * 50 * 7)
    assert np.array_equal(NearestEntry(entries).codes(X, weights), whole)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_dims", [2, 9])
def test_the_nearest_several_are_exact_and_do_not_depend_on_the_other_rows(n_dims, weighted):
    rng = np.random.default_rng(4)
    entries = (rng.integers(0, 3, (60, n_dims)) + 1e4).astype(np.float32)  # far from 0, and many ties
    X = (rng.integers(0, 5, (300, n_dims)) / 2 + 1e4).astype(np.float32)
    weights = rng.integers(0, 3, X.shape).astype(np.float32) if weighted else None
    each = np.ones(X.shape) if weights is None else np.where((weights == weights[:, :1]).all(1)[:, None], 1, weights)
    distances = np.einsum("ncd,nd->nc", np.square(X[:, None].astype(np.float64) - entries), each)
    expected = np.sort(np.argsort(distances, axis=1, kind="stable")[:, :3], axis=1)
    index = NearestEntry(entries)
    assert np.array_equal(index.several(X, 3, weights), expected)
    alone = [index.several(X[k : k + 1], 3, None if weights is None else weights[k : k + 1]) for k in range(20)]
    assert np.array_equal(np.concatenate(alone), expected[:20])
    assert np.array_equal(index.several(X, 60, weights), np.tile(np.arange(60), (300, 1)))
