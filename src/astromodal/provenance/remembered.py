"""Fingerprints of files. Each large file is read once per change: what it was then is remembered.

A file is taken to be unchanged while its size, its times of modification and of status change (ns) and its inode are:
what writes to a file, also ``cp -p`` and ``rsync --inplace -t``, changes one of them. Decay on the disk does not; nor
does anything within a tick of the file system's clock, so that a file that changed in the last seconds is not
remembered. What is remembered of a folder stands in the user's cache, not in the folder: that may be another user's,
and a command that fails has changed nothing there. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import ArtifactError, ArtifactMissingError
from ..files.atomic import read_error
from ..files.locks import FileLock
from .fingerprints import new_hash
from .sealed import read_sealed, write_sealed

_RACY_SECONDS = 2.0  # a file changed this recently may change again within one tick of its time stamp
_KEPT_BYTES = 1 << 26  # reading less than this takes a moment: not worth remembering beyond the process
_SAID_BYTES = 1 << 30  # reading less than this takes a second or two: not worth a line
_THREADS = 4  # hashing lets go of the interpreter's lock; more would only wait for the disk

Stamp = tuple[int, int, int, int]
_remembered: dict[tuple[str, Stamp], str] = {}
log = logging.getLogger(__name__)


def fingerprint_file(path: str | Path) -> str:
    """Fingerprint of a file's content, remembered in this process; see :func:`fingerprint_files`."""
    return fingerprint_files([path])[0]


def fingerprint_files(paths: Iterable[str | Path], memory: Path | None = None) -> list[str]:
    """Fingerprints of the content of files, remembered in the process and, with ``memory``, in that file.

    Raises:
        ArtifactMissingError: one of them is not there.
        ArtifactError: one of them cannot be read.
    """
    real = [os.path.realpath(path) for path in paths]
    stamps = [stamp_of(path) for path in real]
    keys = list(zip(real, stamps, strict=True))
    if memory is not None and not all(key in _remembered for key in keys):
        _remembered.update(_read(memory))
    todo = [key for key in dict.fromkeys(keys) if key not in _remembered]
    n_bytes = sum(stamp[0] for _, stamp in todo)
    if n_bytes > _SAID_BYTES:
        log.info("checking %d files (%.1f GB) that were not read since they changed", len(todo), n_bytes / 1e9)
    fresh = dict(zip(todo, _hash_all([path for path, _ in todo]), strict=True))
    settled = {key: value for key, value in fresh.items() if is_settled(key[1])}
    _remembered.update(settled)
    if memory is not None and settled and n_bytes >= _KEPT_BYTES:
        _write(memory, settled)
    return [fresh.get(key) or _remembered[key] for key in keys]


def changed_files(folder: str | Path, expected: Mapping[str, str], *, remember: bool = False) -> dict[str, str]:
    """Files below ``folder`` whose content is not the ``expected`` one: name → fingerprint that was found.

    Args:
        expected: name → fingerprint.
        remember: also for later processes; for folders that hold much.
    """
    folder, names = Path(folder), list(expected)
    memory = memory_of(folder) if remember else None
    found = dict(zip(names, fingerprint_files([folder / name for name in names], memory), strict=True))
    return {name: value for name, value in found.items() if value != expected[name]}


def memory_of(folder: str | Path) -> Path:
    """The file in the user's cache for a folder, whether it exists or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=8).hexdigest()
    return Path(cache) / "astromodal" / f"checked-{name}.json"


def stamp_of(path: str | Path) -> Stamp:
    """Size, times of modification and of status change (ns) and inode of a file.

    Raises:
        ArtifactMissingError: it is not there.
        ArtifactError: it cannot be asked.
    """
    try:
        stat = os.stat(path)
    except FileNotFoundError as error:
        raise ArtifactMissingError("a file", got="nothing", where=path) from error
    except OSError as error:
        raise read_error(error, path) from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stamp: Stamp) -> bool:
    """Whether a change from now on would show in the file's times."""
    return time.time_ns() - max(stamp[1:3]) > _RACY_SECONDS * 1e9


def _hash_all(paths: list[str]) -> list[str]:
    if len(paths) < 2:
        return [_hash(path) for path in paths]
    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)), len(paths))) as pool:
        return list(pool.map(_hash, paths))


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, new_hash).hexdigest()
    except FileNotFoundError as error:
        raise ArtifactMissingError("a file", got="nothing", where=path) from error
    except OSError as error:
        raise read_error(error, path) from error


# ------------------------------------------------------------------------------------- on the disk


def _read(memory: Path) -> dict[tuple[str, Stamp], str]:
    """What a file remembers; a damaged or missing one only costs time."""
    try:
        content = read_sealed(memory)
        return {(path, tuple(stamp)): value for path, (*stamp, value) in content["files"].items()}
    except (ArtifactError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _write(memory: Path, found: Mapping[tuple[str, Stamp], str]) -> None:
    """Add to what a file remembers; files that are gone or have changed are forgotten. Only saves time: may fail."""
    with contextlib.suppress(ArtifactError, OSError), FileLock(memory, wait_seconds=1.0):
        values = {path: [*stamp, value] for (path, stamp), value in {**_read(memory), **found}.items()}
        write_sealed(memory, {"files": {path: value for path, value in values.items() if os.path.exists(path)}})
