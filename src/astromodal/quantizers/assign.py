"""Exact nearest neighbours in a codebook, fast: the assignment step of k-means and the encoder of its codes.

Up to three dimensions a k-d tree; above that one matrix product per block of rows, ``argmax(x·c - |c|²/2)``.
Both find the lowest index among equally near entries, as the obvious double loop in float64 would: what rounding
leaves undecided is computed again in float64.

Shape legend: n rows, D dimensions, C codes.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

TREE_DIMS = 3  # up to here the k-d tree is faster than the product
BLOCK_BYTES = 2 << 20  # of scores at a time: they should stay in the cache
TREE_ROWS = 1 << 17
MAX_PAIRS = 1 << 15  # of row and entry compared in float64 at a time


class NearestEntry:
    """The nearest of the ``entries`` (C, D) to each row: build once, ask often."""

    def __init__(self, entries: np.ndarray) -> None:
        self.entries = np.ascontiguousarray(entries, dtype=np.float32)
        self._exact = self.entries.astype(np.float64)
        self._tree = cKDTree(self._exact) if self.entries.shape[1] <= TREE_DIMS else None
        # Distances do not change under a shift; small numbers lose less to rounding. Not the mean: one distant entry
        # would move it away from all the others.
        self._origin = np.median(self.entries, axis=0).astype(np.float32)
        centred = self.entries - self._origin
        self._centred, self._centred_t = centred, np.ascontiguousarray(centred.T)
        self._half_norms = 0.5 * np.einsum("cd,cd->c", centred, centred)
        self._scores: np.ndarray | None = None

    def query(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n,) int64 and squared distances (n,) float32 of the rows of ``X`` (n, D)."""
        X = np.ascontiguousarray(X, dtype=np.float32)
        codes = np.empty(len(X), dtype=np.int64)
        distances = np.empty(len(X), dtype=np.float32)
        by_tree = self._tree is not None
        rows = TREE_ROWS if by_tree else max(BLOCK_BYTES // (4 * len(self.entries)), 16)
        ask = self._ask_tree if by_tree else self._ask_product
        for start in range(0, len(X), rows):
            block = slice(start, start + rows)
            codes[block], distances[block] = ask(X[block])
        return codes, distances

    def _ask_tree(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(self.entries) == 1:
            return np.zeros(len(X), np.int64), np.square(X - self._exact[0]).sum(1)
        distances, codes = self._tree.query(X, k=2, workers=1)
        nearest, codes = distances[:, 0], codes[:, 0].astype(np.int64)
        unsure = np.flatnonzero(distances[:, 1] <= nearest * (1 + 1e-12))
        if len(unsure):
            codes[unsure] = self._slowly(X[unsure])
        return codes, np.square(nearest)

    def _ask_product(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = X - self._origin
        scores = self._buffer(len(X))
        np.matmul(centred, self._centred_t, out=scores)  # (rows, C)
        scores -= self._half_norms
        codes = scores.argmax(1)
        rows = np.arange(len(X))
        best = scores[rows, codes]
        scores[rows, codes] = -np.inf
        second = scores.max(1)
        scores[rows, codes] = best
        gaps = centred - self._centred[codes]
        distances = np.einsum("nd,nd->n", gaps, gaps)
        # Rounding error of a product of D terms (Higham 2002, section 3.1). An entry that beats the found one is no
        # farther from the row, which bounds its norm: one distant outlier among the entries makes no row unsure.
        norms = np.sqrt(np.einsum("nd,nd->n", centred, centred))
        reach = norms + 1.001 * np.sqrt(distances)
        tolerance = np.finfo(np.float32).eps * (X.shape[1] + 2) * (norms * reach + 0.5 * reach**2)
        unsure = np.flatnonzero(second >= best - tolerance)
        if len(unsure):
            codes[unsure] = self._decide(X[unsure], scores[unsure] >= (best - tolerance)[unsure, None])
        return codes, distances

    def _buffer(self, n_rows: int) -> np.ndarray:
        """Reused memory for the scores of a block: fresh pages cost as much as a pass over them."""
        if self._scores is None or len(self._scores) < n_rows:
            self._scores = np.empty((n_rows, len(self.entries)), dtype=np.float32)
        return self._scores[:n_rows]

    def _decide(self, X: np.ndarray, contenders: np.ndarray) -> np.ndarray:
        """Codes (n,) among the contenders (n, C), by differences in float64; the lowest index wins a tie."""
        found = np.empty(len(X), dtype=np.int64)
        n_rows = max(MAX_PAIRS // int(contenders.sum(1).max()), 1)
        for start in range(0, len(X), n_rows):
            rows, codes = np.nonzero(contenders[start : start + n_rows])  # codes ascend within a row
            gaps = X[start + rows].astype(np.float64) - self._exact[codes]
            distances = np.einsum("pd,pd->p", gaps, gaps)
            order = np.lexsort((codes, distances, rows))
            first = np.searchsorted(rows[order], np.arange(min(n_rows, len(X) - start)))
            found[start : start + n_rows] = codes[order[first]]
        return found

    def _slowly(self, X: np.ndarray) -> np.ndarray:
        """Codes (n,) by differences in float64, lowest index first; a few rows at a time."""
        rows = max(BLOCK_BYTES // (8 * self.entries.size), 1)
        codes = np.empty(len(X), dtype=np.int64)
        for start in range(0, len(X), rows):
            gaps = X[start : start + rows, None, :].astype(np.float64) - self._exact[None]
            codes[start : start + rows] = np.einsum("ncd,ncd->nc", gaps, gaps).argmin(1)
        return codes


def nearest(X: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Codes (n,) of the nearest ``entries`` (C, D) to ``X`` (n, D); ties go to the lowest index.

    >>> nearest(np.array([[0.0], [5.0], [9.0]]), np.array([[0.0], [10.0]])).tolist()
    [0, 0, 1]
    """
    return NearestEntry(entries).query(X)[0]
