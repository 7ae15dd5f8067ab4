"""Order statistics and sums of many values without sorting them all.

A histogram over the cells of :mod:`.cells` says in which cell each wanted rank is; only the values of those cells are
sorted. With a thousand ranks that is a few percent of the values, so it costs a fifth of a sort, and is exact.

Shape legend: n values, K ranks.
"""

from __future__ import annotations

import numpy as np

from .cells import BLOCK_ROWS, N_CELLS, best_map

MIN_ROWS = 1 << 18  # fewer values are sorted
SAMPLE = 1 << 13  # values that the map is chosen by
MAX_SHARE = 0.7  # of the values to be sorted after all; with more there is nothing to gain


class Ranked:
    """Values (n,) float32 or float64, finite, of which some ranks are asked for.

    >>> Ranked(np.float32([5, 1, 3])).at(np.array([0, 2])).tolist()
    [1.0, 5.0]
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self._sorted: np.ndarray | None = None
        sample = np.sort(values[:: max(len(values) // SAMPLE, 1)])
        edge = len(sample) // 500  # the outermost of a thousand bins
        cells = best_map(sample[edge : len(sample) - edge]) if len(values) >= MIN_ROWS else None
        if cells is None:
            self._sorted = np.sort(values)
        else:
            self._map = cells
            self._cells = self._map.all(values)
            self._counts = histogram(self._cells)
            self._before = np.cumsum(self._counts) - self._counts
            self.low, self.high = values.min(), values.max()

    @property
    def by_cells(self) -> bool:
        """False once everything is sorted: then :attr:`ordered` is there."""
        return self._sorted is None

    @property
    def ordered(self) -> np.ndarray:
        """All values in order."""
        if self._sorted is None:
            self._sorted = np.sort(self.values)
        return self._sorted

    def has_more_distinct_than(self, n: int) -> bool:
        """True if there certainly are more than ``n`` distinct values; False says nothing."""
        return self.by_cells and bool(np.count_nonzero(self._counts) > n)

    def at(self, ranks: np.ndarray) -> np.ndarray:
        """The values (K,) of the ranks (K,), ascending, 0 … n - 1."""
        if self._sorted is not None:
            return self._sorted[ranks]
        cells = np.searchsorted(self._before, ranks, side="right") - 1
        wanted = np.zeros(N_CELLS, dtype=bool)
        wanted[cells] = True
        if self._counts[wanted].sum() > MAX_SHARE * len(self.values):
            return self.ordered[ranks]
        self._open(wanted)
        return self._opened[ranks - self._before[cells] + self._first[cells]]

    def _open(self, wanted: np.ndarray) -> None:
        """Sort the values of the ``wanted`` cells (N_CELLS,)."""
        self._wanted = wanted
        rows = [
            start + np.flatnonzero(wanted[self._cells[start : start + BLOCK_ROWS]])
            for start in range(0, len(self._cells), BLOCK_ROWS)
        ]
        self._opened = np.sort(self.values[np.concatenate(rows)])
        counts = np.where(wanted, self._counts, 0)
        self._first = np.cumsum(counts) - counts  # of each cell, among the opened values

    def moments(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number, mean and variance (K + 1,) float64 of the values between ascending ``edges`` (K,).

        An edge belongs to the values below it. The edges are distinct ones of the values that :meth:`at` gave last.
        """
        counts, closed = np.where(self._wanted, 0, self._counts), ~self._wanted
        means = histogram(self._cells, self.values) / np.maximum(self._counts, 1)
        squares = histogram(self._cells, self.values, means)  # about each cell's own mean: nothing cancels
        # A closed cell holds no edge and belongs to one bin; the opened values are told apart one by one.
        bins = np.concatenate(
            [
                np.searchsorted(self._map(edges), np.flatnonzero(closed), side="left"),
                np.searchsorted(edges, self._opened, side="left"),
            ]
        )
        number = np.concatenate([counts[closed], np.ones(len(self._opened), np.int64)])
        mean = np.concatenate([means[closed], self._opened])
        inner = np.concatenate([squares[closed], np.zeros(len(self._opened))])
        n_bins = len(edges) + 1
        totals = np.bincount(bins, number, n_bins)
        centres = np.bincount(bins, number * mean, n_bins) / totals
        spread = np.bincount(bins, inner + number * np.square(mean - centres[bins]), n_bins) / totals
        return totals, centres, spread


def histogram(cells: np.ndarray, values: np.ndarray | None = None, means: np.ndarray | None = None) -> np.ndarray:
    """Number of values per cell (N_CELLS,), or their sum, or their summed squares about the cell's ``means``."""
    total = np.zeros(N_CELLS, dtype=np.int64 if values is None else np.float64)
    for start in range(0, len(cells), 1 << 18):  # a few times the cells: each count has N_CELLS numbers to add
        block = slice(start, start + (1 << 18))
        weights = None
        if values is not None:
            weights = values[block].astype(np.float64)
        if means is not None:
            weights -= means[cells[block]]
            np.square(weights, out=weights)
        total += np.bincount(cells[block], weights, N_CELLS)
    return total
