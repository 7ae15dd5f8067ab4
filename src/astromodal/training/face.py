"""What callbacks, stages and recipes may use of a training loop: views of its parts, and what they can ask of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ..config.schema import TrainingConfig
from ..parallel import distributed
from .callbacks.stopping import Best
from .checkpoints.checkpoint import CheckpointStore
from .checkpoints.saver import Saver
from .ema import ParameterAverage
from .feed import Batch, Feed
from .network import Network
from .position import Position
from .precision import MixedPrecision
from .utils import deterministic_kernels
from .validation import evaluate, evaluation_mode
from .watch.guards import Guard
from .watch.meter import Meters
from .watch.recording import Records
from .watch.summary import training_summary


class LoopFace:
    """The parts of a :class:`~astromodal.training.loop.TrainingLoop`; what is read-only here is kept in one of them."""

    training: TrainingConfig
    seed: int
    network: Network  # what is trained, and what it computes in
    feed: Feed  # batches, and how far into the epoch they are
    steps_per_epoch: int  # of the first epoch: bucketing may vary it a little
    position: Position  # steps done, updates made, whether to stop
    meters: Meters  # what was measured since the last record
    records: Records  # where it is written down: tracker, log, history, the best so far
    saver: Saver  # checkpoints and weights
    guard: Guard  # what ends a training that cannot go on

    # ---------------------------------------------------------------------------------- what is trained

    @property
    def objective(self) -> Any:
        return self.network.objective

    @property
    def model(self) -> nn.Module:
        return self.network.model

    @property
    def optimizer(self) -> Any:
        return self.network.optimizer

    @property
    def ema(self) -> ParameterAverage | None:
        return self.network.ema

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def precision(self) -> MixedPrecision:
        return self.network.precision

    # ---------------------------------------------------------------------------------- where it stands

    @property
    def global_step(self) -> int:
        """Optimizer steps, those that were skipped included."""
        return self.position.global_step

    @property
    def n_updates(self) -> int:
        """Steps that moved the weights."""
        return self.position.n_updates

    @property
    def total_skipped(self) -> int:
        return self.position.total_skipped

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

    @property
    def stop_reason(self) -> str | None:
        return self.position.stop_reason

    @property
    def global_batch(self) -> int:
        """Sequences of one step over all processes, as configured."""
        return self.training.batch_size * self.training.grad_accum_steps * distributed.n_ranks()

    # -------------------------------------------------------------------------------- what was written

    @property
    def log(self) -> logging.Logger:
        return self.records.log

    @property
    def tracker(self) -> Any:
        return self.records.tracker

    @property
    def metric_prefix(self) -> str:
        return self.records.prefix

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record per epoch."""
        return self.records.history

    @property
    def best(self) -> Best:
        """Best value of ``training.monitor`` so far."""
        return self.records.best

    @property
    def quantities(self) -> dict[str, float]:
        """What callbacks have set, by name."""
        return self.meters.quantities

    @property
    def store(self) -> CheckpointStore | None:
        """Checkpoints of the run directory, if there is one."""
        return self.saver.store

    # ------------------------------------------------------------------------------- what can be asked

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        if self.position.stop_reason is None:
            self.position.stop_reason = reason
            self.log.info("stopping at step %d: %s", self.global_step, reason)

    def request_save(self) -> None:
        """Save when this step and what is due after it are done."""
        self.saver.wanted = True

    def summary(self) -> dict[str, Any]:
        """Size and cost of the model, and tokens per step; see :mod:`astromodal.training.watch.summary`."""
        return training_summary(self.model, self.feed.loader, self.steps_per_epoch)

    def evaluate(self, loader: Iterable[Batch], *, averaged: bool = True) -> dict[str, float]:
        """Metrics over ``loader`` with the weights that a validation would use; changes nothing.

        Args:
            averaged: False uses the model's own weights also where there is an average, for example after loading
                ``best_model.pt`` into the model.

        Raises:
            DataError: the loader has no batch.
        """
        weights = self.network.averaged() if averaged else nullcontext()
        kernels = deterministic_kernels(self.network.deterministic)
        with kernels, weights, evaluation_mode(self.objective, self.seed):
            return evaluate(self.objective, loader, self.precision)
