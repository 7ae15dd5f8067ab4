"""SIGTERM and SIGUSR1, as queues send them before they take a machine away, end any command as an interruption does.

The exit code is 128 + the signal's number (143 for SIGTERM, 138 for SIGUSR1), which a queue can act on. The training
loop finishes its step and saves before it leaves (see :mod:`astromodal.training.preemption`); everything else ends
where it stands, since what is half written is never used.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal asked the process to end; no ``except Exception`` holds it, as with ``KeyboardInterrupt``.

    >>> stop = Stopped(signal.SIGTERM)
    >>> str(stop), stop.exit_code
    ('SIGTERM', 143)
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Block in which ``handler`` gets the signals; before and after, they have their usual effect."""
    # Python lets only the main thread handle signals; in another one the default stays.
    ours = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def stops_raised() -> Iterator[None]:
    """Block in which the first signal raises :class:`Stopped`; later ones wait for what that ends."""
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise Stopped(number)

    with handled(stop):
        yield
