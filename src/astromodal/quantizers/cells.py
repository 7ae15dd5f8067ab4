"""A monotone map of floating-point numbers to 65,536 cells: it makes quantiles and bins of many values fast and exact.

Values are put into cells without sorting or searching; as the map is monotone, rounding included, only the few cells
that hold a cut between bins need a closer look. Two maps, of which the one that tells the cuts apart better is taken:
*linear* between two bounds, and *binary*, by the leading bits of the number, which is nearly logarithmic. A map is
made for float32 or for float64, as its bounds are.

Shape legend: n values.
"""

from __future__ import annotations

import numpy as np

N_CELLS = 1 << 16
BLOCK_ROWS = 1 << 14  # values at a time: intermediate arrays stay in the cache


class CellMap:
    """Cells of values between ``low`` and ``high``, of their type; values beyond share the end cells."""

    def __init__(self, low: np.floating, high: np.floating, linear: bool) -> None:
        self.linear = linear
        if linear:
            self._low = low
            self._scale = low.dtype.type(N_CELLS / (np.float64(high) - np.float64(low)))
        else:
            keys = _keys(np.array([low, high]))
            first, last = (int(k) for k in keys)
            self._first = keys.dtype.type(first)
            self._shift = keys.dtype.type(max((last - first).bit_length() - 16, 0))
            self._last = keys.dtype.type(N_CELLS - 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Cells (n,) uint16 of ``values`` (n,), finite; never falling where values rise."""
        if self.linear:
            with np.errstate(over="ignore"):  # far outliers: infinity is clipped like them
                cells = (values - self._low) * self._scale
            np.clip(cells, 0, N_CELLS - 1, out=cells)
            return cells.astype(np.int32).astype(np.uint16)
        keys = _keys(values)
        np.maximum(keys, self._first, out=keys)
        keys -= self._first
        keys >>= self._shift
        return np.minimum(keys, self._last, out=keys).astype(np.uint16)

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
    # Beyond these spans the steps of a linear map overflow or vanish.
    with np.errstate(over="ignore"):
        span, reach = np.float64(high) - np.float64(low), 20 if low.dtype == np.float32 else 290
    maps = [CellMap(low, high, True)] if 10.0**-reach < span < 10.0**reach else []
    maps += [CellMap(low, high, False)] if high > low else []
    return max(maps, key=lambda cells: len(np.unique(cells(cuts))), default=None)


def _keys(values: np.ndarray) -> np.ndarray:
    """Unsigned keys (n,), as wide as the values, in their order; -0.0 and 0.0 have the same."""
    signed, unsigned = (np.int32, np.uint32) if values.dtype == np.float32 else (np.int64, np.uint64)
    width, largest = 8 * values.dtype.itemsize - 1, np.iinfo(signed).max
    bits = (values + values.dtype.type(0)).view(signed)
    return (bits ^ ((bits >> signed(width)) & signed(largest))).view(unsigned) ^ unsigned(1 << width)
