"""The one training loop, for the transformer and for every codec.

It is given an objective (see :mod:`astromodal.models.trainable`), loaders and configuration, and owns a few parts
(:class:`~astromodal.training.face.LoopFace` names them). Read it from :meth:`TrainingLoop.fit` down: an epoch, a step,
what is due after a step (:meth:`TrainingLoop._settle`). That order, and the rule that everything of a step is recorded
before the step is saved, is what makes a killed and resumed run end with the same bits as one that was never
interrupted. What is in a checkpoint is in :mod:`.checkpoints.state`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.schema import (
    HardwareConfig,
    OnNonfinite,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from ..errors import ConfigError
from ..files.io import plain
from ..machine.random import seed_everything, set_rng_state
from ..machine.signals import Preempted, StopSignals
from ..optim.schedules import build_schedule, fitted_warmup
from ..parallel import distributed
from ..runs.tracking import NullTracker
from .callbacks.hooks import Callback
from .callbacks.stopping import early_stopping
from .checkpoints.checkpoint import CheckpointStore, load_checkpoint
from .checkpoints.resume import restore, rewind
from .checkpoints.saver import Saver
from .checkpoints.state import load_state, training_state
from .face import LoopFace
from .feed import Batch, Feed
from .network import Network
from .position import Position, is_due
from .utils import deterministic_kernels
from .validation import evaluate, evaluation_mode, to_device
from .watch.guards import Guard, explain_out_of_memory
from .watch.meter import Meters
from .watch.recording import Records, over_steps_that_have_it
from .watch.summary import describe


@dataclass
class LoopResult:
    """How a run ended. ``steps`` and ``epochs`` are complete ones over the whole run, resumes included."""

    steps: int
    epochs: int
    best_metric: float | None
    best_step: int | None
    history: list[dict] = field(default_factory=list)
    stopped_early: bool = False


class TrainingLoop(LoopFace):
    """Train ``objective`` on ``train_loader``.

    Loaders have ``__len__`` and iterate over dicts of CPU tensors; ``set_epoch(e)`` and ``start_at(n_batches)`` are
    used where they exist. ``val_loader`` is read with the averaged weights, if there is an average.

    Args:
        output_dir: run directory for checkpoints, weights and ``training_history.json``; ``None`` writes nothing.
        metric_prefix: put before every metric's name, for several loops in one run.
        config_record: plain configuration that goes into checkpoints; a resume with another one is refused.
        progress: ``progress(total, description)`` returns a bar with ``update(n, **values)``.
        resume: ``auto`` (what ``output_dir`` holds, if anything), a run directory or a checkpoint.
        init_from: weights to start from, a file or a run directory; a resume goes before it.

    Raises:
        ConfigError: a device, precision, schedule or optimizer that cannot be had.
    """

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
        self.resume, self.init_from = resume, init_from
        self.val_loader = val_loader
        if config_record is None:
            sections: dict[str, Any] = {"training": training, "optimizer": optimizer, "schedule": schedule}
            config_record = {name: plain(asdict(section)) for name, section in sections.items()}
        self.network = Network(objective, training, optimizer, hardware)
        self.feed = Feed(train_loader, training.grad_accum_steps, self.device)
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.position = Position()
        self.meters = Meters.on(self.device, training.spike_factor)
        self.records = Records(training, tracker, log or logging.getLogger(__name__), metric_prefix, progress)
        store = CheckpointStore(Path(output_dir), training.keep_last, self.log) if output_dir else None
        self.saver = Saver(store, config_record, training.checkpoint_async, self.log)
        self.guard = Guard(
            self.network,
            self.position,
            self.meters,
            self.saver,
            on_nonfinite=OnNonfinite(training.on_nonfinite),
            prefix=metric_prefix,
            log=self.log,
        )
        self.callbacks = [*callbacks, *early_stopping(training)]
        self.signals: StopSignals | None = None  # while the loop runs
        self.rng: dict[str, Any] | None = None  # restored random state, set when fit() begins
        self._begun = False
        self._rewind_due = False  # records and checkpoints may be ahead of the restored state

    # ---------------------------------------------------------------------------------- the flow

    def fit(self) -> LoopResult:
        """Train to the end (from the checkpoint that ``resume`` names, if any).

        Raises:
            TrainingError: a loss or gradient that is not finite, no memory left, or another process gone; the message
                says what to do.
            ArtifactError: a checkpoint cannot be written; if in the background, at the next one or at the end.
            SystemExit: after SIGTERM or SIGUSR1, with everything saved.
        """
        self._begin()
        if self.done and not self.position.pending:
            self.records.say_done(self.position, self.total_steps)
            return self._finish()
        self.objective.train()
        self.signals = signals = StopSignals()
        explained = distributed.explain_lost_rank(), explain_out_of_memory(self.training.batch_size)
        kernels = deterministic_kernels(self.network.deterministic)
        with signals, kernels, explained[0], explained[1], self.saver.writing_in_background():
            bar = self.records.open_bar(self.total_steps - self.global_step)
            try:
                if self.position.pending:
                    self._settle()
                while not self.done:
                    self._run_epoch()
            except Preempted:
                self._leave(signals)
            finally:
                if bar is not None and hasattr(bar, "close"):
                    bar.close()
        result = self._finish()
        signals.pass_on()  # one that came with the last step: the training is whole, what follows is not begun
        return result

    def _run_epoch(self) -> None:
        """Steps to the end of the epoch, or of the run."""
        if self.feed.batch == 0:
            for callback in self.callbacks:
                callback.on_epoch_start(self.epoch)
        groups = self.feed.groups()
        while not self.done:
            with self.meters.clock.data():
                group = next(groups, None)
                batches = self.objective.prepare(group, self.global_step + 1) if group is not None else []
            if group is None:
                break
            for callback in self.callbacks:
                callback.on_step_begin(self, batches)
            self._train_step(batches)
            self.position.pending = True
            if self.global_step % self.training.log_every == 0 or self.global_step >= self.total_steps:
                self._log()
            for callback in self.callbacks:
                callback.on_step_end(self)
            self._check_signals()
            self._settle()
            self._check_signals()
            if self.feed.batch == 0:  # the epoch was closed
                break

    def _train_step(self, batches: list[Batch]) -> None:
        """Forward and backward over the micro-batches of one step, and the update."""
        network, precision, clock = self.network, self.network.precision, self.meters.clock
        network.set_learning_rate(self.schedule(self.n_updates + 1))
        trace = self.guard.watch(self.global_step + 1)
        for i, batch in enumerate(batches):
            clock.n_tokens += _n_tokens(batch)
            trace.begin(batch, self.device)
            batch = to_device(batch, self.device, self.training.pin_memory)
            with distributed.without_sync(network.forward, skip=i + 1 < len(batches)):
                with precision.autocast():
                    loss, stats = network.forward(batch)
                # Ranks' gradients are averaged, but losses are shares: their sum is wanted.
                precision.backward(loss * distributed.n_ranks() if distributed.n_ranks() > 1 else loss)
            trace.shares.append({"loss": loss.detach(), **{k: v for k, v in stats.items() if k != "loss"}})
        norm = trace.norm = precision.gradient_norm(network.optimizer, network.parameters)
        updated = self.guard.may_update(trace)
        if updated:
            precision.clip(network.parameters, norm, self.training.grad_clip)
            updated = precision.step(network.optimizer)
        network.optimizer.zero_grad(set_to_none=True)
        self.position.count(updated)
        clock.n_steps += 1
        if updated:  # of a skipped step nothing is counted
            trace.shares[-1]["optim/grad_norm"] = norm / distributed.n_ranks()  # read() sums over the ranks
            self.meters.add(trace.shares)
            if network.ema is not None:
                network.ema.update()
        self.guard.check_skipped(trace)
        if self.records.bar is not None:
            self.records.bar.update(1)

    def _settle(self) -> None:
        """What is due after a step: validation, end of the epoch, checkpoint. After a pre-emption it is done again."""
        saver, epoch_over = self.saver, self.feed.exhausted
        with self.meters.clock.paused():
            due = saver.wanted or is_due(self.global_step, self.training.save_every)
            if epoch_over or self.done or due or self._validation_due(epoch_over):
                self.guard.check_weights()
            if self._validation_due(epoch_over):
                saver.improved = self._validate() or saver.improved
            if epoch_over or self.done:
                self._record_epoch(epoch_over)
            if epoch_over:
                self.feed.next_epoch()
                self.meters.epoch.reset()
            self.position.pending = False
            if epoch_over or self.done or due or saver.improved or saver.wanted:
                self.save()

    # ------------------------------------------------------------------------------- what is recorded

    def _log(self) -> None:
        """Read the means of the interval (the one point where the CPU waits for the GPU) and record them."""
        means, step = over_steps_that_have_it(self.guard.check_means()), self.global_step
        values = {k if k.startswith("optim/") else f"train/{k}": v for k, v in means.items()}
        values |= self.network.learning_rates
        if self.precision.scaler is not None:
            values["optim/loss_scale"] = self.precision.scaler.get_scale()
        if self.total_skipped:
            values["optim/skipped"] = float(self.total_skipped)
        loss = means.get("loss")
        height = self.meters.spikes.update(loss) if loss is not None else None
        if loss is not None and height is not None:
            self.records.say_spike(step, loss, height)
            values["optim/spike"] = height
        values |= self.meters.clock.read()
        values |= {f"optim/{name}": value for name, value in self.quantities.items()}
        self.records.step(step, values)
        for callback in self.callbacks:
            callback.on_log(self, values)
        self.records.say_step(step, self.total_steps, float("nan") if loss is None else loss, values)
        self.meters.restart()

    def _validate(self) -> bool:
        """Measure, let the callbacks add, keep the best weights; True if they are the best so far."""
        assert self.val_loader is not None
        self.guard.check_means()
        network = self.network
        with network.averaged(), evaluation_mode(self.objective, self.seed):
            metrics = evaluate(
                self.objective,
                self.val_loader,
                network.precision,
                max_batches=self.training.max_val_batches,
                check=partial(self._check_signals, in_validation=True),  # it is repeated after the resume
            )
            if "loss" in metrics:
                metrics.setdefault("score", metrics["loss"])  # an objective without a score is judged by its loss
            for callback in self.callbacks:
                metrics.update(callback.on_validation_end(self, metrics) or {})
            improved = self.records.judge(self.global_step, metrics)
            if improved:
                self.saver.save_weights("best_model.pt", network)
        self.records.validation(self.global_step, metrics, improved)
        return improved

    def _record_epoch(self, complete: bool) -> None:
        """One record per epoch into the history, also of a last one that is not complete."""
        loss, rate = self.meters.epoch.read().get("loss"), self.network.learning_rates["optim/lr"]
        record = self.records.epoch(self.epoch + 1, self.global_step, loss, rate)
        if complete:
            for callback in self.callbacks:
                callback.on_epoch_recorded(self, record)
        self.records.write_history(self.store)

    def save(self) -> None:
        """Write ``last.pt`` (and, when due, the numbered and the best checkpoint); call it on all ranks.

        Within :meth:`fit` and with ``training.checkpoint_async`` it returns when the state is copied.
        """
        if self.store is not None:
            self.guard.check_means()  # never keep a state that is already lost
            state = training_state(self)
            jobs = [job for callback in self.callbacks if (job := callback.on_save(self)) is not None]
            numbered = is_due(self.global_step, self.training.save_every) and not self.position.pending
            self.saver.save(state, numbered=numbered, then=jobs, records=getattr(self.tracker, "path", None))
        self.saver.improved = self.saver.wanted = False

    # ------------------------------------------------------------------------------- the small print

    def load_checkpoint(self, path: str | Path) -> None:
        """Stand where ``path`` was saved; :meth:`fit` goes on from there."""
        load_state(self, load_checkpoint(path), path)
        self._begun = self._rewind_due = True

    def _begin(self) -> None:
        """Random state, restored state and schedule."""
        if self.training.log_every < 1 or self.total_steps < 1:
            raise ConfigError("training.log_every, epochs and max_steps of 1 or more", where="training")
        if not self._begun:
            self._begun = True
            seed_everything(self.seed + distributed.this_rank())
            described = describe(type(self.model).__name__, self.summary())
            self.log.info("%s, %s, %s", described, self.device, self.precision.name)
            restored = restore(self)
            self._rewind_due = restored or self.resume is not None
            if not restored:
                self.saver.set_aside()
            self.network.say_choice(self.log)
        wanted = self.schedule_config.warmup_steps
        warmup = fitted_warmup(wanted, self.total_steps)
        if warmup != wanted:
            line = "schedule.warmup_steps=%d does not fit a run of %d steps: shortened to %d"
            self.log.info(line, wanted, self.total_steps, warmup)
        self.schedule = build_schedule(self.schedule_config, self.total_steps)
        if self.rng is not None:
            set_rng_state(self.rng)
            self.rng = None
        if self._rewind_due:
            rewind(self)
            self._rewind_due = False
        for callback in self.callbacks:
            callback.on_fit_start(self)
        self.meters.clock.reset()

    def _finish(self) -> LoopResult:
        """Weights of the end, and the result."""
        if self.store is not None:
            with self.network.averaged():
                self.saver.save_weights("final_model.pt", self.network)
        return LoopResult(
            steps=self.global_step,
            epochs=self.epoch,
            best_metric=self.best.value,
            best_step=self.best.step,
            history=list(self.history),
            stopped_early=self.stop_reason is not None,
        )

    def _leave(self, signals: StopSignals) -> None:
        """Save and end the process as the signal asks."""
        self.save()
        self.saver.finish_writing()
        kept = f"saved {self.store.folder / 'last.pt'}" if self.store else "nothing saved: no run directory"
        self.log.warning("signal %s at step %d: %s", signals.received, self.global_step, kept)
        raise SystemExit(signals.exit_code)

    def _check_signals(self, in_validation: bool = False) -> None:
        """Raise Preempted if a signal has come; several ranks agree on it, where they meet anyway."""
        signals = self.signals
        if signals is None or (self.done and not self.position.pending):
            return
        if distributed.n_ranks() > 1:
            if in_validation or self.global_step % self.training.log_every:
                return
            signals.received = distributed.largest(signals.received or 0, self.device) or None
        signals.check()

    def _validation_due(self, epoch_over: bool) -> bool:
        last, every = self.records.last_validation, self.training.val_every
        if self.val_loader is None or (last is not None and last[0] == self.global_step):
            return False
        return self.done or (epoch_over if every is None else is_due(self.global_step, every))


def _n_tokens(batch: Batch) -> int:
    """Real tokens of a batch, counted on the CPU before it is copied."""
    mask = batch.get("attn_mask")
    return int(mask.sum()) if isinstance(mask, Tensor) and mask.device.type == "cpu" else 0
