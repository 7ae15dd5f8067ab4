"""A uniform sample of fixed size that does not depend on who drew it: the rows with the smallest keys.

A row's key is a hash of its object and a seed (:func:`~astromodal.machine.random.keyed_words`), so a sample of the
whole is the sample of the samples of its parts, however they were divided and in whatever order they come: bottom-k
sampling (Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches"). :class:`~.reservoir.Reservoir` needs no
keys, but is for one stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_SLACK = 4  # room for a fraction 1/_SLACK beyond the capacity, so that rows are sorted out many at a time


class Sample:
    """Keeps the ``capacity`` rows of width ``n_dims`` that have the smallest keys; all while there are fewer.

    >>> one, two = Sample(2, 1), Sample(2, 1)
    >>> one.add(np.array([[1.0], [2.0]]), np.array([30, 10], np.uint64))
    >>> two.add(np.array([[3.0]]), np.array([20], np.uint64))
    >>> one.merge(two)
    >>> one.rows.ravel().tolist(), one.n_seen
    ([2.0, 3.0], 3)
    """

    def __init__(self, capacity: int, n_dims: int, dtype: type = np.float32) -> None:
        self.capacity, self.n_seen = int(capacity), 0
        self._rows: np.ndarray = np.empty((0, n_dims), dtype)
        self._keys = np.empty(0, np.uint64)
        self._n = 0
        self._below: np.uint64 | None = None  # a key that is not below it cannot be in the sample any more

    @property
    def rows(self) -> np.ndarray:
        """The sample so far, (n, n_dims), by key: the order is part of what does not depend on who drew it."""
        self._sort_out()
        order = np.argsort(self._keys[: self._n], kind="stable")
        return self._rows[order]

    def add(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Offer rows (m, n_dims) with their keys (m,) uint64, all different."""
        self.n_seen += len(rows)
        if self._below is not None:
            keep = keys < self._below
            rows, keys = rows[keep], keys[keep]
        room = self.capacity + self.capacity // _SLACK
        for start in range(0, len(rows), step := max(room - self.capacity, 1)):
            self._append(rows[start : start + step], keys[start : start + step], room + step)
            if self._n > room:
                self._sort_out()

    def merge(self, other: Sample) -> None:
        """Take in the sample of another part."""
        n_seen = self.n_seen + other.n_seen
        self.add(other._rows[: other._n], other._keys[: other._n])
        self.n_seen = n_seen

    def _append(self, rows: np.ndarray, keys: np.ndarray, limit: int) -> None:
        n = self._n + len(rows)
        if n > len(self._rows):  # doubling, so that copying stays linear
            size = min(max(n, 2 * len(self._rows)), max(limit, n))
            larger, larger_keys = np.empty((size, self._rows.shape[1]), self._rows.dtype), np.empty(size, np.uint64)
            larger[: self._n], larger_keys[: self._n] = self._rows[: self._n], self._keys[: self._n]
            self._rows, self._keys = larger, larger_keys
        self._rows[self._n : n], self._keys[self._n : n] = rows, keys
        self._n = n

    def _sort_out(self) -> None:
        """Keep no more than the capacity."""
        if self._n > self.capacity:
            chosen = np.argpartition(self._keys[: self._n], self.capacity - 1)[: self.capacity]
            self._rows[: self.capacity], self._keys[: self.capacity] = self._rows[chosen], self._keys[chosen]
            self._n = self.capacity
            self._below = self._keys[: self._n].max()

    def __getstate__(self) -> dict[str, Any]:
        """What travels between processes: no more than the sample."""
        self._sort_out()
        return self.__dict__ | {"_rows": self._rows[: self._n].copy(), "_keys": self._keys[: self._n].copy()}
