"""Files that are either the old one or the new one, never a part.

A writer fills a temporary file beside the target; the bytes are on the disk before the name is exchanged
(``fsync``, ``os.replace``, ``fsync`` of the folder). Locks are in :mod:`.locks`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError

_STALE_SECONDS = 60.0  # a temporary is locked within milliseconds of its creation; older and unlocked means killed


@dataclass(frozen=True)
class _Kind:
    """What the operating system's errors of one kind mean to who runs the program."""

    expected: str
    repair: str
    codes: tuple[str, ...]  # names, as not every system has all of them


_KINDS = (
    _Kind("room on the disk", "free space or choose another folder, run again", ("ENOSPC", "EDQUOT", "EFBIG")),
    _Kind(
        "a folder that can be written to",
        "change its permissions or the path",
        ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR", "ENAMETOOLONG", "ELOOP", "ENOTEMPTY"),
    ),
    _Kind("a working disk", "check the disk, run again", ("EIO", "EREMOTEIO", "ENODEV", "ENXIO", "EUCLEAN")),
    _Kind(
        "a file server that answers",
        "see that the folder is mounted and is still the same one, run again",
        ("ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "ECONNRESET", "ESHUTDOWN", "ENOLINK"),
    ),
    _Kind(
        "a folder on one file system",
        "a part of it is mounted from elsewhere: choose a folder without such parts",
        ("EXDEV",),
    ),
    _Kind(
        "a file that nothing else holds",
        "close what uses it (or unmount it, if it is a mount point), run again",
        ("EBUSY", "ETXTBSY"),
    ),
    _Kind("fewer open files", "raise the limit with ulimit -n, or run fewer processes", ("EMFILE", "ENFILE")),
)


def write_error(error: OSError, path: Path) -> ArtifactError | None:
    """The one-line error of a failed write to ``path``; ``None`` if ``error`` is about something else."""
    other = error.filename is not None and not str(error.filename).startswith(str(path.parent))
    name = errno.errorcode.get(error.errno or 0, "")
    kind = next((kind for kind in _KINDS if name in kind.codes), None)
    if name == "ENOENT" and not path.parent.exists():
        return ArtifactError(
            "the folder that is being written to",
            got="it is gone: something removed or moved it",
            where=path.parent,
            repair="run again",
        )
    if kind is None or (other and kind is not _KINDS[0]):
        return None
    return ArtifactError(kind.expected, got=error.strerror, where=path, repair=kind.repair)


def read_error(error: OSError, path: str | Path) -> ArtifactError:
    """The one-line error of a failed read of ``path``, which is there."""
    name = errno.errorcode.get(error.errno or 0, "")
    kind = next((kind for kind in _KINDS[1:] if name in kind.codes), _KINDS[1])
    expected = "a file that can be read" if kind is _KINDS[1] else kind.expected
    return ArtifactError(expected, got=error.strerror or error, where=path, repair=kind.repair)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the operating system's write errors inside the block into one :class:`ArtifactError` about ``path``."""
    try:
        yield
    except OSError as error:
        clear = write_error(error, Path(path))
        if clear is None:
            raise
        raise clear from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot sync a folder (some network ones) say EINVAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _remove_stale(target: Path) -> None:
    """Remove temporaries of ``target`` that killed processes left: old, and locked by nobody."""
    prefix = f".{target.stem}."
    with os.scandir(target.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(f".tmp{target.suffix}")]
    for name in names:
        path = target.parent / name
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(handle).st_mtime > _STALE_SECONDS:
                    os.unlink(path)
            finally:
                os.close(handle)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, on any error it is removed.

    The temporary keeps the suffix of ``path``, because some writers choose their format by it. Missing folders
    are made; a symbolic link is followed, so that the link stays one.

    Raises:
        ArtifactError: no room on the disk, or the folder cannot be written to. ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix}"
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks only loses the clean-up of leftovers
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_stale(target)
            yield temporary
            _sync_file(temporary)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(handle)


def _sync_file(path: Path) -> None:
    """Bytes to the disk; through a new handle, because a writer may have replaced the file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
