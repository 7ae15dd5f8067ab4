"""A uniform sample of fixed size from a stream of unknown length, whole batches at a time.

Vitter's algorithm R (ACM TOMS 11, 1985): row ``t`` (counted from 0) replaces slot ``floor(u (t + 1))`` if there is such
a slot. Each batch is drawn and written at once; of rows that hit the same slot the last one wins, as it does one by
one. The sample depends on the seed and on the order of the rows, not on how they came in batches.
"""

from __future__ import annotations

import numpy as np


class Reservoir:
    """Keeps at most ``capacity`` rows of width ``n_dims``, as ``dtype``; all of them while there are fewer.

    Memory grows with the rows kept, up to the capacity.

    >>> reservoir = Reservoir(capacity=3, n_dims=1, seed=0)
    >>> reservoir.add(np.array([[1.0], [2.0]]))
    >>> reservoir.rows.ravel().tolist(), reservoir.n_seen
    ([1.0, 2.0], 2)
    """

    def __init__(self, capacity: int, n_dims: int, seed: int | list[int], dtype: type = np.float32) -> None:
        self.capacity, self.n_seen = int(capacity), 0
        self._rows: np.ndarray = np.empty((0, n_dims), dtype)
        self._n = 0
        self._rng = np.random.default_rng(seed)

    @property
    def rows(self) -> np.ndarray:
        """The sample so far, (n, n_dims)."""
        return self._rows[: self._n]

    def add(self, rows: np.ndarray) -> None:
        """Offer a batch (m, n_dims)."""
        n_free = min(self.capacity - self._n, len(rows))
        if n_free:
            self._grow(self._n + n_free)
            self._rows[self._n : self._n + n_free] = rows[:n_free]
            self._n += n_free
            self.n_seen += n_free
            rows = rows[n_free:]
        if len(rows):
            ranks = np.arange(self.n_seen, self.n_seen + len(rows), dtype=np.float64)
            slots = (self._rng.random(len(rows)) * (ranks + 1)).astype(np.int64)
            kept = np.flatnonzero(slots < self.capacity)
            self._rows[slots[kept]] = rows[kept]
            self.n_seen += len(rows)

    def _grow(self, n: int) -> None:
        """Room for ``n`` rows, doubling so that copying stays linear."""
        if n > len(self._rows):
            shape = min(max(n, 2 * len(self._rows)), self.capacity), self._rows.shape[1]
            larger = np.empty(shape, self._rows.dtype)
            larger[: self._n] = self.rows
            self._rows = larger
