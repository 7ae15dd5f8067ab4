"""Processes that start warm: forked from one that has imported the heavy packages.

For tests that kill, stop or watch a process, where a cold start proves nothing and costs seconds of the processor.
What a start from nothing does is tested by the runs of ``pipeline`` and wherever a test calls ``subprocess``. A forked
process is one in every other respect: its own pid, files, signals and exit code; it draws new random numbers where the
program sets no seed.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]


class WarmProcess:
    """As ``subprocess.Popen([python, *command], stdout=…, stderr=…, text=True)``; output goes to files, not pipes."""

    def __init__(self, command: Sequence[Any], cwd: Path | str, env: Mapping[str, str] | None = None) -> None:
        self.returncode: int | None = None
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # closed with this
        self._socket, theirs = socket.socketpair()
        with theirs:
            order = {
                "argv": [str(a) for a in command],
                "cwd": str(cwd),
                "env": dict(os.environ if env is None else env),
            }
            files = [self._out.fileno(), self._err.fileno(), theirs.fileno()]
            orders = _orders()
            message = json.dumps(order).encode()
            socket.send_fds(orders, [len(message).to_bytes(4, "big")], files)
            orders.sendall(message)
        self.pid = int.from_bytes(self._socket.recv(4), "big")

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._ended(0.0)

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            self._socket.settimeout(seconds)
            try:
                told = self._socket.recv(4)
                assert told, "the process that forks has ended"
                self.returncode = int.from_bytes(told, "big", signed=True)
                self._socket.close()
            except (TimeoutError, BlockingIOError):
                pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and error, when it has ended."""
        self.wait(timeout)
        return self.output(), self.errors()

    def output(self) -> str:
        """What it has written so far."""
        return os.pread(self._out.fileno(), 1 << 24, 0).decode()

    def errors(self) -> str:
        """What it has written to standard error so far."""
        return os.pread(self._err.fileno(), 1 << 24, 0).decode()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_started: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


def _orders() -> socket.socket:
    """The line to the process that forks; it is started by the first who needs it, and ends with this one."""
    if not _started:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPO / 'src'}{os.pathsep}{REPO}"}
        parent = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()], cwd=REPO
        )
        theirs.close()
        _started.append((parent, ours))
        atexit.register(_end)
    return _started[0][1]


def _end() -> None:
    for parent, orders in _started:
        orders.close()
        parent.wait()


# --------------------------------------------------------------------- in the process that forks


def serve(orders: socket.socket) -> None:
    """Fork a process for each order, and tell whoever gave it the pid and then the exit code."""
    import gc

    _import_what_is_heavy()
    gc.collect()
    gc.freeze()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watch = selectors.DefaultSelector()
    watch.register(orders, selectors.EVENT_READ)
    watch.register(reader, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}
    while True:
        for key, _ in watch.select():
            if key.fileobj == reader:
                os.read(reader, 4096)
                continue
            head, files, _, _ = socket.recv_fds(orders, 4, 3)
            if not head:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                return
            size, message = int.from_bytes(head, "big"), b""
            while len(message) < size:
                message += orders.recv(size - len(message))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for own in (reader, writer, orders.fileno(), files[2], *(s.fileno() for s in running.values())):
                    os.close(own)
                _run(json.loads(message), files[:2])
            os.close(files[0]), os.close(files[1])
            running[pid] = socket.socket(fileno=files[2])
            running[pid].sendall(pid.to_bytes(4, "big"))
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with running.pop(pid) as line, contextlib.suppress(BrokenPipeError):  # nobody waits
                    line.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _import_what_is_heavy() -> None:
    import matplotlib.pyplot

    from astromodal.config.launching.register import register
    from tests.composed_once import remember_compositions

    remember_compositions()
    register()
    matplotlib.pyplot.figure().savefig(io.BytesIO())  # which reads the fonts
    matplotlib.pyplot.close("all")


def _run(order: dict[str, Any], files: Sequence[int]) -> None:
    """The script of an order, in this new process; does not return."""
    import random
    import runpy

    import numpy as np
    import torch

    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files[0], 1), os.dup2(files[1], 2)
        os.close(files[0]), os.close(files[1])
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        random.seed(), np.random.seed(), torch.seed()
        sys.argv = order["argv"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            import threading

            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush(), sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
