"""Ids and positions of all objects of a survey in scratch files: what is compared across fields, in bounded memory.

The files lie where Python puts temporary ones (``TMPDIR``), have no name, and are gone with the process; 24 bytes per
object, and as much again while they are dealt out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files.atomic import read_error
from ..files.ids import hash_ids
from .columns import numbers
from .datacube import LIGHT_ROWS, Datacube

PART_ROWS = 1 << 16  # records that are looked at together
_BLOCK = 1 << 12  # records that are changed together


class Records:
    """Records of one type in a file without a name; read and written at any place.

    Args:
        path: a file of records instead, which is only read.
    """

    def __init__(self, dtype: np.dtype, path: Path | None = None) -> None:
        self.dtype, self._n = dtype, 0
        if path is None:
            self._file = tempfile.TemporaryFile(prefix="astromodal-", buffering=0)  # noqa: SIM115 - closed with this
        else:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this
            self._n = os.fstat(self._file.fileno()).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self._n

    def append(self, records: np.ndarray) -> None:
        self.write(self._n, records)

    def write(self, at: int, records: np.ndarray) -> None:
        """Put records at number ``at`` and behind.

        Raises:
            DataError: the disk is full.
        """
        room = np.ascontiguousarray(records, self.dtype).view(np.uint8).data if len(records) else memoryview(b"")
        done, place = 0, at * self.dtype.itemsize
        try:
            while done < len(room):
                done += os.pwrite(self._file.fileno(), room[done:], place + done)
        except OSError as error:
            raise DataError(
                f"room for {len(room)} bytes of scratch files",
                got=str(error.strerror),
                where=tempfile.gettempdir(),
                repair="set TMPDIR to a folder with 60 bytes per object of the survey",
            ) from error
        self._n = max(self._n, at + len(records))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Records ``start`` to ``stop``, ``(stop - start,)``."""
        found = np.empty(max(stop - start, 0), self.dtype)
        room, done = found.view(np.uint8).data, 0
        try:
            while done < len(room):
                n = os.preadv(self._file.fileno(), [room[done:]], start * self.dtype.itemsize + done)
                if not n:
                    raise DataError(f"{len(room)} bytes", got=done, where="a scratch file", repair="run it again")
                done += n
        except OSError as error:
            raise read_error(error, tempfile.gettempdir()) from error
        return found

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first record and the records, some at a time."""
        for start in range(0, self._n, PART_ROWS):
            yield start, self.read(start, min(start + PART_ROWS, self._n))

    def change(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Set the records ``rows`` (m,) to ``values`` (m,)."""
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        ends = np.flatnonzero(np.diff(rows // _BLOCK)) + 1
        for part in np.split(np.arange(len(rows)), ends) if len(rows) else ():
            first, last = int(rows[part[0]]), int(rows[part[-1]])
            block = self.read(first, last + 1)
            block[rows[part] - first] = values[part]
            self.write(first, block)


class Dealt:
    """Records dealt out by a bin of theirs, so that neighbouring bins lie together: a counting sort on the disk.

    Args:
        counts: ``(b,)`` records in each bin, known before.
    """

    def __init__(self, dtype: np.dtype, counts: np.ndarray) -> None:
        filled = np.flatnonzero(counts)
        before = (np.cumsum(counts) - counts)[filled]
        _, first, part = np.unique(before // PART_ROWS, return_index=True, return_inverse=True)
        self._part_of_bin = np.zeros(len(counts), np.int64)  # of an empty bin: any
        self._part_of_bin[filled] = part
        self._starts = np.append(before[first], counts.sum())
        self._next = self._starts[:-1].copy()
        self.last_bin = filled[np.append(first[1:], len(filled)) - 1] if len(filled) else filled  # of each part
        self._records = Records(dtype)

    def put(self, bins: np.ndarray, records: np.ndarray) -> None:
        """Add records ``(m,)`` with their bins ``(m,)``."""
        part = self._part_of_bin[bins]
        order = np.argsort(part, kind="stable")
        ends = np.flatnonzero(np.diff(part[order])) + 1
        for piece in np.split(order, ends) if len(order) else ():
            k = part[piece[0]]
            self._records.write(int(self._next[k]), records[piece])
            self._next[k] += len(piece)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """Part after part, of about ``PART_ROWS`` records, or of one bin that has more."""
        for start, stop in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            yield self._records.read(start, stop)


KEY = np.dtype([("key", "<u8"), ("ra", "<f8"), ("dec", "<f8")])


class SurveyKeys:
    """Hash of the id and position (degrees, NaN: none) of every object, read once, in the order of the cubes.

    Raises:
        DataError: a row has no id, or there is no room for the scratch files.
    """

    def __init__(self, cubes: Sequence[Datacube]) -> None:
        self.cubes = list(cubes)
        self.records = Records(KEY)
        for cube in self.cubes:
            ra, dec = cube.data.ra_column, cube.data.dec_column
            where = f"{cube.source.where}, ra and dec"
            columns = (("ra", ra), ("dec", dec)) if ra and dec else ()
            names = [cube.data.id_column, *(column for _, column in columns)]
            for batch in cube.batches(list(dict.fromkeys(names)), rows=LIGHT_ROWS):
                found = np.zeros(batch.num_rows, KEY)
                found["ra"] = found["dec"] = np.nan
                found["key"] = hash_ids(cube.batch_ids(batch))
                for name, column in columns:
                    found[name] = numbers(batch.column(column), where)
                self.records.append(found)

    def __len__(self) -> int:
        return len(self.records)

    def repeated(self, at_most: int = 1 << 16) -> np.ndarray:
        """Hashes that stand more than once, ``(m,)`` uint64; not more than ``at_most``, or a few more."""
        bits = np.uint64(max(int(len(self) // PART_ROWS).bit_length(), 1))
        shift = np.uint64(64) - bits
        counts = np.zeros(1 << int(bits), np.int64)
        for _, records in self.records.chunks():
            counts += np.bincount((records["key"] >> shift).astype(np.int64), minlength=len(counts))
        dealt = Dealt(np.dtype("<u8"), counts)
        for _, records in self.records.chunks():
            dealt.put((records["key"] >> shift).astype(np.int64), records["key"])
        found: list[np.ndarray] = []
        for keys in dealt:
            keys.sort()
            found.append(np.unique(keys[1:][keys[1:] == keys[:-1]]))
            if sum(map(len, found)) >= at_most:
                break
        return np.concatenate(found) if found else np.empty(0, np.uint64)


def check_unique_ids(cubes: Sequence[Datacube], keys: SurveyKeys | None = None) -> None:
    """Refuse an id that stands in more than one row of the survey. Memory does not grow with the survey.

    Args:
        keys: of these cubes, where they were read before.

    Raises:
        DataError: naming the id and its first two places.
    """
    suspects = (keys or SurveyKeys(cubes)).repeated()
    if not len(suspects):
        return
    seen: dict[str, str] = {}  # the few ids with equal hashes, compared as text
    for cube in cubes:
        for batch in cube.batches([cube.data.id_column], rows=LIGHT_ROWS):
            ids = cube.batch_ids(batch)
            for i in np.flatnonzero(np.isin(hash_ids(ids), suspects)):
                place = f"{cube.path}, row {batch.rows[i]}"
                if ids[i] in seen:
                    raise DataError(
                        "ids that are unique over all datacubes",
                        got=f"{ids[i]} twice",
                        where=f"{seen[ids[i]]}; {place}",
                        repair="remove one of the rows or rename it",
                    )
                seen[str(ids[i])] = place
