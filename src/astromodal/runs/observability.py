"""Logging and metrics for a loop of the user's own: ``setup_logging``, ``get_logger``, ``MetricsBuffer``.

The stages of this program need none of it: :class:`~astromodal.runs.run.RunContext` logs and tracks for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigError
from ..files.atomic import writing
from .progress import TerminalHandler
from .tracking import NullTracker, Tracker

_ROOT = "astromodal"


def setup_logging(log_dir: str | Path | None = None, level: int | str = "INFO") -> logging.Logger:
    """Send what this package and loggers of :func:`get_logger` say to the terminal and ``<log_dir>/astromodal.log``.

    May be called again, with other arguments; loggers of other packages are left alone.

    Args:
        level: least level that is said: a name (``DEBUG``, ``INFO``, ``WARNING``, ``ERROR``) or number.

    Raises:
        ConfigError: no such level. ArtifactError: the folder cannot be written to.
    """
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else int(level)
    if number is None:
        raise ConfigError("a level DEBUG, INFO, WARNING or ERROR", got=repr(level), where="setup_logging")
    handlers: list[logging.Handler] = [TerminalHandler(sys.stderr)]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    if log_dir is not None:
        folder = Path(log_dir)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(folder / "astromodal.log", encoding="utf-8"))
        handlers[1].setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        )
    root = logging.getLogger(_ROOT)
    for old in [h for h in root.handlers if getattr(h, "by_setup_logging", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.by_setup_logging = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(number)
    return root


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger of a module, below that of this package: ``get_logger(__name__)``.

    >>> get_logger("__main__").name, get_logger("astromodal.training").name
    ('astromodal.__main__', 'astromodal.training')
    """
    if not name or name == _ROOT or name.startswith(_ROOT + "."):
        return logging.getLogger(name or _ROOT)
    return logging.getLogger(f"{_ROOT}.{name}")


class MetricsBuffer:
    """Collects metrics of many steps and writes them together: to ``metrics.jsonl``, and to TensorBoard if installed.

    Values may be 0-dimensional tensors on a GPU; they are read when the buffer is written. As a context it writes
    what is left.

    Args:
        tensorboard_dir: folder for ``metrics.jsonl`` and ``tensorboard/``.
        tracker: takes the metrics instead.
        flush_every: values after which the buffer writes by itself.

    Raises:
        ConfigError: neither a folder nor a tracker, or both.

    >>> buffer = MetricsBuffer(tracker=NullTracker())
    >>> buffer.add("train/loss", 0.5, step=1), len(buffer), buffer.flush(), len(buffer)
    (None, 1, None, 0)
    """

    def __init__(
        self, tensorboard_dir: str | Path | None = None, *, tracker: NullTracker | None = None, flush_every: int = 1000
    ) -> None:
        if (tensorboard_dir is None) == (tracker is None):
            raise ConfigError(
                "tensorboard_dir or tracker", got="neither" if tracker is None else "both", where="MetricsBuffer"
            )
        if flush_every < 1:
            raise ConfigError("flush_every of 1 or more", got=flush_every, where="MetricsBuffer")
        self.tracker = tracker if tracker is not None else _tracker_in(Path(tensorboard_dir or ""))
        self.flush_every = flush_every
        self._steps: dict[int, dict[str, Any]] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, name: str, value: Any, step: int) -> None:
        """Note ``value`` of ``name`` at ``step``; a second value of the same replaces the first."""
        value = value.detach() if hasattr(value, "detach") else value
        self._steps.setdefault(int(step), {})[name] = value
        self._n += 1
        if self._n >= self.flush_every:
            self.flush()

    def add_many(self, values: Mapping[str, Any], step: int) -> None:
        """:meth:`add` for several metrics of one step."""
        for name, value in values.items():
            self.add(name, value, step)

    def flush(self) -> None:
        """Write everything, in the order of the steps.

        Raises:
            ArtifactError: ``metrics.jsonl`` cannot be written; the values stay in the buffer.
        """
        for step in sorted(self._steps):
            self.tracker.log(step, self._steps[step])
            self._n -= len(self._steps.pop(step))
        self._n = 0

    def close(self) -> None:
        """Write everything and close the files."""
        self.flush()
        self.tracker.close()

    def __enter__(self) -> MetricsBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tracker_in(folder: Path) -> Tracker:
    """``metrics.jsonl`` in ``folder``, with TensorBoard where it is installed."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        return Tracker(folder, tensorboard=True)
    except ConfigError as error:
        get_logger("tracking").warning("only metrics.jsonl is written: %s", error)
        return Tracker(folder)
