"""Bounds on what a file may grow to while it is read, so that a small one from a stranger cannot fill the memory.

This program writes everything uncompressed and as trees. What others write may be compressed, and may mention a value
twice; but no more bytes come out of a file than :func:`allowed_bytes`, and no more values are visited than it has
bytes: a list that holds one list twice, which holds another twice, is otherwise 2^40 values in 272 bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import ArtifactError

ROOM = 1 << 24  # bytes that any file may become
INFLATION = 20  # times its size that a larger one may
MAX_DEPTH = 64  # containers within each other
MAX_DIRECTORY = 1 << 24  # bytes of a zip's table of contents
SPARE_VALUES = 1000  # beyond four for each byte: what is mentioned twice is visited twice


def allowed_bytes(n_bytes: int) -> int:
    """Bytes that may come out of a file of ``n_bytes``."""
    return max(ROOM, INFLATION * n_bytes)


def walk(value: Any, n_bytes: int, children: Callable[[Any], Any]) -> Iterator[Any]:
    """Every value in ``value``, as often as it is reached.

    Args:
        n_bytes: of the file, which bound the number of values.
        children: what a value holds; empty for a leaf.

    Raises:
        ValueError: too many values, or too deep.
    """
    most = left = 4 * n_bytes + SPARE_VALUES
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{most} values"
            raise ValueError(f"more than {limit} in {n_bytes} bytes")
        yield item
        for child in children(item):
            stack.append((child, depth + 1))
            if len(stack) > left:
                raise ValueError(f"more than {most} values in {n_bytes} bytes")


def inside(value: Any) -> Any:
    """What builtin containers hold."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


class BoundedFile:
    """A file that never gives, and never makes room for, more than ``limit`` bytes."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._left = file, limit

    def _take(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("more bytes than the file could hold")
        return data

    def read(self, n: int) -> bytes:
        if not 0 <= n <= self._left:
            raise EOFError(f"{n} bytes where {self._left} are left")
        return self._take(self._file.read(n))

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))


_zipfile: Any = zipfile  # with what typeshed leaves out of it, and NumPy and torch rely on: the record at the end


@contextmanager
def open_archive(path: str | Path, *, stored: bool = False) -> Iterator[zipfile.ZipFile]:
    """A zip file of which no part is larger than it can be, stands in another one, or has another's name.

    Args:
        stored: refuse compressed parts altogether.

    Raises:
        zipfile.BadZipFile: it is none, or one of another form.
    """
    path = Path(path)
    with open(path, "rb") as file:
        end = _zipfile._EndRecData(file)
        if not end:
            raise zipfile.BadZipFile("not a zip file, or one that was cut off")
        directory, start, place = end[_zipfile._ECD_SIZE], end[_zipfile._ECD_OFFSET], end[_zipfile._ECD_LOCATION]
        if end[_zipfile._ECD_SIGNATURE] == _zipfile.stringEndArchive64:
            place -= _zipfile.sizeEndCentDir64 + _zipfile.sizeEndCentDir64Locator
        if directory > MAX_DIRECTORY or start + directory != place:
            raise zipfile.BadZipFile(f"a table of contents of {directory} bytes at {start}")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            _check_parts(archive, path.stat().st_size, start, stored)
            yield archive


def _check_parts(archive: zipfile.ZipFile, n_bytes: int, directory: int, stored: bool) -> None:
    """Parts end before the next one begins; names are different; together they are not larger than is allowed."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [info.header_offset for info in infos[1:]] + [directory]
    total, names = 0, set()
    for info, end in zip(infos, ends, strict=True):
        total += info.file_size
        # 30 bytes and the name stand before the data of each part
        if info.header_offset + 30 + len(info.filename.encode()) + info.compress_size > end:
            raise zipfile.BadZipFile(f"{info.filename} reaches into the next part")
        name = info.filename.lower() if stored else info.filename  # torch does not tell a from A
        if name in names:
            raise zipfile.BadZipFile(f"two parts called {info.filename}")
        names.add(name)
        packed = info.compress_type != zipfile.ZIP_STORED
        if (packed and stored) or (not packed and info.file_size != info.compress_size):
            raise zipfile.BadZipFile(f"{info.filename} is not stored as it is")
    if total > allowed_bytes(n_bytes):
        raise zipfile.BadZipFile(f"{total} bytes packed into {n_bytes}")


def check_shape(shape: tuple[int, ...], itemsize: int, n_bytes: int) -> None:
    """Refuse an array that is longer in a dimension than ``n_bytes``, which hold it: also an empty one.

    Raises:
        ValueError: it claims to be.
    """
    if any(n > n_bytes for n in shape) or (itemsize == 0 and shape and min(shape) > 0):
        raise ValueError(f"an array of {'x'.join(str(n)[:20] for n in shape)} in {n_bytes} bytes")


def check_file_size(path: str | Path, most: int, kind: str) -> None:
    """Refuse a file that is too large to be ``kind``, before it is read.

    Raises:
        ArtifactError: with both sizes.
    """
    size = Path(path).stat().st_size
    if size > most:
        raise ArtifactError(f"{kind} of at most {most} bytes", got=f"{size} bytes", where=path)
