"""What can be hung into the training loop: a short protocol, and early stopping.

The loop stays readable in one place; a callback may watch it, add validation metrics (physical units, coverage)
and ask it to stop. Its state is part of the checkpoint.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .loop import TrainingLoop

HIGHER_IS_BETTER = ("accuracy", "top1", "r2")


class Callback:
    """Base class; override what is needed. ``loop`` has ``global_step``, ``epoch``, ``objective``, ``stop(reason)``."""

    def on_step_begin(self, loop: TrainingLoop, batches: list[dict[str, Any]]) -> None:
        """Before every optimizer step, with its prepared micro-batches on the CPU."""

    def on_step_end(self, loop: TrainingLoop) -> None:
        """After every optimizer step; must not read device tensors (that would stall the GPU)."""

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float] | None:
        """After a validation, while the model holds the validated weights; returns further ``val/`` metrics."""
        return None

    def on_epoch_end(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        """After an epoch, with its record of the history."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""


def metric_mode(monitor: str) -> str:
    """``max`` for accuracies and R², else ``min``.

    >>> metric_mode("val/score"), metric_mode("val/top1_image")
    ('min', 'max')
    """
    return "max" if any(word in monitor.rsplit("/", 1)[-1].split("_") for word in HIGHER_IS_BETTER) else "min"


class Best:
    """Best value of a metric so far and the step it was reached at."""

    def __init__(self, monitor: str, mode: str | None = None, min_delta: float = 0.0) -> None:
        """``mode``: ``min`` or ``max``; ``min_delta``: what an improvement has to exceed."""
        self.monitor = monitor
        self.mode = mode or metric_mode(monitor)
        if self.mode not in ("min", "max"):
            raise ConfigError("mode min or max", got=repr(mode))
        self.min_delta = min_delta
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
    """Stop when ``monitor`` has not improved in ``patience`` validations (from ``start_ratio`` of the run on)."""

    def __init__(
        self,
        monitor: str,
        patience: int,
        *,
        mode: str | None = None,
        min_delta: float = 0.0,
        start_ratio: float = 0.0,
    ) -> None:
        """Raises ConfigError for a patience under 1."""
        if patience < 1:
            raise ConfigError("training.patience of 1 or more, or null", got=patience)
        self.patience = patience
        self.start_ratio = start_ratio
        self.best = Best(monitor, mode, min_delta)
        self.n_bad = 0

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        value = metrics.get(self.best.monitor.removeprefix("val/"))
        if value is None:
            raise ConfigError(f"a validation metric {self.best.monitor}", got=", ".join(sorted(metrics)),
                              where="training.monitor")  # fmt: skip
        if self.best.update(value, loop.global_step):
            self.n_bad = 0
        elif loop.global_step >= self.start_ratio * loop.total_steps:
            self.n_bad += 1
            if self.n_bad >= self.patience:
                loop.stop(f"{self.best.monitor} has not improved in {self.n_bad} validations")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best.state_dict(), "n_bad": self.n_bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.load_state_dict(state["best"])
        self.n_bad = int(state["n_bad"])
