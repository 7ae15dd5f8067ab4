"""A member of several files as one array: the shards of packed sequences, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..files.io import Array

OFFSETS, FLAT = "offsets", ("tokens", "types", "sigma")


def joined(shards: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Members of one split from those of its shards; of a single one, they themselves."""
    if len(shards) == 1:
        return dict(shards[0])
    rows = np.cumsum([0, *(len(shard[OFFSETS]) - 1 for shard in shards)])
    tokens = np.cumsum([0, *(len(shard["tokens"]) for shard in shards)])
    made: dict[str, Any] = {}
    for name in shards[0]:
        parts = [shard[name] for shard in shards]
        made[name] = Joined(parts, tokens if name in FLAT else rows, tokens if name == OFFSETS else None)
    return made


class Joined:
    """A read-only array in parts; indexed by numbers, slices and arrays of row numbers, and each part reads its own.

    Args:
        starts: ``(k + 1,)`` first row of each part, and the end.
        added: ``(k + 1,)`` what is added to each part: for offsets, of which each part has one more than it has rows.
    """

    def __init__(self, parts: Sequence[Array], starts: np.ndarray, added: np.ndarray | None = None) -> None:
        self.parts, self.starts, self.added = list(parts), starts, added
        self.dtype: np.dtype = self.parts[0].dtype
        self.shape = (int(starts[-1]) + (added is not None), *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def _of(self, rows: np.ndarray) -> np.ndarray:
        """The part of each row."""
        return np.minimum(np.searchsorted(self.starts, rows, side="right"), len(self.parts)) - 1

    def _shares(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Part, which of the rows are its, and their numbers within it."""
        part = self._of(rows)
        for k in np.unique(part).tolist():
            mine = np.flatnonzero(part == k)
            yield k, mine, rows[mine] - self.starts[k]

    def _add(self, values: np.ndarray, k: int) -> np.ndarray:
        return values if self.added is None else values + self.added[k]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            if start >= stop:
                return np.empty((0, *self.shape[1:]), self.dtype)
            first, last = self._of(np.array([start, stop - 1])).tolist()
            pieces = []
            for k in range(first, last + 1):
                begin = self.starts[k]
                end = stop if k == last else self.starts[k + 1]
                pieces.append(self._add(np.asarray(self.parts[k][int(max(start - begin, 0)) : int(end - begin)]), k))
            return np.concatenate(pieces)
        if isinstance(key, int | np.integer):
            return self[np.array([range(len(self))[int(key)]])][0]
        rows = np.asarray(key)
        flat = np.flatnonzero(rows) if rows.dtype == bool else rows.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if len(flat) and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"row {flat.max()} of {len(self)}")
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for k, mine, local in self._shares(flat):
            out[mine] = self._add(np.asarray(self.parts[k][local]), k)
        return out if rows.dtype == bool else out.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype or self.dtype)

    def ragged(self, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """As that of :class:`~astromodal.files.file_array.FileArray`; no piece lies in two parts."""
        out = np.zeros((len(starts), width), self.dtype)
        for k, mine, local in self._shares(np.asarray(starts)):
            part: Any = self.parts[k]
            if len(part):
                out[mine] = self._add(part.ragged(local, lengths[mine], width), k)
        return out
