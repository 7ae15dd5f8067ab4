"""Arrays that stay in their file and are read as they are indexed, with ``pread``.

A memory map of a file that is cut short, or whose disk or server fails, kills the process with SIGBUS at the next
touch; nothing can catch that. A read that comes back short is an error that names the file. The file is opened once,
so that what is read stays the same file when another one takes its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..errors import ArtifactError
from .atomic import read_error

_BLOCK = 1 << 22  # bytes read at once where rows are picked or columns are cut out
_GAP = 1 << 15  # bytes between two rows that cost less to read than a second call


class SharedFile:
    """An open file that is read at any place, by any number of arrays, threads and forked processes."""

    def __init__(self, path: Path, repair: str) -> None:
        self.path, self.repair = path, repair
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the last array
        self._handle = self.file.fileno()

    def read_into(self, room: memoryview, offset: int) -> None:
        """Fill ``room`` (bytes) with what stands at ``offset``.

        Raises:
            ArtifactError: the file ends before, or cannot be read.
        """
        try:
            n = os.preadv(self._handle, [room], offset)
            while n < len(room):
                more = os.preadv(self._handle, [room[n:]], offset + n)
                if not more:
                    size = os.fstat(self._handle).st_size
                    raise ArtifactError(
                        f"{offset + len(room)} bytes",
                        got=f"a file cut to {size} while it was read",
                        where=self.path,
                        repair=self.repair,
                    )
                n += more
        except OSError as error:
            if isinstance(error, ArtifactError):
                raise
            raise read_error(error, self.path) from error

    def read_pieces(self, room: memoryview, at: Sequence[int], places: Sequence[int], sizes: Sequence[int]) -> None:
        """Fill ``sizes[k]`` bytes of ``room`` from ``at[k]`` on with what stands at ``places[k]``; k by k.

        A microsecond each: the call to the system, and as little as possible around it.
        """
        handle, read = self._handle, os.preadv
        for row, place, n in zip(at, places, sizes, strict=False):
            piece = room[row : row + n]
            try:
                whole = read(handle, [piece], place) == n
            except OSError:
                whole = False
            if not whole:
                self.read_into(piece, place)  # again, for the rest or for the error


class FileArray(NDArrayOperatorsMixin):
    """A read-only array in a file. Indexing reads; so does any other use as an array, of the whole of it.

    The rows that were read last are kept: ``array[a:b, 0]`` and then ``array[a:b, 1]`` read once.

    Args:
        shape: ``(n, …)``; rows lie one after the other.
    """

    def __init__(self, file: SharedFile, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.file, self.offset, self.dtype, self.shape = file, offset, dtype, shape
        self.row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._kept: tuple[int, int, np.ndarray] = (0, 0, np.empty((0, *shape[1:]), dtype))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"FileArray({self.file.path}, {self.dtype}, {self.shape})"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} belongs to this process: open the file again in the other one")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # NumPy's protocols, which it asks every object for
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._rows(0, len(self))
        return whole.astype(self.dtype if dtype is None else dtype, copy=bool(copy))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(x) if isinstance(x, FileArray) else x for x in inputs), **keywords)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis or first is None:
            return np.asarray(self)[key]
        if isinstance(first, slice):
            return self._cut(first, tuple(rest))
        if isinstance(first, int | np.integer):
            row = range(len(self))[first]
            return self._rows(row, row + 1)[(0, *rest)]
        return self._pick(np.asarray(first), tuple(rest))

    def _cut(self, rows: slice, rest: tuple) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            return self._pick(np.arange(start, stop, step), rest)
        stop = max(stop, start)
        if not rest:
            return self._rows(start, stop)
        step = max(_BLOCK // max(self.row_bytes, 1), 1)
        if stop - start <= step:
            return self._rows(start, stop)[(slice(None), *rest)]
        return np.concatenate(
            [self._rows(at, min(at + step, stop))[(slice(None), *rest)] for at in range(start, stop, step)]
        )

    def _pick(self, rows: np.ndarray, rest: tuple) -> np.ndarray:
        """Some rows ``(m,)`` (or of any shape), neighbouring ones with one read."""
        if rows.dtype == bool:
            if rows.ndim > 1:
                return np.asarray(self)[(rows, *rest)]
            rows = np.flatnonzero(rows)
        shape, rows = rows.shape, rows.reshape(-1).astype(np.int64)
        if any(isinstance(part, np.ndarray | list) for part in rest):  # indices that go together with the rows
            return np.asarray(self)[(rows.reshape(shape), *rest)]
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"row {rows.max()} of {len(self)}")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        places = ordered * self.row_bytes
        ends = np.flatnonzero((np.diff(places) > _GAP) | (np.diff(places // _BLOCK) > 0)) + 1
        for part in np.split(np.arange(len(ordered)), ends) if len(ordered) else ():
            first, last = int(ordered[part[0]]), int(ordered[part[-1]])
            out[order[part]] = self._rows(first, last + 1)[ordered[part] - first]
        return out.reshape(*shape, *self.shape[1:])[(*[slice(None)] * len(shape), *rest)]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Consecutive rows, read-only."""
        first, last, kept = self._kept
        if not (first <= start and stop <= last):
            kept = np.empty((stop - start, *self.shape[1:]), self.dtype)
            if kept.nbytes:
                room = kept.reshape(-1).view(np.uint8).data
                self.file.read_into(room, self.offset + start * self.row_bytes)
            kept.flags.writeable = False
            first = start
            self._kept = (start, stop, kept) if kept.nbytes <= _BLOCK else self._kept
        return kept[start - first : stop - first]

    def ragged(self, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """Pieces of a flat array, one under the other and padded with 0 to the right, ``(B, width)``.

        Args:
            starts, lengths: ``(B,)``, in elements; no length above ``width``.
        """
        out = np.zeros((len(starts), width), self.dtype)
        room, size = out.reshape(-1).view(np.uint8).data, self.dtype.itemsize
        at = range(0, len(out) * width * size, width * size) if width else ()
        places, sizes = (starts * size + self.offset).tolist(), (lengths * size).tolist()
        self.file.read_pieces(room, at, places, sizes)
        return out
