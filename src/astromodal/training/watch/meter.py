"""Running means of statistics that stay on the device until someone reads them.

Reading a 0-dimensional tensor stops the CPU until the GPU has caught up, so the loop adds on the device and
reads once per log interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...parallel import distributed
from .spikes import SpikeWatch


class Meter:
    """Mean per step of additive statistics: shares are summed within a step, then averaged over steps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # MPS has no float64.
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.n_steps = 0
        self._totals: dict[tuple[str, ...], Tensor] = {}

    def add(self, stats: Mapping[str, Tensor]) -> Tensor:
        """Add one micro-batch's shares (0-d tensors on the device); no synchronisation. Returns them as a vector."""
        values = torch.stack([v.detach() for v in stats.values()]).to(self.dtype)
        self.add_vector(tuple(stats), values)
        return values

    def add_vector(self, names: tuple[str, ...], values: Tensor) -> None:
        """:meth:`add` for shares that are a vector already."""
        total = self._totals.get(names)
        if total is None:
            self._totals[names] = values.clone()
        else:
            total.add_(values)

    def end_step(self) -> None:
        """The shares added so far make up one more step."""
        self.n_steps += 1

    def read(self) -> dict[str, float]:
        """Mean per step of each statistic, summed over the ranks; one synchronisation."""
        if not self.n_steps or not self._totals:
            return {}
        vector = distributed.sum_over_ranks(torch.cat(list(self._totals.values())))
        means: dict[str, float] = {}
        names = [name for group in self._totals for name in group]
        for name, value in zip(names, vector.tolist(), strict=True):
            means[name] = means.get(name, 0.0) + value / self.n_steps
        return means

    def state_dict(self) -> dict:
        """Tensors and plain values."""
        names = [list(group) for group in self._totals]
        return {"n_steps": self.n_steps, "names": names, "totals": list(self._totals.values())}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of :meth:`state_dict`."""
        self.n_steps = int(state["n_steps"])
        totals = [t.to(self.device, self.dtype) for t in state["totals"]]
        self._totals = {tuple(n): t for n, t in zip(state["names"], totals, strict=True)}

    def load_sum(self, states: Sequence[dict]) -> None:
        """:meth:`load_state_dict` of another number of ranks: the first takes what all of them had."""
        self.load_state_dict(states[0])
        for state in states[1:]:
            for names, total in zip(state["names"], state["totals"], strict=True):
                self.add_vector(tuple(names), total.to(self.device, self.dtype))
        if distributed.this_rank() > 0:
            self._totals = {names: torch.zeros_like(total) for names, total in self._totals.items()}


class Clock:
    """Wall time of a log interval: in all, waiting for data, and without what is not training (validation, saving)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self._begin = time.perf_counter()
        self._paused = 0.0
        self.waiting = 0.0
        self.n_tokens = 0
        self.n_steps = 0

    @contextmanager
    def data(self) -> Iterator[None]:
        """Time in this block is spent on waiting for batches and preparing them."""
        begin = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in this block does not count."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """``perf/step_ms``, ``perf/data_fraction`` and, if tokens were counted, ``perf/tokens_per_second``."""
        seconds = max(time.perf_counter() - self._begin - self._paused, 1e-9)
        values = {
            "perf/step_ms": 1e3 * seconds / max(self.n_steps, 1),
            "perf/data_fraction": min(1.0, self.waiting / seconds),
        }
        if self.n_tokens:
            # Ranks take batches of one distribution, so one rank's count stands for all.
            values["perf/tokens_per_second"] = self.n_tokens * distributed.n_ranks() / seconds
        return values


@dataclass
class Meters:
    """All that is measured between two records."""

    step: Meter  # since the last record
    epoch: Meter  # the loss, since the epoch began
    spikes: SpikeWatch
    clock: Clock = field(default_factory=Clock)
    quantities: dict[str, float] = field(default_factory=dict)  # what callbacks have set, by name

    @classmethod
    def on(cls, device: torch.device, spike_factor: float | None) -> Meters:
        """Empty ones."""
        return cls(Meter(device), Meter(device), SpikeWatch(spike_factor))

    def add(self, shares: Sequence[Mapping[str, Tensor]]) -> None:
        """The micro-batches of one step; of each, the loss is the first statistic."""
        for share in shares:
            values = self.step.add(share)
            self.epoch.add_vector(("loss",), values[:1])
        self.step.end_step()
        self.epoch.end_step()

    def restart(self) -> None:
        """Begin anew after a record."""
        self.step.reset()
        self.clock.reset()
