"""Training that cannot go on says why: a loss or gradient that is not finite, or no memory left.

Where looking costs nothing (on the CPU) every step is looked at before its update. On a GPU looking means waiting,
so ``training.on_nonfinite=stop`` looks at the logged means, and ``skip``, which has to know before the update, waits
for the GPU once per step. fp16 skips steps that overflow in any case: its loss scale lives from that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...config.schema import OnNonfinite
from ...errors import TrainingError
from ...parallel import distributed
from ...parallel.sharded import local
from .debug_bundle import load_bundle, replay, save_bundle, torch_rng

if TYPE_CHECKING:
    from ..checkpoints.saver import Saver
    from ..network import Network
    from ..position import Position
    from .meter import Meters

__all__ = [
    "Guard",
    "StepTrace",
    "explain_out_of_memory",
    "load_bundle",
    "replay",
]

_REPAIR = "lower optimizer.learning_rate or training.grad_clip, lengthen schedule.warmup_steps, or look for bad data"
MAX_SKIPPED = 25  # steps skipped in a row before giving up: the scale of fp16 has then fallen by 2**25
_CPU_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass
class StepTrace:
    """One optimizer step while it is computed: what a report about it needs. Holds references, copies nothing."""

    step: int
    batches: list[dict[str, Any]] = field(default_factory=list)  # on the CPU, as prepared
    rng: list[dict[str, Tensor]] = field(default_factory=list)  # before each forward pass
    shares: list[dict[str, Tensor]] = field(default_factory=list)  # loss and statistics of each micro-batch
    norm: Tensor | None = None  # of the gradient, before clipping

    def begin(self, batch: dict[str, Any], device: torch.device) -> None:
        """The next micro-batch is about to be computed."""
        self.batches.append(batch)
        self.rng.append(torch_rng(device))

    def is_finite(self) -> bool:
        """Whether losses and gradient norm are; one synchronisation."""
        values = [share["loss"].float() for share in self.shares] + [self.norm.float()]  # type: ignore[union-attr]
        return all(map(math.isfinite, torch.stack(values).tolist()))

    def terms(self, i: int) -> dict[str, float]:
        """Values of micro-batch ``i``."""
        return {name: float(value) for name, value in self.shares[i].items()}

    def bad_micro_batches(self) -> list[int]:
        """Numbers of those whose loss is not finite."""
        return [i for i, share in enumerate(self.shares) if not math.isfinite(float(share["loss"]))]

    def describe(self) -> tuple[str, str]:
        """Values, those that are not finite first; and ``step <n>`` with the objects of the bad micro-batches."""
        terms: dict[str, float] = {}
        for i in range(len(self.shares)):
            for name, value in self.terms(i).items():
                terms[name] = terms.get(name, 0.0) + value
        terms["gradient norm"] = float(self.norm) if self.norm is not None else math.nan
        bad = [self.batches[i].get("object_index") for i in self.bad_micro_batches()]
        ids = [int(i) for index in bad if isinstance(index, Tensor) for i in index[:8]]
        return _listed(terms), f"step {self.step}" + (f", objects {ids[0]} … {ids[-1]}" if ids else "")


class Guard:
    """Looks at losses, gradients and weights, and ends what cannot go on.

    ``trace`` is the step that is computed, or was last.
    """

    def __init__(
        self,
        network: Network,
        position: Position,
        meters: Meters,
        saver: Saver,
        *,
        on_nonfinite: OnNonfinite,
        prefix: str,
        log: logging.Logger,
    ) -> None:
        self.network, self.position, self.meters, self.saver = network, position, meters, saver
        self.skips = OnNonfinite(on_nonfinite) is OnNonfinite.skip
        self.prefix, self.log = prefix, log
        self.trace: StepTrace | None = None

    def watch(self, step: int) -> StepTrace:
        """The trace of a step that begins."""
        self.trace = StepTrace(step)
        return self.trace

    def may_update(self, trace: StepTrace) -> bool:
        """Look at a step before its update, where that is wanted; False if the update is to be skipped.

        All ranks answer the same when steps are skipped.

        Raises:
            TrainingError: it is not finite and ``training.on_nonfinite`` is ``stop``; names step, objects and terms.
        """
        device = self.network.device
        if self.network.precision.scaler is not None or (device.type != "cpu" and not self.skips):
            return True
        finite = trace.is_finite()
        if self.skips and distributed.n_ranks() > 1:
            finite = not distributed.largest(int(not finite), device)
        if finite:
            return True
        path = self._keep(trace, before_update=True)
        if not self.skips:
            raise _error(trace, path)
        got, where = trace.describe()
        kept = f"; kept in {path}" if path else ""
        n_skipped = self.position.total_skipped + 1
        self.log.warning("%s: %s: update skipped, %d so far%s", where, got, n_skipped, kept)
        return False

    def check_skipped(self, trace: StepTrace) -> None:
        """Give up after too many skipped steps in a row.

        Raises:
            TrainingError: naming the last of them.
        """
        if self.position.n_skipped >= MAX_SKIPPED:
            path = self._keep(trace, before_update=True)
            raise _error(trace, path, f", the {self.position.n_skipped}th skipped step in a row")

    def check_means(self) -> dict[str, float]:
        """The means since the last record, at which a GPU has to stop anyway.

        Raises:
            TrainingError: one is not finite; names the step and the terms.
        """
        means = self.meters.step.read()
        if all(map(math.isfinite, means.values())):
            return means
        path = self._keep(self.trace, before_update=False) if self.trace is not None else None
        repair = _repair(path)
        if self.network.device.type != "cpu":
            repair += "; training.on_nonfinite=skip looks at every step"
        where = f"at or before step {self.position.global_step}"
        raise TrainingError("finite losses and gradients", got=_listed(means), where=where, repair=repair)

    @torch.no_grad()
    def check_weights(self) -> None:
        """Look at the weights where something is to be made of them (validation, checkpoint, end), never at every step.

        A finite loss and gradient may still make an update that is not finite: the last one of a run would be seen by
        nothing else. All ranks answer the same.

        Raises:
            TrainingError: a weight is NaN or infinite; names it, and the checkpoint with the last finite weights.
        """
        named = [(name, local(p)) for name, p in self.network.model.named_parameters()]
        finite = torch.stack([p.isfinite().all() for _, p in named]).all() if named else torch.tensor(True)
        if not distributed.largest(int(not finite), self.network.device):
            return
        bad = next((name for name, p in named if not bool(p.isfinite().all())), "another process's share")
        raise TrainingError(
            "finite weights after an update",
            got=f"NaN or infinity in {bad}",
            where=f"at or before step {self.position.global_step}",
            repair=f"{_REPAIR}; {self.saver.last_finite()}",
        )

    def _keep(self, trace: StepTrace, *, before_update: bool) -> Path | None:
        return save_bundle(trace, self.network, self.saver, prefix=self.prefix, before_update=before_update)


def _error(trace: StepTrace, path: Path | None, more: str = "") -> TrainingError:
    got, where = trace.describe()
    return TrainingError("a finite loss and gradient", got=got, where=where + more, repair=_repair(path))


def _repair(path: Path | None) -> str:
    return f"{_REPAIR} (astromodal.training.watch.guards.load_bundle('{path}') has the step)" if path else _REPAIR


def _listed(values: Mapping[str, float]) -> str:
    """Terms that are not finite first."""
    ordered = sorted(values.items(), key=lambda item: math.isfinite(item[1]))
    return ", ".join(f"{name} {value:.4g}" for name, value in ordered)


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn an allocation failure into advice.

    Raises:
        TrainingError: naming the settings to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error)
        plain_failure = type(error) is RuntimeError and any(words in text for words in _CPU_MEMORY)
        if not (plain_failure or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            raise
        raise TrainingError(
            "enough memory for one step",
            got=text.splitlines()[0][:160] if text else type(error).__name__,
            repair=f"lower training.batch_size (now {batch_size}) and raise training.grad_accum_steps as much; or "
            "lower loss.sample_k, model.max_len or the model's size; or hardware.precision=bf16",
        ) from error
