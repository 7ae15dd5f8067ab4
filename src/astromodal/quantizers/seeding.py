"""Seeds of k-means: k-means++ (Arthur & Vassilvitskii 2007), above three dimensions its greedy form (their section 6).

Without the greedy form codebooks of many dimensions stall at 10 % more inertia (clustered vectors), whatever the
iterations after it.

Shape legend: n rows, D dimensions, C codes, T trials.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128  # rows whose masses are summed before a draw looks into them: a draw reads n / 128 + 128 sums, not n


def seed_centroids(
    X: np.ndarray, n_codes: int, rng: np.random.Generator, weights: np.ndarray, n_trials: int
) -> np.ndarray:
    """Seeds (n_codes, D) among the rows of ``X`` (n, D): each drawn in proportion to its weighted squared distance.

    With ``n_trials`` > 1 the draw that lowers the inertia most is taken.

    Args:
        weights: of each row (n,), or of each of its numbers (n, D). A seed is a row as it stands: where it has no
            weight, what stands there is no more than a start.
    """
    n = len(X)
    squared: _Squares | _WeightedSquares
    if weights.ndim == 2:
        of_rows, counts, squared = weights.sum(1), np.ones(n, np.float32), _WeightedSquares(X, weights)
    else:
        of_rows = counts = weights
        squared = _Squares(X)
    chosen = np.empty(n_codes, dtype=np.int64)
    first = int(np.searchsorted(np.cumsum(of_rows), rng.random() * of_rows.sum()))
    chosen[0] = min(first, n - 1)
    closest = squared(chosen[:1])[:, 0]
    mass = np.zeros(-(-n // BLOCK) * BLOCK, dtype=np.float32)  # padded with rows that are never drawn
    for k in range(1, n_codes):
        np.multiply(closest, counts, out=mass[:n])
        candidates = np.minimum(_draw(mass, rng.random(n_trials)), n - 1)
        distances = squared(candidates)
        np.minimum(distances, closest[:, None], out=distances)
        best = int(np.argmin(counts @ distances)) if n_trials > 1 else 0
        chosen[k] = candidates[best]
        closest = np.ascontiguousarray(distances[:, best])
    return X[chosen]


def _draw(mass: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Rows (T,) in proportion to ``mass`` (a multiple of ``BLOCK``), by numbers (T,) in [0, 1)."""
    blocks = mass.reshape(-1, BLOCK)
    ends = np.cumsum(blocks.sum(1), dtype=np.float64)
    targets = uniform * ends[-1]
    which = np.minimum(np.searchsorted(ends, targets, side="right"), len(ends) - 1)
    drawn = np.empty(len(uniform), dtype=np.int64)
    for t, block in enumerate(which.tolist()):
        inside = np.cumsum(blocks[block], dtype=np.float64)
        start = ends[block - 1] if block else 0.0
        share = (targets[t] - start) / (ends[block] - start) if ends[block] > start else 0.0
        drawn[t] = block * BLOCK + min(np.searchsorted(inside, share * inside[-1], side="right"), BLOCK - 1)
    return drawn


class _Squares:
    """Squared distances (n, T) of all rows of ``X`` (n, D) to the given ones."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self._left, self._norms = X, X, np.einsum("nd,nd->n", X, X)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        distances = self._left @ self._right(rows)
        distances += self._norms[:, None]
        distances += self._norms_of(rows)
        distances[rows, np.arange(len(rows))] = 0.0
        return np.maximum(distances, 0.0, out=distances)

    def _right(self, rows: np.ndarray) -> np.ndarray:
        return -2.0 * self.X[rows].T

    def _norms_of(self, rows: np.ndarray) -> np.ndarray | float:
        return self._norms[rows]


class _WeightedSquares(_Squares):
    """The same, ``sum_d w_d (x_d - c_d)^2`` with the weights (n, D) of the row ``x``: ``[w x, w]·[-2 c, c^2]``."""

    def __init__(self, X: np.ndarray, weights: np.ndarray) -> None:
        self.X, self._left = X, np.concatenate([weights * X, weights], axis=1)
        self._norms = np.einsum("nd,nd->n", self._left[:, : X.shape[1]], X)

    def _right(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([-2.0 * self.X[rows].T, np.square(self.X[rows]).T])

    def _norms_of(self, rows: np.ndarray) -> float:
        return 0.0
