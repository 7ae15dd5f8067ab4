"""Faults at chosen calls: the n-th write, fsync, rename… below a folder kills the process, or meets a full disk.

Used by ``benchmarks/faults.py`` in a forked child; patches ``os``, ``shutil`` and ``open`` there and restores nothing
but what a context manager can.
"""

from __future__ import annotations

import builtins
import errno
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

KINDS = ("open", "write", "copy", "fsync", "replace", "unlink")


class Calls:
    """Counts calls that change files below ``folder``, and lets one of them fail.

    Args:
        kind, number: the call that fails, counted from 0 within its kind; ``None`` lets none fail.
        fault: ``kill`` (SIGKILL to this process; a write or copy is half done by then) or ``full`` (ENOSPC, once).
        record: file that gets the counts at the end.
    """

    def __init__(
        self, folder: Path, kind: str | None = None, number: int = -1, fault: str = "kill", record: Path | None = None
    ) -> None:
        self.folder, self.kind, self.number, self.fault, self.record = folder, kind, number, fault, record
        self._counters = {name: itertools.count() for name in KINDS}  # next() is atomic: two threads write
        self._patches: list[Any] = []

    def meet(self, kind: str, half: Callable[[], object] = lambda: None) -> None:
        """One call of ``kind``; ``half`` does a part of it before the fault."""
        if next(self._counters[kind]) != self.number or kind != self.kind:
            return
        half()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _mine(self, path: Any) -> bool:
        return not isinstance(path, int) and str(path).startswith(str(self.folder)) and not str(path).endswith(".log")

    def __enter__(self) -> Calls:
        real_open, real_copy, real_fsync = builtins.open, shutil.copyfile, os.fsync

        def open_(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not self._mine(path) or not set(mode) & set("wax+"):
                return real_open(path, mode, *args, **kwargs)
            self.meet("open")
            return _File(real_open(path, mode, *args, **kwargs), self)

        def copyfile(source: Any, target: Any, **kwargs: Any) -> Any:
            def half() -> None:
                with real_open(source, "rb") as a, real_open(target, "wb") as b:
                    b.write(a.read(os.path.getsize(source) // 2))

            self.meet("copy", half)
            return real_copy(source, target, **kwargs)

        def fsync(handle: int) -> None:
            self.meet("fsync")
            real_fsync(handle)

        self._patches = [
            mock.patch.object(builtins, "open", open_),
            mock.patch.object(shutil, "copyfile", copyfile),
            mock.patch.object(os, "fsync", fsync),
        ]
        for name in ("replace", "unlink"):
            self._patches.append(mock.patch.object(os, name, self._counted(name, getattr(os, name))))
        for patch in self._patches:
            patch.start()
        return self

    def _counted(self, kind: str, real: Callable) -> Callable:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if self._mine(path):
                self.meet(kind)
            return real(path, *args, **kwargs)

        return call

    def __exit__(self, *_: object) -> None:
        for patch in reversed(self._patches):
            patch.stop()
        if self.record is not None:
            self.record.write_text(json.dumps({name: next(c) for name, c in self._counters.items()}))


class _File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file, self._calls = file, calls

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._calls.meet("write", half)
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
