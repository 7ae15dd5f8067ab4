"""What a training writes down: metrics of steps, validations, and one record per epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...config.schema import TrainingConfig
from ...errors import ConfigError
from ...files.io import plain, write_json
from ...parallel import distributed
from ...runs.tracking import NullTracker
from ..callbacks.stopping import Best, mode_of
from ..checkpoints.checkpoint import CheckpointStore
from ..position import Position


class Records:
    """Tracker, log, history and the best value so far.

    Args:
        prefix: put before every metric's name, for several loops in one run.
        tracker: used by the first process only.
    """

    def __init__(
        self,
        training: TrainingConfig,
        tracker: NullTracker | None,
        log: logging.Logger,
        prefix: str,
        progress: Callable[[int, str], Any] | None = None,
    ) -> None:
        self.is_main = distributed.this_rank() == 0
        self.tracker = tracker if tracker is not None and self.is_main else NullTracker()
        self.log, self.prefix = log, prefix
        self.monitor = training.monitor
        self.best = Best(training.monitor, mode_of(training))
        self.history: list[dict[str, Any]] = []
        self.last_validation: tuple[int, dict[str, float]] | None = None  # step and metrics
        self._progress = progress
        self.bar: Any = None  # of progress, while the loop runs

    # --------------------------------------------------------------------------------------- steps

    def open_bar(self, n_steps: int) -> Any:
        """A bar over the steps that remain, if the caller gave one."""
        self.bar = self._progress(n_steps, f"{self.prefix}training") if self._progress and self.is_main else None
        return self.bar

    def say_done(self, position: Position, total_steps: int) -> None:
        """Nothing is left to do: the run is finished, was stopped, or fewer steps are asked for than are done."""
        step, stopped = position.global_step, position.stop_reason
        if step > total_steps:
            self.log.info("nothing to do: %d steps are done, more than the %d asked for", step, total_steps)
        else:
            why = f" ({stopped})" if stopped else ""
            self.log.info("nothing to do: step %d of %d is done%s", step, total_steps, why)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Metrics since the last record."""
        self.tracker.log(step, {f"{self.prefix}{key}": value for key, value in values.items()})

    def say_step(self, step: int, total_steps: int, loss: float, values: dict[str, float]) -> None:
        """The line of a step, or the bar's values."""
        lr = values["optim/lr"]
        if self.bar is not None:
            self.bar.update(0, loss=loss, lr=lr)
        else:
            line = "step %d of %d: loss %.5g, lr %.3g, %.1f ms per step"
            self.log.info(line, step, total_steps, loss, lr, values["perf/step_ms"])

    def say_spike(self, step: int, loss: float, height: float) -> None:
        """A spike of the loss begins."""
        if self.is_main:
            self.log.warning(
                "step %d: the loss jumped to %.5g, %.0f times its usual spread above the median of the last records",
                step,
                loss,
                height,
            )

    # --------------------------------------------------------------------------------- validations

    @property
    def metric_name(self) -> str:
        """Name of the monitored metric as the objective calls it."""
        return self.monitor.removeprefix(self.prefix).removeprefix("val/")

    def judge(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether these are the best so far.

        Raises:
            ConfigError: ``training.monitor`` is not among the metrics.
        """
        if self.metric_name not in metrics:
            known = ", ".join(f"val/{n}" for n in sorted(metrics))
            raise ConfigError(f"training.monitor to be one of {known}", got=self.monitor)
        return self.best.update(metrics[self.metric_name], step)

    def validation(self, step: int, metrics: dict[str, float], improved: bool) -> None:
        """Metrics of a validation."""
        self.last_validation = (step, plain(metrics))
        self.tracker.log(step, {f"{self.prefix}val/{key}": value for key, value in metrics.items()})
        value, best = metrics[self.metric_name], " (best)" if improved else ""
        self.log.info("step %d, validation: %s %.5g%s", step, self.monitor, value, best)

    # -------------------------------------------------------------------------------------- epochs

    def epoch(self, number: int, step: int, train_loss: float | None, lr: float) -> dict[str, Any]:
        """Put the record of an epoch into the history; that of an incomplete one is replaced when it is completed."""
        record: dict[str, Any] = {
            "epoch": number,
            "train_loss": train_loss,
            "val_loss": None,
            "lr": lr,
            "step": step,
        }
        self.history = [r for r in self.history if r["epoch"] != number]
        since = self.history[-1]["step"] if self.history else 0
        if self.last_validation is not None and self.last_validation[0] > since:
            metrics = self.last_validation[1]
            names = ("loss", "ce", self.metric_name)  # what is most like the training loss
            record["val_loss"] = next((metrics[name] for name in names if name in metrics), None)
            record |= {f"val/{key}": value for key, value in metrics.items()}
        self.history.append(plain(record))
        return record

    def write_history(self, store: CheckpointStore | None) -> None:
        """``training_history.json`` in the run directory."""
        if store is not None and self.is_main:
            write_json(store.run_dir / "training_history.json", self.history)


def over_steps_that_have_it(means: dict[str, float]) -> dict[str, float]:
    """Means of ``x`` over the steps in which it occurred, where ``seen_x`` tells the share of those; else as they are.

    Most objects lack most modalities, so many steps have no image at all; as zeros they would flatter the mean.

    >>> over_steps_that_have_it({"loss": 2.0, "image": 0.2, "seen_image": 0.25, "spectrum": 0.0, "seen_spectrum": 0.0})
    {'loss': 2.0, 'image': 0.8}
    """
    kept = {name: value for name, value in means.items() if not name.startswith("seen_")}
    for name in [n.removeprefix("seen_") for n in means if n.startswith("seen_")]:
        if means[f"seen_{name}"] > 0:
            kept[name] /= means[f"seen_{name}"]
        else:
            kept.pop(name, None)
    return kept
