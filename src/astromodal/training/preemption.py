"""SIGTERM and SIGUSR1 within the training loop: finish the step, save, leave."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import FrameType, TracebackType

from ..machine.signals import handled


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
