"""Exact nearest neighbours in a codebook, fast: the assignment step of k-means and the encoder of its codes.

Up to three dimensions a k-d tree, in the plane a table of cells for many rows (:mod:`.grid`); above that one matrix
product per block of rows, ``argmax(x·c - |c|²/2)``. All find the lowest index among equally near entries, as the
obvious double loop in float64 would: what rounding leaves undecided is computed again in float64.

Where every number of a row has a weight of its own, the distance is ``sum_d w_d (x_d - c_d)^2`` and the product has
twice the width: ``argmax([w x, w]·[c, -c^2/2])``.

Shape legend: n rows, D dimensions, C codes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from .grid import CellGrid

TREE_DIMS = 3  # up to here the k-d tree is faster than the product
BLOCK_BYTES = 4 << 20  # of scores at a time: they should stay in the cache
TREE_ROWS = 1 << 17
GRID_AFTER = 1 << 18  # rows asked for: from here on the table of a grid pays for being built
GAP_ROWS = 1 << 13
MAX_PAIRS = 1 << 15  # of row and entry compared in float64 at a time


class NearestEntry:
    """The nearest of the ``entries`` (C, D) to each row: build once, ask often."""

    def __init__(self, entries: np.ndarray) -> None:
        self.entries = np.ascontiguousarray(entries, dtype=np.float32)
        self._exact = self.entries.astype(np.float64)
        self._tree = cKDTree(self._exact) if self.entries.shape[1] <= TREE_DIMS else None
        self._grid: CellGrid | None = None
        self._n_asked = 0
        # Distances do not change under a shift; small numbers lose less to rounding. Not the mean: one distant entry
        # would move it away from all the others.
        self._origin = np.median(self.entries, axis=0).astype(np.float32)
        self._centred_t = np.ascontiguousarray((self.entries - self._origin).T)
        self._norms = np.sqrt(np.einsum("dc,dc->c", self._centred_t, self._centred_t))
        self._minus_half = -0.5 * np.square(self._norms)
        self._scores: np.ndarray | None = None

    @functools.cached_property
    def _weighted_t(self) -> np.ndarray:
        """``[c, -c^2/2]`` as columns (2 D, C)."""
        return np.concatenate([self._centred_t, -0.5 * np.square(self._centred_t)])

    def query(self, X: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n,) int64 and squared distances (n,) float32 of the rows of ``X`` (n, D), both by ``weights``."""
        X = np.ascontiguousarray(X, dtype=np.float32)
        codes, distances = self.codes(X, weights), np.empty(len(X), dtype=np.float32)
        for start in range(0, len(X), GAP_ROWS):
            block = slice(start, start + GAP_ROWS)
            gaps = X[block] - self.entries[codes[block]]
            parts = (gaps, gaps) if weights is None else (gaps * gaps, weights[block])
            np.einsum("nd,nd->n", *parts, out=distances[block])
        return codes, distances

    def codes(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes (n,) int64 of the rows of ``X`` (n, D).

        Args:
            weights: (n, D) float32, finite, not negative: how much each number counts. A row whose numbers all have
                one weight, 0 included, is judged by its plain distance.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        if weights is not None and (weights != weights[:, :1]).any():
            return self._ask_product(X, _row_scaled(weights))
        self._n_asked += len(X)
        if self._tree is None:
            return self._ask_product(X)
        ask = functools.partial(self._ask_tree, self._tree)
        if self._grid is None and self._n_asked >= GRID_AFTER and CellGrid.suits(self.entries):
            self._grid = CellGrid(self._exact, self._tree)
        if self._grid is None:
            return self._in_blocks(X, ask, TREE_ROWS)
        codes, left_open = self._grid.codes(X)
        codes[left_open] = self._in_blocks(X[left_open], ask, TREE_ROWS)
        return codes

    def several(self, X: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Codes (n, k) int64 of the k nearest entries to each row, in ascending order of the codes; all, if k is C.

        Exact as :meth:`codes`: which entries these are depends neither on rounding nor on the other rows.
        """
        X, n_codes = np.ascontiguousarray(X, dtype=np.float32), len(self.entries)
        if k >= n_codes:
            return np.broadcast_to(np.arange(n_codes), (len(X), n_codes))
        if weights is not None:
            weights = _row_scaled(weights)
        found = np.empty((len(X), k), dtype=np.int64)
        n_rows = max(BLOCK_BYTES // (4 * n_codes), 16)
        for start in range(0, len(X), n_rows):
            block = slice(start, start + n_rows)
            part, of_part = X[block], _rows(weights, block)
            scores, rows = self._score(part, of_part), np.arange(len(part))
            for place in range(k):  # a few passes are faster than a sort
                found[block, place] = last = scores.argmax(1)
                least = scores[rows, last]
                scores[rows, last] = -np.inf
            unsure = scores.max(1) >= least - self._tolerance(part, last, least, of_part)
            for row in np.flatnonzero(unsure):
                gaps = np.square(part[row].astype(np.float64) - self._exact)
                distances = gaps.sum(1) if of_part is None else gaps @ of_part[row].astype(np.float64)
                found[start + row] = np.argsort(distances, kind="stable")[:k]
        return np.sort(found, axis=1)

    @staticmethod
    def _in_blocks(X: np.ndarray, ask: Callable[[np.ndarray], np.ndarray], n_rows: int) -> np.ndarray:
        codes = np.empty(len(X), dtype=np.int64)
        for start in range(0, len(X), n_rows):
            codes[start : start + n_rows] = ask(X[start : start + n_rows])
        return codes

    def _ask_tree(self, tree: cKDTree, X: np.ndarray) -> np.ndarray:
        if len(self.entries) == 1:
            return np.zeros(len(X), np.int64)
        distances, codes = tree.query(X, k=2, workers=1)
        codes = codes[:, 0].astype(np.int64)
        unsure = np.flatnonzero(distances[:, 1] <= distances[:, 0] * (1 + 1e-12))
        if len(unsure):
            codes[unsure] = self._slowly(X[unsure])
        return codes

    def _ask_product(self, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        codes = np.empty(len(X), dtype=np.int64)
        best, second = np.empty((2, len(X)), dtype=np.float32)
        n_rows = max(BLOCK_BYTES // (4 * len(self.entries)), 16)
        for start in range(0, len(X), n_rows):
            block = slice(start, start + n_rows)
            scores = self._score(X[block], _rows(weights, block))
            found, rows = scores.argmax(1), np.arange(len(scores))
            codes[block], best[block] = found, scores[rows, found]
            scores[rows, found] = -np.inf
            scores.max(1, out=second[block])
        for start in range(0, len(X), GAP_ROWS):
            block = slice(start, start + GAP_ROWS)
            tolerance = self._tolerance(X[block], codes[block], best[block], _rows(weights, block))
            unsure = np.flatnonzero(second[block] >= best[block] - tolerance)
            for rows in np.array_split(unsure, -(-len(unsure) // n_rows)) if len(unsure) else ():
                part, of_part = X[start + rows], _rows(weights, start + rows)
                scores = self._score(part, of_part)
                # twice: these products may be rounded in another way than those above
                least = scores.max(1) - 2.0 * tolerance[rows]
                codes[start + rows] = self._decide(part, scores >= least[:, None], of_part)
        return codes

    def _tolerance(self, X: np.ndarray, codes: np.ndarray, best: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """How much nearer (n,) in score an entry other than the found one has to be for rounding not to matter.

        Rounding error of a product of D terms: Higham 2002, section 3.1. An entry that beats the found one is no
        farther from the row, which bounds its norm: one distant outlier among the entries makes no row unsure. With
        weights the same holds for vectors times the square roots of their weights, and there are twice the terms.
        """
        centred = X - self._origin
        if weights is None:
            unit = np.finfo(np.float32).eps * (X.shape[1] + 2)
            squares, found = np.einsum("nd,nd->n", centred, centred), self._norms[codes]
        else:
            unit = np.finfo(np.float32).eps * (2 * X.shape[1] + 4)
            squares = np.einsum("nd,nd->n", np.square(centred), weights)
            found = np.sqrt(np.einsum("nd,nd->n", np.square(self.entries[codes] - self._origin), weights))
        norms = np.sqrt(squares)
        distances = np.sqrt(np.maximum(squares - 2.0 * best, 0.0) + 2.0 * unit * (norms + found) ** 2)
        reach = norms + 1.001 * distances
        return unit * (norms * reach + 0.5 * reach**2)

    def _score(self, X: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """``x·c - |c|^2/2`` (rows, C), or the same by weights, of rows (rows, D)."""
        centred = X - self._origin
        if weights is None:
            return self._multiply(centred, self._centred_t, self._minus_half)
        return self._multiply(np.concatenate([centred * weights, weights], axis=1), self._weighted_t, None)

    def _multiply(self, left: np.ndarray, right: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        """``left @ right + offset`` (rows, C), in memory used again: fresh pages cost as much as a pass over them.

        torch's product is an eighth faster than NumPy's; loading it for that would not pay. What rounding changes is
        decided exactly, so the codes do not depend on which of the two multiplies.
        """
        n = len(left)
        if self._scores is None or len(self._scores) < n:
            self._scores = np.empty((n, len(self.entries)), dtype=np.float32)
        scores, torch = self._scores[:n], sys.modules.get("torch")
        if torch is None:
            np.matmul(left, right, out=scores)
            if offset is not None:
                scores += offset
        elif offset is None:
            torch.mm(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(scores))
        else:
            torch.addmm(*(torch.from_numpy(a) for a in (offset, left, right)), out=torch.from_numpy(scores))
        return scores

    def _decide(self, X: np.ndarray, contenders: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Codes (n,) among the contenders (n, C), by differences in float64; the lowest index wins a tie."""
        found = np.empty(len(X), dtype=np.int64)
        n_rows = max(MAX_PAIRS // int(contenders.sum(1).max()), 1)
        for start in range(0, len(X), n_rows):
            rows, codes = np.nonzero(contenders[start : start + n_rows])  # codes ascend within a row
            gaps = X[start + rows].astype(np.float64) - self._exact[codes]
            distances = np.einsum("pd,pd->p", gaps, gaps if weights is None else gaps * weights[start + rows])
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


def _rows(weights: np.ndarray | None, rows: slice | np.ndarray) -> np.ndarray | None:
    return None if weights is None else weights[rows]


def _row_scaled(weights: np.ndarray) -> np.ndarray:
    """Weights (n, D) float32 times a power of two per row, which changes no comparison: at most 1, so that nothing
    overflows; exactly 1 in rows that have one weight for all.
    """
    largest = weights.max(1, keepdims=True)
    scaled = np.ldexp(weights, -np.frexp(largest)[1]).astype(np.float32, copy=False)
    return np.where((weights == largest).all(1, keepdims=True), np.float32(1), scaled)


def nearest(X: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Codes (n,) of the nearest ``entries`` (C, D) to ``X`` (n, D); ties go to the lowest index.

    >>> nearest(np.array([[0.0], [5.0], [9.0]]), np.array([[0.0], [10.0]])).tolist()
    [0, 0, 1]
    """
    return NearestEntry(entries).codes(X)
