"""Validation: the same weights give the same numbers, weighted by what was predicted and not by batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..machine.random import get_rng_state, seed_everything, set_rng_state
from ..parallel import distributed
from .precision import MixedPrecision


def to_device(batch: dict[str, Any], device: torch.device, pin: bool = False) -> dict[str, Any]:
    """The batch with its tensors on ``device``; the copy does not wait for the GPU."""
    if device.type == "cpu":
        return batch
    moved = {}
    for key, value in batch.items():
        if isinstance(value, Tensor):
            if pin and device.type == "cuda" and value.device.type == "cpu" and not value.is_pinned():
                value = value.pin_memory()
            value = value.to(device, non_blocking=True)
        moved[key] = value
    return moved


@contextmanager
def evaluation_mode(objective: nn.Module, seed: int) -> Iterator[None]:
    """No dropout, no gradient, and random draws (masks, samples) that are the same every time and disturb no others."""
    was_training, state = objective.training, get_rng_state()
    objective.eval()
    seed_everything(seed)
    try:
        with torch.no_grad():
            yield
    finally:
        set_rng_state(state)
        objective.train(was_training)


def evaluate(
    objective: Any,
    loader: Iterable[dict[str, Any]],
    precision: MixedPrecision,
    *,
    max_batches: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Metrics of ``objective`` over ``loader``: sums and counts are added on the device and read once.

    Args:
        check: called before each batch; may raise to end the evaluation.

    Raises:
        DataError: the loader has no batch.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    totals: dict[str, Tensor] = {}
    dtype = torch.float32 if precision.device.type == "mps" else torch.float64
    for batch in islice(loader, max_batches):
        check()
        with precision.autocast():
            pairs = objective.evaluate(to_device(batch, precision.device))
        for name, pair in pairs.items():
            values = torch.stack([torch.as_tensor(v, device=precision.device).to(dtype) for v in pair])
            totals[name] = totals[name] + values if name in totals else values
    names = sorted({name for rank in distributed.gather(sorted(totals)) for name in rank})
    if not names:
        raise DataError("at least one batch of validation data", got=0, repair="raise data.splits.val_fraction")
    empty = torch.zeros(2, dtype=dtype, device=precision.device)
    table = distributed.sum_over_ranks(torch.stack([totals.get(name, empty) for name in names])).tolist()
    return objective.summarize({name: (row[0], row[1]) for name, row in zip(names, table, strict=True)})
