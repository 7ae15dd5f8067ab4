"""The one training loop, for the transformer and for every codec.

It is given an objective (see :mod:`astromodal.models.trainable`), loaders and configuration, and owns device,
precision, accumulation, clipping, weight average, compilation, validation, checkpoints and exact resume. One
optimizer step, then :meth:`TrainingLoop._settle` for what is due after it: that order, and the rule that
everything of a step is recorded before the step is saved, is what makes a killed and resumed run end with the
same bits as one that was never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..machine.random import seed_everything, set_rng_state
from ..optim.schedules import build_schedule, fitted_warmup
from ..parallel import distributed
from .checkpoints.resume import restore
from .checkpoints.rewind import rewind
from .feed import Batch
from .loop_state import LoopState, is_due
from .preemption import Preempted, StopSignals
from .utils import deterministic_kernels
from .validation import to_device
from .watch.guards import StepTrace, check_weights, explain_out_of_memory, give_up, may_update
from .watch.recording import log_step, record_epoch, validate
from .watch.summary import describe

_NORM = "optim/grad_norm"
MAX_SKIPPED = 25  # steps skipped in a row before giving up: the scale of fp16 has then fallen by 2**25


@dataclass
class LoopResult:
    """How a run ended. ``steps`` and ``epochs`` are complete ones over the whole run, resumes included."""

    steps: int
    epochs: int
    best_metric: float | None
    best_step: int | None
    history: list[dict] = field(default_factory=list)
    stopped_early: bool = False


class TrainingLoop(LoopState):
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
        if self.done and not self.pending:
            self._say_done()
            return self._finish()
        self.objective.train()
        self.signals = StopSignals()
        explained = distributed.explain_lost_rank(), explain_out_of_memory(self.training.batch_size)
        kernels = deterministic_kernels(self.deterministic)
        with self.signals, kernels, explained[0], explained[1], self.writing_in_background():
            self.bar = self._open_bar()
            try:
                if self.pending:
                    self._settle()
                while not self.done:
                    self._run_epoch()
            except Preempted:
                self._leave()
            finally:
                if self.bar is not None and hasattr(self.bar, "close"):
                    self.bar.close()
        result = self._finish()
        self.signals.pass_on()  # one that came with the last step: the training is whole, what follows is not begun
        return result

    def _run_epoch(self) -> None:
        """Steps to the end of the epoch, or of the run."""
        if self.feed.batch == 0:
            for callback in self.callbacks:
                callback.on_epoch_start(self.epoch)
        groups = self.feed.groups()
        while not self.done:
            with self.clock.data():
                group = next(groups, None)
                batches = self.objective.prepare(group, self.global_step + 1) if group is not None else []
            if group is None:
                break
            for callback in self.callbacks:
                callback.on_step_begin(self, batches)
            self._train_step(batches)
            self.pending = True
            if self.global_step % self.training.log_every == 0 or self.global_step >= self.total_steps:
                log_step(self)
            for callback in self.callbacks:
                callback.on_step_end(self)
            self._check_signals()
            self._settle()
            self._check_signals()
            if self.feed.batch == 0:  # the epoch was closed
                break

    def _train_step(self, batches: list[Batch]) -> None:
        """Forward and backward over the micro-batches of one step, and the update."""
        factor = self.schedule(self.n_updates + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.trace = trace = StepTrace(self.global_step + 1)
        for i, batch in enumerate(batches):
            self.clock.n_tokens += _n_tokens(batch)
            trace.begin(batch, self.device)
            batch = to_device(batch, self.device, self.training.pin_memory)
            with distributed.without_sync(self._forward, skip=i + 1 < len(batches)):
                with self.precision.autocast():
                    loss, stats = self._forward(batch)
                # Ranks' gradients are averaged, but losses are shares: their sum is wanted.
                self.precision.backward(loss * distributed.n_ranks() if distributed.n_ranks() > 1 else loss)
            trace.shares.append({"loss": loss.detach(), **{k: v for k, v in stats.items() if k != "loss"}})
        trace.norm = self.precision.gradient_norm(self.optimizer, self.parameters)
        updated = may_update(self, trace)
        if updated:
            self.precision.clip(self.parameters, trace.norm, self.training.grad_clip)
            updated = self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.global_step += 1
        self.clock.n_steps += 1
        self._count_step(updated, trace)
        if self.bar is not None:
            self.bar.update(1)

    def _count_step(self, updated: bool, trace: StepTrace) -> None:
        """Statistics, weight average and schedule move on, unless the step was skipped."""
        self.n_skipped = 0 if updated else self.n_skipped + 1
        if not updated:
            self.total_skipped += 1
            if self.n_skipped >= MAX_SKIPPED:
                raise give_up(self, trace)
            return
        trace.shares[-1][_NORM] = trace.norm / distributed.n_ranks()  # read() sums over the ranks
        for share in trace.shares:
            values = self.meter.add(share)
            self.epoch_meter.add_vector(("loss",), values[:1])  # the loss is the first
        self.meter.end_step()
        self.epoch_meter.end_step()
        self.n_updates += 1
        if self.ema is not None:
            self.ema.update()

    def _settle(self) -> None:
        """What is due after a step: validation, end of the epoch, checkpoint. After a pre-emption it is done again."""
        epoch_over = self.feed.exhausted
        with self.clock.paused():
            due = self._save_wanted or is_due(self.global_step, self.training.save_every)
            if epoch_over or self.done or due or self._validation_due(epoch_over):
                check_weights(self)
            if self._validation_due(epoch_over):
                self._improved = validate(self) or self._improved
            if epoch_over or self.done:
                record_epoch(self, epoch_over)
            if epoch_over:
                self.feed.next_epoch()
                self.epoch_meter.reset()
            self.pending = False
            if epoch_over or self.done or due or self._improved or self._save_wanted:
                self.save()

    # ------------------------------------------------------------------------------- the small print

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
            self.rewind_due = restored or self.resume is not None
            if not restored:
                self.set_aside()
            self.say_choice()
        warmup = fitted_warmup(self.schedule_config.warmup_steps, self.total_steps)
        if warmup != self.schedule_config.warmup_steps:
            self.log.info(
                "schedule.warmup_steps=%d does not fit a run of %d steps: shortened to %d",
                self.schedule_config.warmup_steps,
                self.total_steps,
                warmup,
            )
        self.schedule = build_schedule(self.schedule_config, self.total_steps)
        if self.pending_rng is not None:
            set_rng_state(self.pending_rng)
            self.pending_rng = None
        if self.rewind_due:
            rewind(self)
            self.rewind_due = False
        for callback in self.callbacks:
            callback.on_fit_start(self)
        self.clock.reset()

    def _finish(self) -> LoopResult:
        """Weights of the end, and the result."""
        if self.store is not None:
            with self.averaged():
                weights = self.model_state()
                if self.is_main:
                    self.store.save_weights("final_model.pt", weights, self.config_record)
        return LoopResult(
            steps=self.global_step,
            epochs=self.epoch,
            best_metric=self.best.value,
            best_step=self.best.step,
            history=list(self.history),
            stopped_early=self.stop_reason is not None,
        )

    def _leave(self) -> None:
        """Save and end the process as the signal asks."""
        self.save()
        self.finish_writing()
        kept = f"saved {self.store.folder / 'last.pt'}" if self.store else "nothing saved: no run directory"
        self.log.warning("signal %s at step %d: %s", self.signals.received, self.global_step, kept)
        raise SystemExit(self.signals.exit_code)

    def _check_signals(self, in_validation: bool = False) -> None:
        """Raise Preempted if a signal has come; several ranks agree on it, where they meet anyway."""
        if self.done and not self.pending:
            return
        if distributed.n_ranks() > 1:
            if in_validation or self.global_step % self.training.log_every:
                return
            self.signals.received = distributed.largest(self.signals.received or 0, self.device) or None
        self.signals.check()

    def check_validation(self) -> None:
        """Raise Preempted in the middle of a validation, which is repeated after the resume."""
        if self.signals is not None:
            self._check_signals(in_validation=True)

    def _validation_due(self, epoch_over: bool) -> bool:
        if self.val_loader is None:
            return False
        if self.last_validation is not None and self.last_validation[0] == self.global_step:
            return False
        every = self.training.val_every
        return self.done or (epoch_over if every is None else is_due(self.global_step, every))

    def _say_done(self) -> None:
        """Nothing is left to do: the run is finished, was stopped, or fewer steps are asked for than are done."""
        if self.global_step > self.total_steps:
            self.log.info(
                "nothing to do: %d steps are done, more than the %d asked for", self.global_step, self.total_steps
            )
        else:
            self.log.info(
                "nothing to do: step %d of %d is done%s",
                self.global_step,
                self.total_steps,
                f" ({self.stop_reason})" if self.stop_reason else "",
            )

    def _open_bar(self) -> Any:
        """A bar over the remaining steps, if the caller gave one."""
        if self._progress is None or not self.is_main:
            return None
        return self._progress(self.total_steps - self.global_step, f"{self.metric_prefix}training")


def _n_tokens(batch: Batch) -> int:
    """Real tokens of a batch, counted on the CPU before it is copied."""
    mask = batch.get("attn_mask")
    return int(mask.sum()) if isinstance(mask, Tensor) and mask.device.type == "cpu" else 0
