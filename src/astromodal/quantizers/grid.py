"""Nearest entries in the plane by a table: for each cell of a grid, the entries that can be nearest anywhere in it.

Most cells lie inside of one entry's Voronoi cell, so most rows need one look into a table. In the others, distances to
the few candidates decide, in float64. Grid lines follow the entries: where they are dense, cells are small.

An entry is a candidate of a cell if no other one is nearer to every point of it: with half diagonal r and centre m,
``|m - e| <= |m - nearest| + 2 r``. Cells with many candidates, and rows outside of the grid, are left to a k-d tree.

Shape legend: n rows, C codes, G cells along an axis.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

SIDE = 256  # cells along an axis
FINE = 1 << 13  # uniform steps along an axis; a cell is a run of them
MAX_CANDIDATES = 6
MANY = 255  # instead of the number of candidates: too many, or outside of the grid
SLACK = 0.02  # of a fine step: rounding in float32 may put a value into the neighbouring step
BLOCK_ROWS = 1 << 15


class CellGrid:
    """Candidates of every cell, for ``entries`` (C, 2) and the k-d tree over them."""

    def __init__(self, entries: np.ndarray, tree: cKDTree) -> None:
        self._entries = np.ascontiguousarray(entries.T, dtype=np.float64)  # x and y apart
        axes = [_Axis(entries[:, d]) for d in range(2)]
        self._axes = axes
        centres = np.stack(np.meshgrid(axes[0].centres, axes[1].centres, indexing="ij"), -1).reshape(-1, 2)
        reach = np.hypot(axes[0].halves[:, None], axes[1].halves[None]).ravel()
        k = min(MAX_CANDIDATES + 1, len(entries))
        distances, codes = (a.reshape(len(centres), k) for a in tree.query(centres, k=k, workers=1))
        possible = distances <= distances[:, :1] * (1 + 1e-9) + 2 * reach[:, None]
        counts = possible.sum(1)
        codes = np.sort(np.where(possible, codes, len(entries)), axis=1)[:, :MAX_CANDIDATES]  # lowest index first
        side = SIDE + 1  # the last row and column stand for everything outside
        grid = np.full((side, side), MANY, np.uint8)
        grid[:SIDE, :SIDE] = np.where(counts > MAX_CANDIDATES, MANY, counts).reshape(SIDE, SIDE)
        of_cell = np.zeros((MAX_CANDIDATES, side, side), np.int32)
        of_cell[: codes.shape[1], :SIDE, :SIDE] = codes.T.reshape(-1, SIDE, SIDE)
        self._counts, self._codes = grid.ravel(), of_cell.reshape(MAX_CANDIDATES, -1)

    @staticmethod
    def suits(entries: np.ndarray) -> bool:
        """Whether the entries (C, D) lie in a plane, and not all on a line along an axis."""
        spans = np.ptp(entries, axis=0)
        return entries.shape[1] == 2 and bool(np.isfinite(spans).all() and (spans > 1e-20).all())

    def codes(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n,) int64 of the rows of ``X`` (n, 2) float32, and the rows (m,) that the grid leaves open."""
        codes, left_open = np.empty(len(X), dtype=np.int64), []
        for start in range(0, len(X), BLOCK_ROWS):
            x, y = (np.ascontiguousarray(X[start : start + BLOCK_ROWS, d]) for d in range(2))
            cells = self._axes[0].cells(x) * (SIDE + 1) + self._axes[1].cells(y)
            counts, found = self._counts[cells], self._codes[0][cells].astype(np.int64)
            several = np.flatnonzero(counts > 1)
            open_rows = several[counts[several] == MANY]
            several = several[counts[several] != MANY]
            found[several] = self._decide(x[several], y[several], cells[several], counts[several])
            codes[start : start + BLOCK_ROWS] = found
            left_open.append(start + open_rows)
        return codes, np.concatenate(left_open) if left_open else np.zeros(0, np.int64)

    def _decide(self, x: np.ndarray, y: np.ndarray, cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Codes (n,) of rows with several candidates; the lowest index wins a tie."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        best = self._codes[0][cells]
        least = self._squared(x, y, best)
        rows: np.ndarray | slice = slice(None)
        for candidate in range(1, MAX_CANDIDATES):
            if candidate > 1:
                rows = np.flatnonzero(counts > candidate)
                if not len(rows):
                    break
            codes = self._codes[candidate][cells[rows]]
            distances = self._squared(x[rows], y[rows], codes)
            nearer = distances < least[rows]
            least[rows] = np.where(nearer, distances, least[rows])
            best[rows] = np.where(nearer, codes, best[rows])
        return best

    def _squared(self, x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
        dx, dy = x - self._entries[0][codes], y - self._entries[1][codes]
        return dx * dx + dy * dy


class _Axis:
    """One axis: cells as runs of fine uniform steps, with about as many entries between all grid lines."""

    def __init__(self, values: np.ndarray) -> None:
        values = np.sort(values.astype(np.float64))
        self.low = np.float32(values[0])
        step = (values[-1] - values[0]) / FINE
        self.per_step = np.float32(1.0 / step)
        cuts = np.quantile(values, np.arange(1, SIDE) / SIDE)
        first = np.unique(np.concatenate([[0], np.floor((cuts - values[0]) / step).astype(np.int64)]))
        first = first[first < FINE]
        starts = np.concatenate([first, np.full(SIDE - len(first), FINE)])  # fewer cells where entries coincide
        ends = np.append(starts[1:], FINE)
        table = np.repeat(np.arange(SIDE), ends - starts)
        self._table = np.concatenate([[SIDE], table, [SIDE]]).astype(np.int32)  # SIDE: outside
        self.centres = values[0] + step * 0.5 * (starts + ends)
        self.halves = step * (0.5 * (ends - starts) + SLACK)

    def cells(self, x: np.ndarray) -> np.ndarray:
        """Cell (n,) of each value, ``SIDE`` outside."""
        with np.errstate(over="ignore"):
            steps = (x - self.low) * self.per_step
        steps += np.float32(1.0)
        np.clip(steps, 0.0, FINE + 1, out=steps)
        return self._table[steps.astype(np.int32)]
