"""k-means codebooks, fast on one core and good: k-means++ seeds, Lloyd on a subsample, a pass over all rows.

Few rows, and few dimensions: Lloyd's iterations on (a subsample of) the rows, then once on all of them. Many rows of
many dimensions: a few iterations on a subsample, then one pass over all rows in random order, whose centroids are
running means that follow batch by batch (Bottou & Bengio 1995; Sculley 2010). With good seeds this ends lower than many
iterations on the subsample, which fit it too well, at a third of the products. Every given row takes part in the final
centroids and counts. Codes that lose all rows are revived at the rows with the largest error.

Weights are of rows (n,), or of their numbers (n, D): then a row's code is the nearest by ``sum_d w_d (x_d - c_d)^2``,
and each number of a centroid is the mean of its rows' by their weights of that number.

Shape legend: n rows, D dimensions, C codes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import cKDTree

from ..config.schema import KMeansConfig
from ..errors import ArtifactError, ConfigError, DataError
from ..vocabulary.codebook import Codebook
from .assign import TREE_DIMS, NearestEntry
from .base import Learned, Quantizer, checked, checked_weights, of_numbers
from .seeding import seed_centroids

MIN_LLOYD_ROWS = 20_000
BLOCK_ROWS = 1 << 16
N_NEIGHBOURS = 8
BATCH_ROWS = 1 << 13  # rows between two updates of the running means; 32 k gave 0.3 % more inertia
MIN_BATCH_PER_CODE = 4


@dataclass(frozen=True)
class Effort:
    """Rows per code of the seeding and of Lloyd's iterations, trials per seed, iterations on a subsample."""

    seed_rows: int = 8
    lloyd_rows: int = 48
    n_trials: int = 1
    n_sample_iter: int = 12


LOW = Effort()  # up to TREE_DIMS dimensions
HIGH = Effort(seed_rows=5, lloyd_rows=16, n_trials=4, n_sample_iter=2)

log = logging.getLogger(__name__)


def distinct_rows(X: np.ndarray, more_than: int) -> np.ndarray | None:
    """The distinct rows of ``X``, or None when there are more than ``more_than`` (found out without sorting rows)."""
    head = X[: 4 * more_than + 4]
    for part in (head, X) if len(head) < len(X) else (X,):
        if len(np.unique(_row_hashes(part))) > more_than:
            return None
    return np.unique(X + np.float32(0), axis=0)


def _row_hashes(X: np.ndarray) -> np.ndarray:
    """64-bit hash of each row's bits; equal rows (0.0 and -0.0 are equal) have equal hashes."""
    hashes = np.full(len(X), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in X.T:  # over dimensions, not rows
        hashes ^= (column + np.float32(0)).view(np.uint32)
        hashes *= np.uint64(0xFF51AFD7ED558CCD)
        hashes ^= hashes >> np.uint64(32)
    return hashes


def add_up(X: np.ndarray, weights: np.ndarray, codes: np.ndarray, mass: np.ndarray, sums: np.ndarray) -> None:
    """Add the rows of each code to ``mass`` (C,), or (C, D) with weights (n, D), and ``sums`` (C, D), weighted."""
    n_codes, of_numbers = len(mass), weights.ndim == 2
    if not of_numbers:
        mass += np.bincount(codes, weights, n_codes)
    for start in range(0, len(X), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        for d in range(X.shape[1]):  # over dimensions, not rows
            w = weights[block, d] if of_numbers else weights[block]
            if of_numbers:
                mass[:, d] += np.bincount(codes[block], w, n_codes)
            sums[:, d] += np.bincount(codes[block], w * X[block, d], n_codes)


def no_sums(weights: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``mass`` and ``sums`` of :func:`add_up`, all 0."""
    return np.zeros(centroids.shape[: weights.ndim]), np.zeros(centroids.shape)


def means(mass: np.ndarray, sums: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means (C, D) float32, and which codes have rows (C,); what has no mass stays as in ``centroids``."""
    of_numbers = mass if mass.ndim == 2 else mass[:, None]
    found = np.divide(sums, of_numbers, out=centroids.astype(np.float64), where=of_numbers > 0)
    return found.astype(np.float32), np.asarray((of_numbers > 0).any(1))


def assigned(X: np.ndarray, weights: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n,) of the nearest centroids, and weighted squared errors (n,)."""
    index = NearestEntry(centroids)
    if weights.ndim == 2:
        return index.query(X, weights)
    codes, errors = index.query(X)
    return codes, errors * weights


class Neighbours:
    """The assignment inside of Lloyd's iterations in few dimensions: a row's next code is its present one or near it.

    Not exact, and several times faster than asking the tree for every row; centroids hardly move between iterations.
    """

    def __init__(self, X: np.ndarray) -> None:
        self._columns = np.ascontiguousarray(X.T)

    def follow(self, codes: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n,) and squared distances (n,) to ``centroids`` (C, D), from the codes (n,) before they moved."""
        k = min(N_NEIGHBOURS, len(centroids))
        near = cKDTree(centroids).query(centroids, k=k)[1].reshape(len(centroids), k)
        best, least = codes, np.full(len(codes), np.inf, dtype=np.float32)
        for candidates in near.T:
            others = candidates[codes]
            gaps = (column - axis[others] for column, axis in zip(self._columns, centroids.T.copy(), strict=True))
            distances = sum(np.square(gap) for gap in gaps)
            nearer = distances < least
            best = np.where(nearer, others, best)
            np.minimum(distances, least, out=least)
        return best, least


class KMeans(Quantizer):
    """Vector quantizer with at most ``config.n_codes`` codes.

    Learned: ``centroids_`` (C, D) float32, ``counts_`` (C,) rows per code, whatever they weigh, over all rows given,
    ``inertia_`` their summed squared error, ``n_iter_``.

    Args:
        config: number of codes, iterations, tolerance (``max_fit_rows`` is for whoever collects the rows).
        seed: of subsample and seeds; equal seeds and rows give equal codebooks.
    """

    name = "kmeans"
    centroids_ = Learned[np.ndarray]()
    counts_ = Learned[np.ndarray]()
    _index = Learned[NearestEntry]()

    def __init__(self, config: KMeansConfig | None = None, seed: int = 0) -> None:
        self.config = KMeansConfig() if config is None else config
        if self.config.n_codes < 1 or self.config.max_iter < 1:
            raise ConfigError("n_codes and max_iter of 1 or more", got=(self.config.n_codes, self.config.max_iter))
        self.seed = seed
        self.inertia_, self.n_iter_ = float("nan"), 0

    def fit(self, X: np.ndarray, weights: np.ndarray | None = None) -> Self:
        """Learn centroids from ``X`` (n, D) or (n,)."""
        used, w = self.learn(X, weights)
        codes, errors = assigned(used, w, self.centroids_)
        self.counts_ = np.bincount(codes, minlength=len(self.centroids_)).astype(np.float64)
        self.inertia_ = float(errors.sum(dtype=np.float64))
        return self

    def learn(self, X: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Learn centroids alone, for whoever counts; the rows that weigh something, and their weights."""
        X = checked(X, "KMeans.fit")
        if not len(X):
            raise DataError("at least one row", got="none", where="KMeans.fit")
        w = checked_weights(weights, X.shape, "KMeans.fit")
        heavy = w > 0 if w.ndim == 1 else w.any(1)
        used, w = (X, w) if heavy.all() else (X[heavy], w[heavy])
        distinct = distinct_rows(used, self.config.n_codes)
        if distinct is None:
            self._set(self._learn(used, w))
        else:
            if len(distinct) < self.config.n_codes:
                log.info("k-means: %d distinct rows for %d codes: fewer codes", len(distinct), self.config.n_codes)
            self._set(distinct)
        return used, w

    def _learn(self, X: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Centroids (C, D) from all rows, most of the work on a subsample of them."""
        rng = np.random.default_rng([self.seed, X.shape[1]])
        flat = X.shape[1] <= TREE_DIMS and weights.ndim == 1
        n_codes, effort = self.config.n_codes, LOW if flat else HIGH
        n_rows = max(effort.lloyd_rows * n_codes, MIN_LLOYD_ROWS)
        sample, w, n_iter = X, weights, self.config.max_iter
        if 2 * len(X) > 3 * n_rows:  # for little more than the subsample, iterations on all rows end lower
            rows = np.sort(rng.choice(len(X), n_rows, replace=False))
            sample, w, n_iter = X[rows], weights[rows], min(n_iter, effort.n_sample_iter)
        rows = rng.permutation(len(sample))[: max(effort.seed_rows * n_codes, 1000)]
        origin = sample.mean(0, dtype=np.float64).astype(np.float32)  # distances by products lose less near 0
        centroids = seed_centroids(sample[rows] - origin, n_codes, rng, w[rows], effort.n_trials) + origin
        centroids = self._iterate(sample, w, centroids, n_iter, flat)
        if sample is X:
            return centroids
        if flat:
            return self._update(X, weights, *assigned(X, weights, centroids), centroids)[0]
        return self._running_means(X, weights, centroids, rng)

    def _iterate(
        self, X: np.ndarray, weights: np.ndarray, centroids: np.ndarray, n_iter: int, flat: bool
    ) -> np.ndarray:
        """At most ``n_iter`` of Lloyd's iterations, until the inertia falls by less than ``tol`` of itself."""
        previous = float("inf")
        neighbours = Neighbours(X) if flat else None
        n_dead = 0
        for self.n_iter_ in range(1, n_iter + 1):
            if neighbours is None or self.n_iter_ == 1 or n_dead:  # a revived code may be anywhere
                codes, errors = assigned(X, weights, centroids)
            else:
                codes, errors = neighbours.follow(codes, centroids)
                errors = errors * weights
            inertia = float(errors.sum(dtype=np.float64))
            centroids, _, n_dead = self._update(X, weights, codes, errors, centroids)
            if not n_dead and inertia >= (1.0 - self.config.tol) * previous:
                break
            previous = inertia
        return centroids

    def _running_means(
        self, X: np.ndarray, weights: np.ndarray, centroids: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Centroids (C, D) after one pass over all rows in random order, moving with every batch."""
        order = rng.permutation(len(X))
        mass, sums = no_sums(weights, centroids)
        n_batch = max(BATCH_ROWS, MIN_BATCH_PER_CODE * len(centroids))
        for start in range(0, len(X), n_batch):
            rows = order[start : start + n_batch]
            batch, w = X[rows], weights[rows]
            codes = NearestEntry(centroids).codes(batch, w if w.ndim == 2 else None)
            add_up(batch, w, codes, mass, sums)
            centroids, alive = means(mass, sums, centroids)
        if not alive.all():  # rare: rows of the last batch stand for all
            _, errors = assigned(batch, w, centroids)
            self._revive(centroids, np.flatnonzero(~alive), batch, errors)
        return centroids

    @classmethod
    def _update(
        cls, X: np.ndarray, weights: np.ndarray, codes: np.ndarray, errors: np.ndarray, centroids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Weighted means of the rows of each code; codes without rows move to the rows with the largest ``errors``."""
        mass, sums = no_sums(weights, centroids)
        add_up(X, weights, codes, mass, sums)
        updated, alive = means(mass, sums, centroids)
        dead = np.flatnonzero(~alive)
        if len(dead):
            cls._revive(updated, dead, X, errors)
        return updated, mass, len(dead)

    @staticmethod
    def _revive(centroids: np.ndarray, dead: np.ndarray, X: np.ndarray, errors: np.ndarray) -> None:
        """Put the ``dead`` codes where the weighted errors (n,) are largest, each at another row; in place."""
        n_worst = min(8 * len(dead), len(X))
        worst = np.argpartition(errors, len(X) - n_worst)[len(X) - n_worst :]
        worst = worst[np.argsort(-errors[worst], kind="stable")]
        _, first = np.unique(X[worst], axis=0, return_index=True)
        rows = worst[np.sort(first)][: len(dead)]
        centroids[dead[: len(rows)]] = X[rows]

    def _set(self, centroids: np.ndarray) -> None:
        self.centroids_ = np.ascontiguousarray(centroids, dtype=np.float32)
        self._index = NearestEntry(self.centroids_)

    def encode(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        X = checked(X, "KMeans.encode", self.centroids_.shape[1])
        return self._index.codes(X, of_numbers(weights, X.shape, "KMeans.encode"))

    @property
    def codebooks(self) -> tuple[Codebook, ...]:
        return (Codebook(self.centroids_, self.counts_),)

    def state(self) -> dict[str, np.ndarray]:
        """``centroids`` (C, D) and ``counts`` (C,)."""
        return {"centroids": self.centroids_, "counts": self.counts_}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Self:
        try:
            centroids, counts = np.asarray(state["centroids"], np.float32), np.asarray(state["counts"], np.float64)
        except KeyError as error:
            raise ArtifactError("centroids and counts of a codebook", got=f"no {error}") from error
        book = Codebook(centroids, counts)  # checks shapes and values
        quantizer = cls(KMeansConfig(n_codes=len(book.entries)))
        quantizer._set(book.entries)
        quantizer.counts_ = book.counts
        return quantizer
