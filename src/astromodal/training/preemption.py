"""SIGTERM and SIGUSR1, as queues send them before they take a machine away: finish the step, save, leave.

The exit code is 128 + the signal's number (143 for SIGTERM, 138 for SIGUSR1), which a queue can act on.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Preempted(Exception):
    """Raised inside a validation, which is then repeated after the resume."""


class StopSignals:
    """In the ``with`` block a signal is only noted in ``received``; before and after, it has its usual effect."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What a process ended by this signal returns to its shell."""
        return 128 + int(self.received or 0)

    def check(self) -> None:
        """Raise :class:`Preempted` if a signal has come."""
        if self.received is not None:
            raise Preempted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> StopSignals:
        # Python lets only the main thread handle signals; in another one the default stays.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
