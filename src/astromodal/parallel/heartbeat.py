"""Signs of life of the processes that train together.

A reduction waits for all processes, whatever has become of them: one that hangs, or whose machine is gone, would keep
the others waiting until the timeout of the process group, which has to be long. So a thread of each process writes a
number into the store of the process group every few seconds, and looks at those of the others: everyone at that of the
first process, the first at everyone's. What is not seen to change for ``timeout_s`` ends the run.

Memory is only as good as its last checkpoint: the processes leave at once, without cleaning up, as if killed.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_KEY = "astromodal/alive"
_BEATS = 8  # signs of life per timeout


class Heartbeat:
    """Shows that this process lives, and ends it when another one does not.

    Args:
        timeout_s: longest time from the last sign of life of a process to the end of the others, in seconds.
        store: of the process group; default: a connection of its own, as the environment describes it.
        end: called with the message when a process is lost; default: log it and leave with exit code 1.
    """

    def __init__(
        self,
        rank: int,
        n_ranks: int,
        timeout_s: float,
        *,
        store: Any = None,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self.rank, self.n_ranks, self.timeout_s = rank, n_ranks, float(timeout_s)
        self.period = self.timeout_s / _BEATS
        self._store, self._end = store, end or _leave
        self._stopped = threading.Event()
        self._seen: dict[int, tuple[bytes, float]] = {}  # last sign of life, and when it was first seen
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; call it on all processes."""
        if self._store is None:
            self._store = _connect(self.timeout_s)
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End, when all processes are about to."""
        self._stopped.set()
        self._thread.join(timeout=self.period)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self.period):
            now = time.monotonic()
            if now - before > 3 * self.period:
                self._seen.clear()  # this process itself was suspended: the others may have been, too
            before = now
            try:
                self._beat()
                lost = self._lost()
            except Exception:  # the store answers no more: the process that keeps it has ended
                if not self._stopped.wait(self.period):  # unless the run is ending
                    self._end(self._message("the process that started this one, or the first process"))
                return
            if lost is not None and not self._stopped.is_set():
                self._tell(lost)
                return

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"{_KEY}/{self.rank}", f"{self._count} {socket.gethostname()}")

    def _lost(self) -> int | None:
        """A process that has shown no sign of life for too long, or that another one has given up."""
        if self._store.check([f"{_KEY}/lost"]):
            return int(self._store.get(f"{_KEY}/lost"))
        now = time.monotonic()
        for other in range(1, self.n_ranks) if self.rank == 0 else [0]:
            key = f"{_KEY}/{other}"
            sign = self._store.get(key) if self._store.check([key]) else b"0 unknown"
            known = self._seen.get(other)
            if known is None or known[0] != sign:
                self._seen[other] = (sign, now)
            elif now - known[1] > self.timeout_s - 2 * self.period:
                return other
        return None

    def _tell(self, lost: int) -> None:
        """Let the others know, and end; only one process says why."""
        first = self._store.add(f"{_KEY}/told", 1) == 1
        self._store.set(f"{_KEY}/lost", str(lost))
        host = self._seen[lost][0].decode().partition(" ")[2] if lost in self._seen else "unknown"
        self._end(self._message(f"process {lost} on {host}") if first else "")

    def _message(self, who: str) -> str:
        return (
            f"expected all {self.n_ranks} processes to be alive, got no sign of life from {who} for "
            f"{self.timeout_s:g} s; to repair: see its log; the same command with resume=auto goes on from the last "
            "checkpoint (hardware.rank_timeout_s sets the time)"
        )


def _connect(timeout_s: float) -> Any:
    """A connection to the store that torchrun or the first process keeps."""
    from torch.distributed import TCPStore

    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(timeout_s / _BEATS, 1.0)),
        wait_for_workers=False,
    )


def _leave(message: str) -> None:
    """The main thread may wait for a dead process, in C++, for ever: nothing but this ends it."""
    if message:
        logging.getLogger("astromodal.training").error("error: %s", message)
    os._exit(1)
