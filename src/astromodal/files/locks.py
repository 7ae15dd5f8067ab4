"""One writer at a time in a place, also among machines that share a disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import time
from pathlib import Path

from ..errors import ArtifactError
from .atomic import writing

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class FileLock:
    """``with FileLock(path):`` holds ``<path>.lock`` or fails, at once or after ``wait_seconds``.

    The system gives a lock back when its process ends, however it ends. Where a file system has no locks (some network
    file systems), a file ``<path>.lock.held`` is one, which only one process can create; that of a process of this
    machine that is gone is taken over, that of another machine has to be removed by hand.

    Raises:
        ArtifactError: another process (or another lock of this one) holds it; the message has its number and machine.
    """

    def __init__(self, path: str | Path, wait_seconds: float = 0.0) -> None:
        self.path = Path(f"{path}.lock")
        self.wait_seconds = wait_seconds
        self._handle: int | None = None
        self._held = Path(f"{self.path}.held")
        self._owner = f"{os.getpid()} on {socket.gethostname()}"

    def acquire(self) -> FileLock:
        if self._handle is not None:
            raise RuntimeError(f"{self.path} is already held by this object")
        deadline = time.monotonic() + self.wait_seconds
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    if self._try(handle):
                        self._handle = handle
                    elif time.monotonic() >= deadline:
                        raise self._refused(handle)
                    else:
                        time.sleep(0.01)
                finally:
                    if self._handle is None:
                        os.close(handle)
        return self

    def _refused(self, handle: int) -> ArtifactError:
        alone = self._held.exists()
        owner = _text(self._held) if alone else os.pread(handle, 512, 0).decode("utf-8", "replace").strip()
        by_hand = f"; if that process is gone, remove {self._held}" if alone else ""
        return ArtifactError(
            "no other process writing here",
            got=f"process {owner or 'unknown'}",
            where=self.path,
            repair=f"wait for it to end, or write to another folder{by_hand}",
        )

    def _try(self, handle: int) -> bool:
        """Lock an open file; False if someone else has it, or has removed it as he let go."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return self._hold() and self._write(handle)
        try:
            if os.stat(self.path).st_ino != os.fstat(handle).st_ino:
                return False
        except FileNotFoundError:
            return False
        return self._write(handle)

    def _write(self, handle: int) -> bool:
        os.ftruncate(handle, 0)
        os.pwrite(handle, self._owner.encode(), 0)
        return True

    def _hold(self) -> bool:
        """Create the file that stands for a lock; False if there is one whose process may be alive."""
        try:
            held = os.open(self._held, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            owner = _text(self._held)
            number, _, host = owner.partition(" on ")
            if host == socket.gethostname() and number.isdecimal() and not _alive(int(number)):
                self._put_aside(owner)
            return False
        with os.fdopen(held, "w", encoding="utf-8") as file:
            file.write(self._owner)
        return True

    def _put_aside(self, owner: str) -> None:
        """Remove the file of a process that is gone, unless another one has taken its place since it was read."""
        aside = Path(f"{self._held}.{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._held, aside)
            if _text(aside) == owner:
                os.unlink(aside)
            else:
                os.rename(aside, self._held)

    def release(self) -> None:
        """Let go; without effect when not held."""
        if self._handle is not None:
            if _text(self._held) == self._owner:
                with contextlib.suppress(OSError):
                    os.unlink(self._held)
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            os.close(self._handle)
            self._handle = None

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
