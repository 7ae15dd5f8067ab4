"""``MetricsCallback``: means of what a loop of one's own measures, said, recorded and kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...files.io import plain, write_json
from ...runs.tracking import NullTracker
from .hooks import Callback


class MetricsCallback(Callback):
    """Says and records the means of the batches' metrics, and keeps one record per epoch in ``history``.

    Tensors in ``logs`` are added where they are and read once per interval, so that a GPU is not stalled by batches.
    In TrainingLoop, which records its steps itself, it keeps the epochs only.

    Args:
        log_interval: batches between two lines.
        tracker: also gets the means, as ``train/<name>``, against the number of batches so far.
        path: JSON file that holds ``history`` after every epoch.
    """

    def __init__(
        self,
        log_interval: int = 100,
        *,
        tracker: NullTracker | None = None,
        path: str | Path | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        """Raises ConfigError for an interval under 1."""
        if log_interval < 1:
            raise ConfigError("log_interval of 1 or more", got=log_interval, where="MetricsCallback")
        self.log_interval, self.tracker = log_interval, tracker or NullTracker()
        self.path = Path(path) if path is not None else None
        self.log = log or logging.getLogger(__name__)
        self.history: list[dict[str, Any]] = []
        self.epoch, self.n_steps = 0, 0
        self._interval, self._whole = Means(), Means()

    def on_epoch_start(self, epoch: int) -> None:
        self.epoch = epoch
        self._interval, self._whole = Means(), Means()

    def on_batch_end(self, batch_idx: int, logs: Mapping[str, Any]) -> None:
        self.n_steps += 1
        for means in (self._interval, self._whole):
            means.add(logs)
        if (batch_idx + 1) % self.log_interval == 0:
            values = self._interval.read()
            self._interval = Means()
            self.log.info("epoch %d, batch %d: %s", self.epoch + 1, batch_idx + 1, _listed(values))
            self.tracker.log(self.n_steps, {f"train/{name}": value for name, value in values.items()})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        means = {f"train_{name}": value for name, value in self._whole.read().items()}
        record = plain({"epoch": epoch + 1, **means, **logs})
        self.history = [*(r for r in self.history if r["epoch"] != record["epoch"]), record]
        self.log.info("epoch %d: %s", epoch + 1, _listed({k: v for k, v in record.items() if k != "epoch"}))
        if self.path is not None:
            write_json(self.path, self.history)

    def state_dict(self) -> dict[str, Any]:
        return {
            "n_steps": self.n_steps,
            "history": self.history,
            "interval": self._interval.state_dict(),
            "whole": self._whole.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_steps, self.history = int(state["n_steps"]), list(state["history"])
        self._interval.load_state_dict(state["interval"])
        self._whole.load_state_dict(state["whole"])


class Means:
    """Running means by name; each over the batches that have it.

    >>> means = Means()
    >>> means.add({"loss": 1.0, "kl": 4.0}), means.add({"loss": 3.0}), means.read()
    (None, None, {'loss': 2.0, 'kl': 4.0})
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Any, int]] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Numbers or 0-dimensional tensors; other things are passed over."""
        for name, value in values.items():
            if hasattr(value, "detach"):
                value = value.detach()
            elif isinstance(value, bool) or not isinstance(value, int | float):
                continue
            total, n = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, n + 1)

    def read(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / n for name, (total, n) in self._sums.items()}

    def state_dict(self) -> dict[str, list]:
        """Plain values."""
        return {name: [float(total), n] for name, (total, n) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, list]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._sums = {name: (total, int(n)) for name, (total, n) in state.items()}


def _listed(values: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return ", ".join(f"{k} {v:.5g}" if math.isfinite(v) else f"{k} {v}" for k, v in shown.items()) or "no metrics"
