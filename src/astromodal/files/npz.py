"""``.npz`` files whose members can be read in parts, where they lie.

``np.load`` reads whole members. Members written here are stored without compression, and the ``.npy`` header of each
is padded so that its data begins at a multiple of 64 bytes of the *file* (a cache line, and what BLAS likes);
:func:`open_npz` finds them through the zip's local headers. The files stay ordinary: ``np.load`` reads them. Dates are
fixed, so equal arrays make equal files. Format: numpy NEP 1 and PKWARE's APPNOTE 4.3.7.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import numpy as np
from numpy.lib import format as npy

from ..errors import ArtifactError, ArtifactMissingError, UnsafeFileError
from .atomic import atomic_path, writing
from .bounded import check_shape, open_archive
from .file_array import FileArray, SharedFile

Array = np.ndarray | FileArray
ALIGNMENT = 64
_CHUNK = 1 << 24  # bytes
_LOCAL_HEADER = 30  # bytes before the name
_END_RECORD = 22  # bytes, without a comment
_ZIP64_EXTRA = 20  # bytes that force_zip64 puts into every local header


def _npy_header(dtype: np.dtype, shape: tuple[int, ...], fortran: bool, start: int) -> bytes:
    """``.npy`` header, padded with blanks so that what follows it begins at a multiple of 64 after ``start``."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(
        buffer, {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": tuple(map(int, shape))}
    )
    text = buffer.getvalue()[10:].rstrip()
    length = len(text) + 1
    length += -(start + 10 + length) % ALIGNMENT
    return npy.magic(1, 0) + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


def _file_of(archive: zipfile.ZipFile) -> IO[bytes]:
    if archive.fp is None:
        raise ValueError("an archive that is closed")
    return archive.fp


def _write_member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, data: Iterable
) -> None:
    """Append one member whose bytes arrive in pieces."""
    info = zipfile.ZipInfo(f"{name}.npy")
    info.external_attr = 0o644 << 16
    start = _file_of(archive).tell() + _LOCAL_HEADER + len(info.filename.encode()) + _ZIP64_EXTRA
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(_npy_header(dtype, shape, fortran, start))
        for piece in data:
            member.write(piece)


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """Bytes of an array in memory order."""
    if array.size:
        flat = array.reshape(-1, order="A").view(np.uint8)
        for first in range(0, flat.nbytes, _CHUNK):
            yield flat[first : first + _CHUNK].data


def _checked(name: str, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.kind == "V":
        raise ArtifactError(
            "an array of numbers or fixed-width text", got=f"dtype {array.dtype}", where=f"member {name}"
        )
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    return array


def _add_array(archive: zipfile.ZipFile, name: str, value: object) -> None:
    array = _checked(name, value)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    _write_member(archive, name, array.dtype, array.shape, fortran, _pieces(array))


def save_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` uncompressed and atomically; every member's data begins at a multiple of 64 bytes.

    Raises:
        ArtifactError: an array holds objects, or the file cannot be written (the old one is untouched).
    """
    checked = {name: _checked(name, value) for name, value in arrays.items()}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in checked.items():
            _add_array(archive, name, array)


class NpzWriter:
    """Writes an ``.npz`` whose members do not fit into memory: rows are appended, ``close`` puts the file together.

    Appended rows wait in temporary files beside the target; nothing is seen under ``path`` before ``close``
    (or the end of a ``with`` block without an error).

    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with NpzWriter(os.path.join(folder, "a.npz")) as writer:
    ...         writer.append("tokens", np.zeros((2, 3), np.uint16))
    ...         writer.append("tokens", np.ones((1, 3), np.uint16))
    ...     open_npz(writer.path)["tokens"].shape
    (3, 3)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._arrays: dict[str, np.ndarray] = {}
        self._spools: dict[str, _Spool] = {}
        self._closed = False

    def append(self, name: str, chunk: np.ndarray) -> None:
        """Add rows to member ``name``; the first chunk fixes its dtype and the shape of a row.

        Raises:
            ArtifactError: dtype or row shape differ from the first chunk's, or there is no room on the disk.
        """
        chunk = np.asarray(chunk)
        if name in self._arrays or self._closed:
            raise ArtifactError("a member that rows can be appended to", got=name, where=self.path)
        if chunk.ndim == 0:
            raise ArtifactError("rows", got="a single value", where=f"{self.path}, member {name}", repair="use set()")
        chunk = np.ascontiguousarray(_checked(name, chunk))
        if name not in self._spools:
            spool_path = self.path.parent / f".{self.path.stem}.{self._token}.{len(self._spools)}.raw"
            self._spools[name] = _Spool(spool_path, chunk.dtype, chunk.shape[1:])
        spool = self._spools[name]
        if chunk.shape[1:] != spool.row_shape or chunk.dtype != spool.dtype:
            raise ArtifactError(
                f"rows of {spool.dtype} {spool.row_shape}",
                got=f"{chunk.dtype} {chunk.shape[1:]}",
                where=f"{self.path}, member {name}",
            )
        with writing(self.path):
            spool.write(chunk)

    def set(self, name: str, array: np.ndarray) -> None:
        """Put a whole array; it is kept in memory until ``close``."""
        if name in self._spools or self._closed:
            raise ArtifactError("a member without appended rows", got=name, where=self.path)
        self._arrays[name] = _checked(name, array)

    def close(self) -> None:
        """Put the file together, atomically, and remove the temporary files."""
        if self._closed:
            return
        try:
            with writing(self.path):
                for spool in self._spools.values():
                    spool.file.close()
            with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for name, array in self._arrays.items():
                    _add_array(archive, name, array)
                for name, spool in self._spools.items():
                    shape = (spool.n_rows, *spool.row_shape)
                    _write_member(archive, name, spool.dtype, shape, False, spool.pieces())
                    spool.remove()  # its room is needed no more
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove the temporary files; the target stays as it was."""
        self._closed = True
        for spool in self._spools.values():
            spool.remove()

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Spool:
    """Rows of one member, on the disk."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.row_shape, self.n_rows = path, dtype, row_shape, 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "wb")  # noqa: SIM115 - closed by the writer

    def write(self, chunk: np.ndarray) -> None:
        for piece in _pieces(chunk):
            self.file.write(piece)
        self.n_rows += len(chunk)

    def pieces(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Every way in which an ``.npz`` can be bad, as one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactMissingError("an .npz file", got="nothing", where=path) from error
    except ArtifactError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        KeyError,
        struct.error,
        SyntaxError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        MemoryError,
        OSError,  # a place to seek to that no file has; a disk or a server that fails
        tokenize.TokenError,  # of a damaged .npy header, which NumPy parses as Python
    ) as error:
        raise ArtifactError(
            "a whole .npz file", got=f"{type(error).__name__}: {error}", where=path, repair="make the file again"
        ) from error


def _read_npy_header(
    file: IO[bytes] | io.FileIO | zipfile.ZipExtFile, where: str
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype at the position of ``file``; objects are refused before any data is read."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f".npy version {version}")
    shape, fortran, dtype = read(file)
    if dtype.hasobject or dtype.kind == "V":
        raise UnsafeFileError(
            "plain numbers or text", got=f"dtype {dtype}", where=where, repair="write it as plain arrays"
        )
    if any(n < 0 for n in shape):
        raise ValueError("a negative shape")
    return shape, fortran, dtype


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    """A member copied into memory; its checksum is verified by the zip module."""
    with cast(zipfile.ZipExtFile, archive.open(info)) as member:
        shape, fortran, dtype = _read_npy_header(member, f"{path}, member {info.filename}")
        check_shape(shape, dtype.itemsize, path.stat().st_size + info.file_size)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        header = member.tell()
        if header + count * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.file_size} bytes instead of {header + count * dtype.itemsize} in {info.filename}")
        flat = np.empty(count, dtype)
        room = flat.view(np.uint8).data if flat.nbytes else memoryview(b"")
        filled = 0
        while filled < len(room):
            n_bytes = member.readinto(room[filled : filled + _CHUNK])
            if not n_bytes:
                raise EOFError(f"{info.filename} ends early")
            filled += n_bytes
        member.read(1)  # to the end, where the checksum is verified
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, shared: SharedFile) -> Array:
    """A stored member where it lies; empty, single, compressed and column-major ones are read."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return _read_only(_read_member(archive, info, path))
    file = shared.file
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header of {info.filename}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    file.seek(start)
    shape, fortran, dtype = _read_npy_header(file, f"{path}, member {info.filename}")
    offset = file.tell()
    check_shape(shape, dtype.itemsize, os.fstat(file.fileno()).st_size)
    count = int(np.prod(shape, dtype=object)) if shape else 1
    n_bytes = count * dtype.itemsize
    if offset - start + n_bytes != info.file_size or offset + n_bytes > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{info.file_size} bytes instead of {offset - start + n_bytes} in {info.filename}")
    if n_bytes == 0 or not shape or (fortran and len(shape) > 1):
        return _read_only(_read_member(archive, info, path))
    return FileArray(shared, offset, dtype, shape)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _names(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Members by name, after a look at the end record: the zip module stops early in a damaged directory."""
    file = _file_of(archive)
    file.seek(-_END_RECORD, os.SEEK_END)
    signature, _, _, _, count, *_ = struct.unpack("<4s4H2LH", file.read(_END_RECORD))
    members = archive.infolist()
    if signature != b"PK\x05\x06" or count not in (len(members), 0xFFFF):
        raise zipfile.BadZipFile(f"{len(members)} members in a directory of {count}")
    for info in members:
        if not info.filename.endswith(".npy"):
            raise zipfile.BadZipFile(f"a member {info.filename!r}, which is no .npy")
        yield info.filename.removesuffix(".npy"), info


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All members, copied into memory, checksums verified.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: the file is damaged.
        UnsafeFileError: a member holds objects.
    """
    path = Path(path)
    with _reading(path), open_archive(path) as archive:
        return {name: _read_member(archive, info, path) for name, info in _names(archive)}


def open_npz(path: str | Path, repair: str = "make the file again") -> dict[str, Array]:
    """All members as arrays that stay in the file (compressed, empty and 0-dimensional ones are read).

    Opening costs no more than the headers. Checksums are not verified: that is what a manifest's hashes are for.

    Args:
        repair: what to do if the file turns out to be damaged while it is read.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: as :func:`load_npz`.
    """
    path = Path(path)
    with _reading(path), open_archive(path) as archive:
        shared = SharedFile(path, repair)
        return {name: _open_member(archive, info, path, shared) for name, info in _names(archive)}


def load_npz_key(path: str | Path, key_candidates: Sequence[str] | str) -> np.ndarray:
    """The first member of ``path`` that has one of the names ``key_candidates``.

    Raises:
        ArtifactError: none of them is there; the message lists those that are.
    """
    candidates = [key_candidates] if isinstance(key_candidates, str) else list(key_candidates)
    path = Path(path)
    with _reading(path), open_archive(path) as archive:
        members = dict(_names(archive))
        for name in candidates:
            if name in members:
                return _read_member(archive, members[name], path)
    raise ArtifactError(f"a member {' or '.join(candidates)}", got=", ".join(members) or "no members", where=path)
