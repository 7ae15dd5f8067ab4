"""The protocol of what can be hung into a training loop, and a list of such things for a loop of one's own.

Two groups of hooks. A loop that the user writes calls ``on_epoch_start``, ``on_batch_end``, ``on_epoch_end`` and asks
``should_stop()``. :class:`~astromodal.training.loop.TrainingLoop` calls those that take the ``loop``; the two that have
a counterpart in the first group pass it on, so that a callback written for one's own loop also runs in ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError

if TYPE_CHECKING:
    from ..loop import TrainingLoop


class Callback:
    """Base class; override what is needed. ``loop`` has ``global_step``, ``epoch``, ``objective``, ``stop(reason)``.

    None of the hooks may read device tensors outside of ``on_log``, ``on_validation_end`` and the ends of epochs: that
    would stall the GPU at every step.
    """

    # ------------------------------------------------ a loop of the user's own (TrainingLoop calls the epochs' too)

    def on_epoch_start(self, epoch: int) -> None:
        """Before an epoch; ``epoch`` counts from 0."""

    def on_batch_end(self, batch_idx: int, logs: Mapping[str, Any]) -> None:
        """After a batch, with what the user's loop has measured; never called by TrainingLoop."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """After an epoch, with its metrics (in TrainingLoop: its record of the history)."""

    def should_stop(self) -> bool:
        """Whether the loop should end now."""
        return False

    # --------------------------------------------------------------------------------------------- TrainingLoop

    def on_fit_start(self, loop: TrainingLoop) -> None:
        """Once, before the first step; what a resume restores is in place."""

    def on_step_begin(self, loop: TrainingLoop, batches: list[dict[str, Any]]) -> None:
        """Before every optimizer step, which will be number ``loop.global_step + 1``, with its micro-batches (CPU)."""

    def on_step_end(self, loop: TrainingLoop) -> None:
        """After every optimizer step."""

    def on_log(self, loop: TrainingLoop, values: dict[str, float]) -> None:
        """Every ``training.log_every`` steps, with the means since the last time (``train/loss``, ``optim/lr``…)."""

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> dict[str, float] | None:
        """After a validation, while the model holds the validated weights; returns further ``val/`` metrics."""
        return None

    def on_epoch_recorded(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        """After a complete epoch, with its record of the history."""
        self.on_epoch_end(record["epoch"] - 1, record)
        if self.should_stop():
            loop.stop(f"{type(self).__name__} asks for it")

    def on_save(self, loop: TrainingLoop) -> Callable[[Path], None] | None:
        """When a checkpoint is taken; what is returned is called with its path once it is on the disk.

        That happens in the first process only, and perhaps in another thread, which must not touch the loop.
        """
        return None

    # ---------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""


class CallbackList:
    """Several callbacks as one, for a loop of the user's own; ``TrainingLoop(callbacks=…)`` takes it as well.

    >>> callbacks = CallbackList([Callback()])
    >>> callbacks.on_epoch_start(0), callbacks.on_batch_end(0, {"loss": 1.0}), callbacks.should_stop()
    (None, None, False)
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self.callbacks = [*callbacks]

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def __len__(self) -> int:
        return len(self.callbacks)

    def append(self, callback: Callback) -> None:
        """Add one at the end."""
        self.callbacks.append(callback)

    def attach(self, **parts: Any) -> CallbackList:
        """Give ``model``, ``optimizer``, … to the callbacks that save them; returns itself."""
        for callback in self.callbacks:
            if hasattr(callback, "attach"):
                callback.attach(**parts)
        return self

    def on_epoch_start(self, epoch: int) -> None:
        """Before an epoch."""
        for callback in self.callbacks:
            callback.on_epoch_start(epoch)

    def on_batch_end(self, batch_idx: int, logs: Mapping[str, Any] | None = None) -> None:
        """After a batch."""
        for callback in self.callbacks:
            callback.on_batch_end(batch_idx, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """After an epoch."""
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs or {})

    def should_stop(self) -> bool:
        """Whether any of them asks for it."""
        return any([callback.should_stop() for callback in self.callbacks])

    def state_dict(self) -> dict[str, Any]:
        """State of each callback, for the user's own checkpoint."""
        return {name: callback.state_dict() for name, callback in named(self.callbacks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            ConfigError: the state is that of other callbacks.
        """
        wanted = [name for name, _ in named(self.callbacks)]
        if set(state) != set(wanted):
            raise ConfigError(f"the state of the callbacks {', '.join(wanted)}", got=", ".join(state) or "nothing")
        for name, callback in named(self.callbacks):
            callback.load_state_dict(state[name])


def named(callbacks: Iterable[Callback]) -> list[tuple[str, Callback]]:
    """Each callback with its name in a checkpoint: its class, and its number among those of that class.

    >>> [name for name, _ in named([Callback(), Callback()])]
    ['Callback_0', 'Callback_1']
    """
    counts: dict[str, int] = {}
    found = []
    for callback in callbacks:
        kind = type(callback).__name__
        found.append((f"{kind}_{counts.setdefault(kind, 0)}", callback))
        counts[kind] += 1
    return found


def look_up(metrics: Mapping[str, Any], monitor: str) -> Any:
    """The metric called ``monitor``, with or without ``val/`` or ``val_`` before it; None if there is none.

    A language model has no single validation loss (a loss that contains swept weights would reward small weights), so
    ``val_loss`` means its cross-entropy where there is no ``loss``.

    >>> look_up({"loss": 0.5}, "val_loss"), look_up({"val/score": 2.0}, "score"), look_up({"ce": 1.0}, "val/loss")
    (0.5, 2.0, 1.0)
    """
    bare = monitor.removeprefix("val/").removeprefix("val_")
    names = [monitor, bare, f"val/{bare}", f"val_{bare}"]
    names += ["ce", "val/ce"] if bare == "loss" and monitor != bare else []
    return next((metrics[name] for name in names if metrics.get(name) is not None), None)
