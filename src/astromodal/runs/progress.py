"""Progress as a person expects it: a bar with rate and remaining time on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

from ..errors import printable

_LINE_SECONDS = 10.0  # between two lines of a log
_LINE_FRACTION = 0.1  # of the work, between two lines of a log
_REDRAW_SECONDS = 0.1
_live: list[Progress] = []  # bars on the terminal, so that log lines can be written above them


def format_seconds(seconds: float) -> str:
    """Duration as ``3.2s``, ``4m05s`` or ``2h13m``.

    >>> format_seconds(3.21), format_seconds(245), format_seconds(7980)
    ('3.2s', '4m05s', '2h13m')
    """
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Progress:
    """Counts ``n`` of ``total``; use it in a ``with`` block, or call :meth:`close`.

    Args:
        total: expected count; ``None`` if it is not known.
        desc: what is counted.
        log: receives the plain lines where there is no terminal.
        unit: name of one count.
        initial: what was done before (a resumed run); it does not enter the rate.
        stream: terminal; default: standard error.
    """

    def __init__(
        self,
        total: int | None,
        desc: str,
        log: logging.Logger | None = None,
        *,
        unit: str = "",
        initial: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.desc, self.unit, self.n, self.initial = total, desc, unit, initial, initial
        self._log, self._enabled, self._stream = log, enabled, stream or sys.stderr
        self._tty = enabled and self._stream.isatty()
        self._start = self._drawn = self._said = time.monotonic()
        self._said_n, self._values, self._closed = initial, "", False
        if self._tty:
            _live.append(self)
            self._draw()

    def update(self, n: int = 1, **values: object) -> None:
        """Count ``n`` more; ``values`` stand behind the bar."""
        self.n += n
        if values:
            self._values = " ".join(f"{k}={_number(v)}" for k, v in values.items())
        if not self._enabled or self._closed:
            return
        now = time.monotonic()
        if self._tty:
            if now - self._drawn >= _REDRAW_SECONDS:
                self._draw()
        elif self._due(now):
            self._say(now)

    def _due(self, now: float) -> bool:
        """A line every 10 s at most; every 10 % if that is less often; the end is said by :meth:`close`."""
        if self.total and self.n >= self.total:
            return False
        if now - self._said < _LINE_SECONDS:
            return False
        far = (self.n - self._said_n) >= _LINE_FRACTION * (self.total or 0)
        return far or now - self._said >= 6 * _LINE_SECONDS  # slow work is still heard of once a minute

    def text(self) -> str:
        """Count, share, rate, remaining time and values."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self.n - self.initial) / elapsed
        parts = [f"{self.n}/{self.total}" if self.total else str(self.n)]
        if self.total:
            parts.append(f"{100 * self.n / self.total:.0f}%")
        parts.append(
            f"{rate:.3g} {self.unit}/s".replace(" /", "/")
            if rate >= 1 or not rate
            else f"{1 / rate:.3g} s/{self.unit or 'it'}"
        )
        parts.append(f"{format_seconds(elapsed)} elapsed")
        if self.total and rate > 0 and self.n < self.total:
            parts.append(f"{format_seconds((self.total - self.n) / rate)} left")
        return ", ".join(parts) + (f" | {self._values}" if self._values else "")

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        width = shutil.get_terminal_size((100, 20)).columns - 1
        bar = ""
        if self.total:
            filled = min(20, 20 * self.n // self.total)
            bar = f"[{'#' * filled}{'.' * (20 - filled)}] "
        self._write("\r\x1b[K" + f"{printable(self.desc)} {bar}{self.text()}"[:width])

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that went away must not end the run
            self._tty = False

    def _say(self, now: float) -> None:
        self._said, self._said_n = now, self.n
        if self._log is not None:
            self._log.info("%s: %s", self.desc, self.text())

    def close(self) -> None:
        """Remove the bar and say where it ended."""
        if self._closed:
            return
        self._closed = True
        if self in _live:
            _live.remove(self)
            self._write("\r\x1b[K")
        if self._enabled:
            self._say(time.monotonic())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TerminalHandler(logging.StreamHandler):
    """Log lines on a terminal: a bar that is shown makes room and is drawn again below."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        bar = _live[-1] if _live else None
        if bar is not None:
            bar._write("\r\x1b[K")
        super().emit(record)
        if bar is not None:
            bar._draw()
