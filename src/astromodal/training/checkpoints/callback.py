"""``CheckpointCallback``: every so many epochs or steps, and the best by a metric, in a folder of the user's choice.

In a loop of the user's own it writes the public keys (``epoch model_state_dict optimizer_state_dict config …``).
In :class:`~astromodal.training.loop.TrainingLoop`, which keeps ``last``, ``best`` and ``step_*`` itself, it copies the
loop's checkpoint, so that nothing is serialised twice and each copy can be resumed from.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...files.atomic import writing
from ...files.io import plain, save_torch
from ..callbacks.hooks import Callback, look_up
from ..callbacks.stopping import Best
from .checkpoint import copy_checkpoint, unwrapped

if TYPE_CHECKING:
    from ..loop import TrainingLoop

_NO_MODEL = (
    "CheckpointCallback has no model and saves nothing: give it model=…, optimizer=…, "
    "or call callbacks.attach(model=…, optimizer=…)"
)


class CheckpointCallback(Callback):
    """Writes ``<save_dir>/checkpoint_epoch_<n>.pt``, ``checkpoint_step_<n>.pt`` and ``best.pt``.

    Args:
        save_interval: epochs between two checkpoints (n counts complete epochs); ``None`` for none.
        save_best: keep the best by ``monitor``; in the folder of TrainingLoop's own checkpoints, whose ``best.pt``
            follows ``training.monitor``, it is called ``best_<metric>.pt``.
        mode: ``min`` or ``max``; default by the metric's name.
        save_every: steps (batches of the user's loop) between two checkpoints; ``None`` for none.
        keep_last: how many of the numbered ones are kept, of either kind; ``None`` for all.
        model, optimizer, scheduler, config: what a loop of the user's own saves; :meth:`attach` sets them later.
    """

    def __init__(
        self,
        save_dir: str | Path = "checkpoints",
        save_interval: int | None = 1,
        save_best: bool = True,
        monitor: str = "val_loss",
        mode: str | None = None,
        *,
        save_every: int | None = None,
        keep_last: int | None = None,
        **parts: Any,
    ) -> None:
        """Raises ConfigError for a period or a number under 1."""
        for key, value in {"save_interval": save_interval, "save_every": save_every, "keep_last": keep_last}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{key} of 1 or more, or None", got=value, where="CheckpointCallback")
        self.save_dir = Path(save_dir)
        self.save_interval, self.save_every, self.keep_last = save_interval, save_every, keep_last
        self.best = Best(monitor, mode) if save_best else None
        self.log = logging.getLogger(__name__)
        self.parts: dict[str, Any] = {"model": None, "optimizer": None, "scheduler": None, "config": None}
        self.attach(**parts)
        self.n_epochs, self.n_steps = 0, 0  # complete ones, in a loop of the user's own
        self.due: list[str] = []  # files that the loop's next checkpoint is copied to
        self._warned: set[str] = set()

    def attach(self, **parts: Any) -> None:
        """Say what to save: ``model``, ``optimizer``, ``scheduler``, ``config``."""
        unknown = set(parts) - set(self.parts)
        if unknown:
            raise ConfigError(
                f"parts among {', '.join(self.parts)}", got=", ".join(sorted(unknown)), where="CheckpointCallback"
            )
        self.parts |= parts

    # ----------------------------------------------------------------------------- a loop of one's own

    def on_epoch_start(self, epoch: int) -> None:
        self.n_epochs = epoch
        if self.parts["model"] is None:
            self._warn(_NO_MODEL)

    def on_batch_end(self, batch_idx: int, logs: Mapping[str, Any]) -> None:
        self.n_steps += 1
        if self.save_every is not None and self.n_steps % self.save_every == 0:
            self._write([_step_name(self.n_steps)], logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        self.n_epochs = epoch + 1
        names = [_epoch_name(self.n_epochs)] if self._epoch_due(self.n_epochs) else []
        if self._improved(logs, self.n_epochs):
            names.append("best.pt")
        self._write(names, logs)

    def _write(self, names: list[str], logs: Mapping[str, Any]) -> None:
        if not names:
            return
        if self.parts["model"] is None:
            self._warn(_NO_MODEL)
            return
        state: dict[str, Any] = {"epoch": self.n_epochs, "global_step": self.n_steps, "metrics": plain(dict(logs))}
        for name in ("model", "optimizer", "scheduler"):
            if self.parts[name] is not None:
                own = self.parts[name].state_dict()
                state[f"{name}_state_dict"] = unwrapped(own) if name == "model" else own
        config = self.parts["config"]
        state["config"] = plain(config.to_dict() if hasattr(config, "to_dict") else config)
        save_torch(self.save_dir / names[0], state)
        for name in names[1:]:
            copy_checkpoint(self.save_dir / names[0], self.save_dir / name)
        self._prune()

    # -------------------------------------------------------------------------------------- TrainingLoop

    def on_fit_start(self, loop: TrainingLoop) -> None:
        if loop.store is None:
            raise ConfigError(
                "a TrainingLoop with output_dir for CheckpointCallback, which copies its checkpoints",
                got="output_dir=None",
            )
        self._in_loops_folder = self.save_dir.resolve() == loop.store.folder.resolve()
        self._warned.add(_NO_MODEL)
        if self.due:  # the run was killed between its checkpoint and the copy
            loop.save()

    def on_step_end(self, loop: TrainingLoop) -> None:
        step, own = loop.global_step, loop.training.save_every
        saved_anyway = self._in_loops_folder and own is not None and step % own == 0
        if self.save_every is not None and step % self.save_every == 0 and not saved_anyway:
            self._want(loop, _step_name(step))

    def on_validation_end(self, loop: TrainingLoop, metrics: dict[str, float]) -> None:
        if self._improved(metrics, loop.global_step):
            monitor = self.best.monitor  # type: ignore[union-attr]
            if not self._in_loops_folder:
                self._want(loop, "best.pt")
            elif monitor != loop.training.monitor:  # else the loop's own best.pt is this one
                self._want(loop, f"best_{re.sub('[^A-Za-z0-9]+', '_', monitor)}.pt")

    def on_epoch_recorded(self, loop: TrainingLoop, record: dict[str, Any]) -> None:
        if self._epoch_due(record["epoch"]):
            self._want(loop, _epoch_name(record["epoch"]))

    def on_save(self, loop: TrainingLoop) -> Callable[[Path], None] | None:
        due, self.due = self.due, []
        return partial(self._copy, due) if due else None

    def _copy(self, names: list[str], path: Path) -> None:
        for name in names:
            copy_checkpoint(path, self.save_dir / name)
        self._prune()

    def _want(self, loop: TrainingLoop, name: str) -> None:
        self.due.append(name)
        loop.request_save()

    # ------------------------------------------------------------------------------------------- shared

    def _epoch_due(self, n_epochs: int) -> bool:
        return self.save_interval is not None and n_epochs % self.save_interval == 0

    def _improved(self, metrics: Mapping[str, Any], position: int) -> bool:
        if self.best is None:
            return False
        value = look_up(metrics, self.best.monitor)
        if value is None:
            known = ", ".join(sorted(metrics)) or "none"
            self._warn(f"CheckpointCallback finds no metric {self.best.monitor} among {known}: no best.pt is kept")
            return False
        return self.best.update(float(value), position)

    def _prune(self) -> None:
        """Remove the oldest numbered checkpoints of this callback."""
        if self.keep_last is None:
            return
        for kind in ("epoch", "step"):
            found = [p for p in self.save_dir.glob(f"checkpoint_{kind}_*.pt") if p.stem.rsplit("_", 1)[1].isdecimal()]
            for path in sorted(found, key=lambda p: int(p.stem.rsplit("_", 1)[1]))[: -self.keep_last]:
                with writing(path):
                    path.unlink(missing_ok=True)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.log.warning("%s", message)

    def state_dict(self) -> dict[str, Any]:
        best = self.best.state_dict() if self.best else None
        return {"best": best, "n_epochs": self.n_epochs, "n_steps": self.n_steps, "due": list(self.due)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.best is not None and state["best"] is not None:
            self.best.load_state_dict(state["best"])
        self.n_epochs, self.n_steps, self.due = int(state["n_epochs"]), int(state["n_steps"]), list(state["due"])


def _epoch_name(n_epochs: int) -> str:
    return f"checkpoint_epoch_{n_epochs}.pt"


def _step_name(n_steps: int) -> str:
    return f"checkpoint_step_{n_steps:08d}.pt"
