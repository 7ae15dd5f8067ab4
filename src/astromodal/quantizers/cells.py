"""A monotone map of float32 numbers to 65,536 cells: what makes quantiles and bins of many values fast and exact.

Values are put into cells without sorting or searching; as the map is monotone, rounding included, only the few cells
that hold a cut between bins need a closer look. Two maps, of which the one that tells the cuts apart better is taken:
*linear* between two bounds, and *binary*, by the leading bits of the number, which is nearly logarithmic.

Shape legend: n values.
"""

from __future__ import annotations

import numpy as np

N_CELLS = 1 << 16
BLOCK_ROWS = 1 << 14  # values at a time: intermediate arrays stay in the cache


class CellMap:
    """Cells of float32 values between ``low`` and ``high``; values beyond share the end cells."""

    def __init__(self, low: np.float32, high: np.float32, linear: bool) -> None:
        self.linear = linear
        if linear:
            self._low = np.float32(low)
            self._scale = np.float32(N_CELLS / (np.float64(high) - np.float64(low)))
        else:
            first, last = (int(k) for k in _keys(np.array([low, high], dtype=np.float32)))
            self._first = np.uint32(first)
            self._shift = np.uint32(max((last - first).bit_length() - 16, 0))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Cells (n,) uint16 of ``values`` (n,) float32, finite; never falling where values rise."""
        if self.linear:
            with np.errstate(over="ignore"):  # far outliers: infinity is clipped like them
                cells = (values - self._low) * self._scale
            np.clip(cells, 0, N_CELLS - 1, out=cells)
            return cells.astype(np.int32).astype(np.uint16)
        keys = _keys(values)
        np.maximum(keys, self._first, out=keys)
        keys -= self._first
        keys >>= self._shift
        return np.minimum(keys, np.uint32(N_CELLS - 1), out=keys).astype(np.uint16)

    def all(self, values: np.ndarray) -> np.ndarray:
        """The same, block by block, for many values."""
        cells = np.empty(len(values), dtype=np.uint16)
        for start in range(0, len(values), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            cells[block] = self(values[block])
        return cells


def best_map(cuts: np.ndarray) -> CellMap | None:
    """The map that puts the most of the ascending ``cuts`` into cells of their own; None if there is no span."""
    low, high = cuts[0], cuts[-1]
    # Beyond these spans float32 steps of a linear map overflow or vanish.
    span = float(high) - float(low)
    maps = [CellMap(low, high, True)] if 1e-20 < span < 1e20 else []
    maps += [CellMap(low, high, False)] if high > low else []
    return max(maps, key=lambda cells: len(np.unique(cells(cuts))), default=None)


def _keys(values: np.ndarray) -> np.ndarray:
    """uint32 keys (n,) in the order of the values; -0.0 and 0.0 have the same."""
    bits = (values + np.float32(0)).view(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).view(np.uint32) ^ np.uint32(0x80000000)
