"""What a training loop holds: its parts, where it stands, and the checkpoints that bring it back there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.schema import HardwareConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from ..core.tracking import NullTracker
from . import distributed
from .callbacks import Best, Callback, EarlyStopping
from .checkpoint import CheckpointStore, load_checkpoint
from .ema import ParameterAverage
from .feed import Batch, Feed
from .guards import require_finite_means
from .meter import Clock, Meter
from .muon import JointOptimizer
from .optimizers import build_optimizer
from .precision import MixedPrecision
from .preemption import StopSignals
from .resume import cut_records, default_record, load_state, training_state
from .utils import configure_cuda_performance, require_deterministic, resolve_device
from .validation import evaluate, evaluation_mode


class LoopState:
    """Parts and position of a :class:`~astromodal.training.loop.TrainingLoop`, whose docstring has the arguments."""

    def __init__(
        self,
        objective: Any,
        train_loader: Iterable[Batch],
        *,
        training: TrainingConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        hardware: HardwareConfig,
        val_loader: Iterable[Batch] | None = None,
        tracker: NullTracker | None = None,
        log: logging.Logger | None = None,
        output_dir: Path | str | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        metric_prefix: str = "",
        config_record: dict | None = None,
        progress: Callable[[int, str], Any] | None = None,
        resume: str | Path | None = None,
        init_from: str | Path | None = None,
    ) -> None:
        self.training, self.schedule_config, self.seed = training, schedule, seed
        self.log = log or logging.getLogger(__name__)
        self.metric_prefix, self._progress = metric_prefix, progress
        self.resume, self.init_from = resume, init_from
        configs = {"training": training, "optimizer": optimizer, "schedule": schedule}
        self.config_record = default_record(configs) if config_record is None else config_record
        self._prepare_hardware(hardware)
        self.objective: Any = objective.to(self.device)
        self.model: nn.Module = self.objective.model
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, optimizer)
        self._forward = distributed.wrap(self.objective, self.device)  # all ranks now hold the weights of the first
        self.ema = ParameterAverage(self.model, training.ema_decay) if training.ema_decay is not None else None
        if hardware.compile:
            self._forward = torch.compile(self._forward)
        self.feed = Feed(train_loader, training.grad_accum_steps, self.device)
        self.steps_per_epoch = self.feed.steps_per_epoch  # of the first epoch: bucketing may vary it a little
        self.val_loader = val_loader
        self.callbacks = [*callbacks]
        if training.patience is not None:
            self.callbacks.append(EarlyStopping(training.monitor, training.patience, min_delta=training.min_delta))
        self.best = Best(training.monitor)
        self.is_main = distributed.this_rank() == 0
        self.tracker = tracker if tracker is not None and self.is_main else NullTracker()
        self.store = CheckpointStore(Path(output_dir), training.keep_last, self.log) if output_dir else None
        self._reset_state()

    def _prepare_hardware(self, hardware: HardwareConfig) -> None:
        if hardware.n_threads is not None:
            torch.set_num_threads(hardware.n_threads)
        if hardware.deterministic:
            require_deterministic()
        self.device = resolve_device(hardware.device)
        if self.device.type == "cuda":
            configure_cuda_performance(hardware.tf32)
        distributed.join_process_group(self.device)
        self.precision = MixedPrecision(hardware.precision, self.device)

    def _reset_state(self) -> None:
        """Everything that a checkpoint brings back, as it is before the first step."""
        self.global_step = 0  # optimizer steps, those that fp16 skipped included
        self.n_updates = 0  # steps that moved the weights: position of the schedule
        self.n_skipped = 0  # fp16 steps skipped in a row
        self.pending = False  # the last step's validation and epoch end are still to come
        self.history: list[dict] = []
        self.last_validation: tuple[int, dict[str, float]] | None = None
        self.meter, self.epoch_meter = Meter(self.device), Meter(self.device)
        self.clock = Clock()
        self.stop_reason: str | None = None
        self._improved = False
        self._begun = False
        self.pending_rng: dict[str, Any] | None = None  # restored random state, set when fit() begins
        self.bar: Any = None
        self.signals: StopSignals | None = None

    # ------------------------------------------------------------------------------ where it stands

    @property
    def epoch(self) -> int:
        """Complete epochs."""
        return self.feed.epoch

    @property
    def total_steps(self) -> int:
        """Steps that the whole run takes; the horizon of the schedule."""
        steps = self.training.max_steps
        return self.training.epochs * self.steps_per_epoch if steps is None else steps

    @property
    def done(self) -> bool:
        """Whether the run has reached its last step or was asked to stop."""
        return self.stop_reason is not None or self.global_step >= self.total_steps

    def stop(self, reason: str) -> None:
        """End the run after this step; for callbacks."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.log.info("stopping at step %d: %s", self.global_step, reason)

    @property
    def learning_rates(self) -> dict[str, float]:
        """``optim/lr``, and one for each part of a joint optimizer."""
        rates = {"optim/lr": float(self.optimizer.param_groups[0]["lr"])}
        if isinstance(self.optimizer, JointOptimizer):
            for name, part in self.optimizer.parts.items():
                rates[f"optim/lr_{name}"] = float(part.param_groups[0]["lr"])
        return rates

    def load_checkpoint(self, path: str | Path) -> None:
        """Stand where ``path`` was saved; :meth:`fit` goes on from there."""
        load_state(self, load_checkpoint(path), path)
        self._begun = True
        cut_records(self)

    def evaluate(self, loader: Iterable[Batch], *, averaged: bool = True) -> dict[str, float]:
        """Metrics over ``loader`` with the weights that a validation would use; changes nothing.

        Args:
            averaged: False uses the model's own weights also where there is an average, for example after loading
                ``best_model.pt`` into the model.

        Raises:
            DataError: the loader has no batch.
        """
        with self.averaged() if averaged else nullcontext(), evaluation_mode(self.objective, self.seed):
            return evaluate(self.objective, loader, self.precision)

    def save(self) -> None:
        """Write ``last.pt`` (and, when due, the numbered and the best checkpoint); call it on all ranks."""
        if self.store is not None:
            require_finite_means(self.global_step, self.meter.read())  # never keep a state that is already lost
            state = training_state(self)
            if self.is_main:
                numbered = is_due(self.global_step, self.training.save_every) and not self.pending
                self.store.save(state, numbered=numbered, best=self._improved)
            distributed.barrier()
        self._improved = False

    def averaged(self) -> AbstractContextManager:
        """Context in which the model holds the averaged weights, if there is an average."""
        return self.ema.applied() if self.ema is not None else nullcontext()


def is_due(step: int, every: int | None) -> bool:
    return every is not None and every > 0 and step % every == 0
