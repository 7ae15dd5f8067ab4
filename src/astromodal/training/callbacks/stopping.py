"""When to stop: a metric that improves no longer, a coverage that rises no longer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...config.schema import MonitorMode, TrainingConfig
from ...errors import ConfigError
from .hooks import Callback, look_up

if TYPE_CHECKING:
    from ..loop import TrainingLoop

HIGHER_IS_BETTER = ("accuracy", "top1", "r2", "coverage")


def metric_mode(monitor: str) -> str:
    """``max`` for accuracies, coverages and R², else ``min``.

    >>> metric_mode("val/score"), metric_mode("val/top1_image"), metric_mode("val_loss")
    ('min', 'max', 'min')
    """
    return "max" if any(word in monitor.rsplit("/", 1)[-1].split("_") for word in HIGHER_IS_BETTER) else "min"


def mode_of(training: TrainingConfig) -> str | None:
    """``training.monitor_mode``; None for "by the metric's name"."""
    return None if training.monitor_mode == MonitorMode.auto else MonitorMode(training.monitor_mode).value


def early_stopping(training: TrainingConfig) -> list[Callback]:
    """The callback that ``training.patience`` asks for."""
    if training.patience is None:
        return []
    start, least = training.early_stop_start_ratio, training.min_delta
    mode = mode_of(training)
    return [EarlyStopping(training.monitor, training.patience, mode=mode, min_delta=least, start_ratio=start)]


class Best:
    """Best value of a metric so far and the step it was reached at."""

    def __init__(self, monitor: str, mode: str | None = None, min_delta: float = 0.0) -> None:
        """``mode``: ``min`` or ``max``; ``min_delta``: what an improvement has to exceed."""
        self.monitor = monitor
        self.mode = mode or metric_mode(monitor)
        if self.mode not in ("min", "max"):
            raise ConfigError("mode min or max", got=repr(mode))
        self.min_delta = min_delta
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.value: float | None = None
        self.step: int | None = None

    def update(self, value: float, step: int) -> bool:
        """Whether ``value`` is the best so far; NaN never is."""
        if math.isnan(value):
            return False
        gain = math.inf if self.value is None else (self.value - value) * (1 if self.mode == "min" else -1)
        if not gain > self.min_delta:
            return False
        self.value, self.step = value, step
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.step = state["value"], state["step"]


class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved ``patience`` times: validations of TrainingLoop, or one's own epochs.

    Args:
        mode: ``min`` or ``max``; default by the metric's name.
        min_delta: what an improvement has to exceed.
        start_ratio: nothing counts before this share of the run.
        total_epochs: length of the user's own loop, needed there for ``start_ratio``.

    Raises:
        ConfigError: a patience under 1, a ratio outside of 0 … 1, or a metric that nobody measures.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 20,
        *,
        mode: str | None = None,
        min_delta: float = 0.0,
        start_ratio: float = 0.0,
        total_epochs: int | None = None,
    ) -> None:
        if patience < 1:
            raise ConfigError("training.patience of 1 or more, or null", got=patience)
        if not 0.0 <= start_ratio <= 1.0:
            raise ConfigError("training.early_stop_start_ratio from 0 to 1", got=start_ratio)
        self.patience, self.start_ratio, self.total_epochs = patience, start_ratio, total_epochs
        self.best = Best(monitor, mode, min_delta)
        self.n_bad = 0

    def observe(self, value: float, position: int, counts: bool = True) -> None:
        """Take note of one more value; one that is not better counts only after the start."""
        if self.best.update(float(value), position):
            self.n_bad = 0
        elif counts:
            self.n_bad += 1

    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.n_bad >= self.patience

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        value = look_up(logs, self.best.monitor)
        if value is None:
            if self.best.value is None:  # a misspelt name would never stop anything
                raise _unknown(self.best.monitor, logs, "EarlyStopping(monitor=…)")
            return
        if self.start_ratio and self.total_epochs is None:
            raise ConfigError("total_epochs with start_ratio in a loop of one's own", got=None, where="EarlyStopping")
        self.observe(value, epoch, epoch + 1 >= self.start_ratio * (self.total_epochs or 0))

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        value = look_up(metrics, self.best.monitor)
        if value is None:
            raise _unknown(self.best.monitor, metrics, "training.monitor")
        self.observe(value, loop.global_step, loop.global_step >= self.start_ratio * loop.total_steps)
        if self.should_stop():
            loop.stop(f"{self.best.monitor} has not improved in {self.n_bad} validations")

    def on_epoch_recorded(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        """Nothing: validations are judged, and an epoch may have several."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best.state_dict(), "n_bad": self.n_bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state["best"])
        self.n_bad = int(state["n_bad"])


def _unknown(monitor: str, metrics: Mapping[str, Any], where: str) -> ConfigError:
    return ConfigError(f"a validation metric {monitor}", got=", ".join(sorted(metrics)) or "no metrics", where=where)


class CoveragePlateau(Callback):
    """Watches a coverage (share of codes or of latent space in use) and acts when it rises no longer.

    A plateau is ``patience`` observations in a row of which none is ``min_improvement`` above the last that was. At or
    above ``threshold`` the goal is reached, and the loop is asked to stop; below it the plateau is reported once, and
    training goes on, because stopping would freeze a collapsed codebook.

    Args:
        threshold: target coverage, a share; ``None`` stops at any plateau.
        monitor: name of the metric, for example ``val/coverage_image``.
        report_only: never stop.
    """

    def __init__(
        self,
        patience: int = 10,
        threshold: float | None = 0.95,
        min_improvement: float = 0.01,
        monitor: str = "coverage",
        *,
        report_only: bool = False,
    ) -> None:
        """Raises ConfigError for a patience under 1 or a negative improvement."""
        if patience < 1:
            raise ConfigError("a patience of 1 or more", got=patience, where="CoveragePlateau")
        if min_improvement < 0:
            raise ConfigError("min_improvement of 0 or more", got=min_improvement, where="CoveragePlateau")
        self.patience, self.threshold, self.min_improvement = patience, threshold, min_improvement
        self.monitor, self.report_only = monitor, report_only
        self.log = logging.getLogger(__name__)
        self.last: float | None = None  # the value that the next has to exceed
        self.highest, self.n_flat, self.missed = -math.inf, 0, False

    @property
    def plateaued(self) -> bool:
        """Whether coverage has risen no longer for ``patience`` observations."""
        return self.n_flat >= self.patience

    @property
    def reached(self) -> bool:
        """Whether the target was reached at any time."""
        return self.threshold is None or self.highest >= self.threshold

    def observe(self, value: float) -> None:
        """Take note of one more value; NaN is none that rises."""
        value = float(value)
        self.highest = value if value > self.highest else self.highest
        if not math.isnan(value) and (self.last is None or value > self.last + self.min_improvement):
            self.last, self.n_flat = value, 0
            return
        self.n_flat += 1
        if self.n_flat == self.patience and not (self.should_stop()):
            self.log.warning(
                "%s has stopped rising at %.3g%s",
                self.monitor,
                self.highest,
                "" if self.reached else f", under the target of {self.threshold:g}",
            )

    def should_stop(self) -> bool:
        """Whether a plateau was met that is to end the run."""
        return self.plateaued and self.reached and not self.report_only

    def _read(self, metrics: Mapping[str, Any]) -> None:
        value = look_up(metrics, self.monitor)
        if value is not None:
            self.observe(value)
        elif not self.missed:
            self.missed = True
            self.log.warning("no metric %s to watch among %s", self.monitor, ", ".join(sorted(metrics)) or "none")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        self._read(logs)

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        self._read(metrics)
        if self.should_stop():
            loop.stop(f"{self.monitor} has stopped rising at {self.highest:.3g}")

    def on_epoch_recorded(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        """Nothing: validations are judged."""

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "highest": self.highest, "n_flat": self.n_flat}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self.highest, self.n_flat = state["last"], float(state["highest"]), int(state["n_flat"])


EarlyStoppingCallback = EarlyStopping
CoveragePlateauCallback = CoveragePlateau
