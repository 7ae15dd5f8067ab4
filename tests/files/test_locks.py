"""Locks where the file system has none: a file that only one process can create."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.errors import ArtifactError
from astromodal.files.locks import FileLock


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_the_owner_is_told_with_its_machine(tmp_path):
    here = f"process {os.getpid()} on {socket.gethostname()}"
    with FileLock(tmp_path / "x"), pytest.raises(ArtifactError, match=here):
        FileLock(tmp_path / "x").acquire()


def test_without_locks_of_the_system_one_writer_is_one_too(tmp_path, no_locks):
    with FileLock(tmp_path / "x"):
        with pytest.raises(ArtifactError, match=rf"process {os.getpid()} on .*remove .*x\.lock\.held"):
            FileLock(tmp_path / "x", wait_seconds=0.05).acquire()
        with FileLock(tmp_path / "y"):
            pass
    with FileLock(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_taken_over_on_its_own_machine_only(tmp_path, no_locks):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    held = Path(tmp_path / "x.lock.held")
    held.write_text(f"{gone.pid} on {socket.gethostname()}")
    with FileLock(tmp_path / "x", wait_seconds=1.0):
        assert held.read_text() == f"{os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.iterdir())
    held.write_text(f"{gone.pid} on another-machine")
    with pytest.raises(ArtifactError, match=f"process {gone.pid} on another-machine"):
        FileLock(tmp_path / "x").acquire()
    assert held.exists()
