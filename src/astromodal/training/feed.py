"""The training batches of an epoch in groups of one optimizer step, with a position that can be restored.

A loader is anything with ``__len__`` and ``__iter__`` over dicts of CPU tensors. It, its batch sampler, sampler
or dataset may have ``set_epoch(epoch)``; it or its batch sampler may have ``start_at(n_batches)``, which skips
without loading. Without the latter, batches before the restored position are loaded and dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from ..errors import ConfigError, DataError
from ..machine.random import get_rng_state, set_rng_state
from ..parallel import distributed

Batch = dict[str, Any]


class Feed:
    """Micro-batches of one epoch after the other; ``epoch`` and ``batch`` say where it stands."""

    def __init__(self, loader: Iterable[Batch], n_accumulate: int, device: torch.device) -> None:
        if n_accumulate < 1:
            raise ConfigError("training.grad_accum_steps of 1 or more", got=n_accumulate)
        self.loader = loader
        self.n_accumulate = n_accumulate
        self.epoch = 0  # complete epochs
        self.batch = 0  # micro-batches of the current epoch that were handed out
        self._device = device
        self._parts = [p for p in (loader, *(getattr(loader, n, None) for n in _PARTS)) if p is not None]
        self._n_accumulated = n_accumulate  # by the process that saved the restored position
        self._start: dict[str, Any] = {}  # random state with which the current epoch began
        self.n_batches = self._count()

    def _count(self) -> int:
        n_batches = distributed.smallest(len(self.loader), self._device)  # type: ignore[arg-type]
        if n_batches < 1:
            raise DataError(
                "at least one batch of training data per epoch",
                got=0,
                repair="use more data, or a smaller training.batch_size",
            )
        return n_batches

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last group may be smaller."""
        return -(-self.n_batches // self.n_accumulate)

    @property
    def exhausted(self) -> bool:
        """Whether the current epoch has no batch left."""
        return self.batch >= self.n_batches

    def next_epoch(self) -> None:
        """Move to the beginning of the next epoch."""
        self.epoch, self.batch, self._start = self.epoch + 1, 0, {}

    def groups(self) -> Iterator[list[Batch]]:
        """From where it stands to the end of the epoch, lists of up to ``n_accumulate`` micro-batches."""
        batches = self._open()
        while not self.exhausted:
            wanted = min(self.n_accumulate, self.n_batches - self.batch)
            group = list(islice(batches, wanted))
            if len(group) < wanted:
                raise DataError(
                    f"{self.n_batches} batches in an epoch, as len(loader) says",
                    got=self.batch + len(group),
                    where=type(self.loader).__name__,
                )
            self.batch += len(group)
            yield group

    def _open(self) -> Iterator[Batch]:
        """Iterator over the rest of the epoch; a restored one replays the random draws of the epoch's start."""
        self._call("set_epoch", self.epoch)
        skipped = self._call("start_at", self.batch)
        now = get_rng_state()
        if self.batch and self._start:
            set_rng_state(self._start["rng"])
            for generator, state in zip(self._generators(), self._start["generators"], strict=True):
                generator.set_state(state)
        else:
            self._start = {"rng": now, "generators": [g.get_state() for g in self._generators()]}
        self.n_batches = self._count() if not self.batch else self.n_batches
        batches = iter(self.loader)
        if self.batch:
            if not skipped:
                next(islice(batches, self.batch - 1, None), None)
            set_rng_state(now)
        return batches

    def _call(self, method: str, value: int) -> bool:
        """Call ``method`` on the loader, or else on each of its parts that has it."""
        if hasattr(self.loader, method):
            getattr(self.loader, method)(value)
            return True
        parts = [p for p in self._parts if hasattr(p, method)]
        for part in parts:
            getattr(part, method)(value)
        return bool(parts)

    def _generators(self) -> list[torch.Generator]:
        """Random generators of the loader's own, each once."""
        found = [getattr(part, "generator", None) for part in self._parts]
        unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return list(unique.values())

    def state_dict(self) -> dict:
        """Position and random state, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "n_batches": self.n_batches,
            "start": self._start,
            "n_accumulate": self.n_accumulate,
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of :meth:`state_dict`."""
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self.n_batches, self._start = int(state["n_batches"]), state["start"]
        self._n_accumulated = int(state.get("n_accumulate", self.n_accumulate))

    def recount(self) -> None:
        """After a restored position of another number of processes: as many steps into the epoch, in own batches."""
        over, steps = self.exhausted, -(-self.batch // self._n_accumulated)
        self.n_batches = self._count()
        # Never at the end of an epoch that is not over: its end was not reached by the processes that saved it.
        self.batch = self.n_batches if over else min(steps * self.n_accumulate, self.n_batches - 1)


_PARTS = ("batch_sampler", "sampler", "dataset")
