"""SIGTERM and SIGUSR1, as queues send them before they take a machine away, end any command as an interruption does.

The exit code is 128 + the signal's number (143 for SIGTERM, 138 for SIGUSR1), which a queue can act on. The training
loop notes the signal, finishes its step and saves before it leaves (:class:`StopSignals`); everything else ends
where it stands, since what is half written is never used.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

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


class Preempted(Exception):
    """Raised inside a validation, which is then repeated after the resume."""


class StopSignals:
    """In the ``with`` block a signal is only noted in ``received``; before and after, it has its usual effect."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._block = ExitStack()

    @property
    def exit_code(self) -> int:
        """What a process ended by this signal returns to its shell."""
        return 128 + int(self.received or 0)

    def check(self) -> None:
        """Raise :class:`Preempted` if a signal has come."""
        if self.received is not None:
            raise Preempted

    def pass_on(self) -> None:
        """After the block: let a signal that came too late to be acted on have its usual effect."""
        if self.received is not None:
            signal.raise_signal(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> StopSignals:
        self._block.enter_context(handled(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()
