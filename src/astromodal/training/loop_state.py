"""What a training loop holds: its parts, where it stands, and the checkpoints that bring it back there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.schema import (
    HardwareConfig,
    MonitorMode,
    OptimizerConfig,
    OptimizerName,
    Precision,
    ScheduleConfig,
    TrainingConfig,
)
from ..files.atomic import writing
from ..optim.muon import JointOptimizer
from ..optim.optimizers import build_optimizer
from ..parallel import distributed
from ..parallel.rank import broadcast_object
from ..parallel.sharded import gathered, shard
from ..runs.tracking import NullTracker
from .arithmetic import Choice, choose
from .callbacks.hooks import Callback
from .callbacks.stopping import Best, EarlyStopping
from .checkpoints.background import BackgroundWriter
from .checkpoints.checkpoint import CheckpointStore, load_checkpoint
from .checkpoints.resume import default_record, load_state, training_state
from .ema import ParameterAverage
from .feed import Batch, Feed
from .precision import MixedPrecision
from .preemption import StopSignals
from .utils import configure_cuda_performance, deterministic_kernels, prepare_cublas, resolve_device
from .validation import evaluate, evaluation_mode
from .watch.guards import StepTrace, check_means
from .watch.meter import Clock, Meter
from .watch.spikes import SpikeWatch
from .watch.summary import training_summary


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
        self._prepare_hardware(hardware, OptimizerName(optimizer.name))
        self.model: nn.Module = objective.model
        if distributed.wants_shards(hardware.parallel):
            shard(self.model, self.device, self.precision.name)  # before the move: the whole may not fit
        self.objective: Any = objective.to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, optimizer, self.choice.muon)
        self._forward = distributed.wrap(self.objective, self.device)  # all ranks now hold the weights of the first
        self.ema = ParameterAverage(self.model, training.ema_decay) if training.ema_decay is not None else None
        if hardware.compile:
            varied = {"dynamic": True} if getattr(objective, "dynamic_shapes", False) else {}
            self._forward = torch.compile(self._forward, **varied)
        self.feed = Feed(train_loader, training.grad_accum_steps, self.device)
        self.steps_per_epoch = self.feed.steps_per_epoch  # of the first epoch: bucketing may vary it a little
        self.val_loader = val_loader
        self.callbacks = [*callbacks]
        mode = None if training.monitor_mode == MonitorMode.auto else MonitorMode(training.monitor_mode).value
        if training.patience is not None:
            self.callbacks.append(
                EarlyStopping(
                    training.monitor,
                    training.patience,
                    mode=mode,
                    min_delta=training.min_delta,
                    start_ratio=training.early_stop_start_ratio,
                )
            )
        self.best = Best(training.monitor, mode)
        self.is_main = distributed.this_rank() == 0
        self.tracker = tracker if tracker is not None and self.is_main else NullTracker()
        self.store = CheckpointStore(Path(output_dir), training.keep_last, self.log) if output_dir else None
        self._reset_state()

    def _prepare_hardware(self, hardware: HardwareConfig, optimizer: OptimizerName) -> None:
        if hardware.n_threads is not None:
            torch.set_num_threads(hardware.n_threads)
        self.deterministic = hardware.deterministic
        if hardware.deterministic:
            prepare_cublas()
        self.device = resolve_device(hardware.device)
        if self.device.type == "cuda":
            configure_cuda_performance(hardware.tf32)
        distributed.join_process_group(self.device, hardware.rank_timeout_s)
        self.choice = broadcast_object(choose(hardware, self.device, optimizer))  # clocks differ from rank to rank
        self.precision = MixedPrecision(Precision(self.choice.precision), self.device)
        self._insists = hardware.cpu_bf16 is not None

    def keep_choice(self, earlier: Choice) -> None:
        """Compute in what an earlier attempt of this run has chosen, where that is still a choice."""
        self.choice = self.choice.after(earlier, self._insists)
        if self.choice.precision != self.precision.name:
            self.precision = MixedPrecision(Precision(self.choice.precision), self.device)
        for group in self.optimizer.param_groups:
            if "precision" in group:
                group["precision"] = self.choice.muon

    def _reset_state(self) -> None:
        """Everything that a checkpoint brings back, as it is before the first step."""
        self.global_step = 0  # optimizer steps, those that fp16 skipped included
        self.n_updates = 0  # steps that moved the weights: position of the schedule
        self.n_skipped = 0  # steps skipped in a row
        self.total_skipped = 0
        self.spikes = SpikeWatch(self.training.spike_factor)
        self.pending = False  # the last step's validation and epoch end are still to come
        self.history: list[dict] = []
        self.last_validation: tuple[int, dict[str, float]] | None = None
        self.meter, self.epoch_meter = Meter(self.device), Meter(self.device)
        self.clock = Clock()
        self.stop_reason: str | None = None
        self._improved = False
        self._save_wanted = False
        self.quantities: dict[str, float] = {}  # what callbacks have set, by name
        self._begun = False
        self.rewind_due = False  # records and checkpoints may be ahead of the restored state
        self.pending_rng: dict[str, Any] | None = None  # restored random state, set when fit() begins
        self.bar: Any = None
        self.signals: StopSignals | None = None
        self.trace: StepTrace | None = None  # of the last step
        self.writer: BackgroundWriter | None = None  # while fit() runs, if checkpoints are written in the background

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

    @property
    def global_batch(self) -> int:
        """Sequences of one step over all processes, as configured."""
        return self.training.batch_size * self.training.grad_accum_steps * distributed.n_ranks()

    def request_save(self) -> None:
        """Save when this step and what is due after it are done; for callbacks."""
        self._save_wanted = True

    def stop(self, reason: str) -> None:
        """End the run after this step; for callbacks."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.log.info("stopping at step %d: %s", self.global_step, reason)

    def summary(self) -> dict[str, Any]:
        """Size and cost of the model, and tokens per step; see :mod:`astromodal.training.watch.summary`."""
        return training_summary(self.model, self.feed.loader, self.steps_per_epoch)

    def say_choice(self) -> None:
        """Log what the run computes in, where that is not simply what was asked for."""
        wanted, precision, muon = self.choice.wanted, self.choice.precision, self.choice.muon
        if self.device.type != "cpu" or self._insists:
            return
        has_muon = any("precision" in group for group in self.optimizer.param_groups)
        if wanted not in (precision, "auto"):
            self.log.warning(
                "hardware.precision=%s: in %s, which this CPU is faster in (hardware.cpu_bf16=true insists)",
                wanted,
                precision,
            )
        elif wanted == "auto" and precision != "float32":
            self.log.info(
                "precision %s, which this CPU is faster in (hardware.precision=float32: as it was)", precision
            )
        if has_muon:
            self.log.info("Muon's products in %s, which this CPU is faster in", muon)

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
        self._begun = self.rewind_due = True

    def evaluate(self, loader: Iterable[Batch], *, averaged: bool = True) -> dict[str, float]:
        """Metrics over ``loader`` with the weights that a validation would use; changes nothing.

        Args:
            averaged: False uses the model's own weights also where there is an average, for example after loading
                ``best_model.pt`` into the model.

        Raises:
            DataError: the loader has no batch.
        """
        weights = self.averaged() if averaged else nullcontext()
        with deterministic_kernels(self.deterministic), weights, evaluation_mode(self.objective, self.seed):
            return evaluate(self.objective, loader, self.precision)

    def save(self) -> None:
        """Write ``last.pt`` (and, when due, the numbered and the best checkpoint); call it on all ranks.

        Within :meth:`fit` and with ``training.checkpoint_async`` it returns when the state is copied.
        """
        if self.store is not None:
            check_means(self)  # never keep a state that is already lost
            state = training_state(self)
            jobs = [job for callback in self.callbacks if (job := callback.on_save(self)) is not None]
            if self.is_main:
                numbered = is_due(self.global_step, self.training.save_every) and not self.pending
                records = getattr(self.tracker, "path", None)
                write = partial(
                    self.store.save,
                    numbered=numbered,
                    best=self._improved,
                    then=jobs,
                    after=() if records is None else (Path(records),),
                )
                if self.writer is None:
                    write(state)
                else:
                    self.writer.submit(write, state)
            distributed.barrier()
        self._improved = self._save_wanted = False

    def set_aside(self) -> None:
        """A new run in a used folder keeps what the earlier one has left there; call it on all ranks."""
        if self.store is not None and self.is_main:
            kept = self.store.set_aside()
            if kept is not None:
                self.log.warning("%s holds an earlier run, which is kept in %s", self.store.run_dir, kept.name)
        distributed.barrier()

    @contextmanager
    def writing_in_background(self) -> Iterator[None]:
        """Block in which :meth:`save` does not wait for the disk, if so configured; its end waits.

        Raises:
            ArtifactError: the last checkpoint could not be written.
        """
        if self.store is None or not self.training.checkpoint_async:
            yield
            return
        if self.is_main:
            with writing(self.store.folder):
                self.store.folder.mkdir(parents=True, exist_ok=True)  # records may come before the first checkpoint
        try:
            with BackgroundWriter(self.log) as self.writer:
                yield
        finally:
            self.writer = None

    def finish_writing(self) -> None:
        """Wait until the last checkpoint is on the disk."""
        if self.writer is not None:
            self.writer.wait()

    def model_state(self) -> dict[str, torch.Tensor]:
        """The model's weights, whole; call it on all ranks. Of a sharded model only the first gets them."""
        return gathered(self.model.state_dict())

    def averaged(self) -> AbstractContextManager:
        """Context in which the model holds the averaged weights, if there is an average."""
        return self.ema.applied() if self.ema is not None else nullcontext()


def is_due(step: int, every: int | None) -> bool:
    return every is not None and every > 0 and step % every == 0
