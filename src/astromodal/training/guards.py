"""Training that cannot go on says why: a loss or gradient that is not finite, or no memory left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

_REPAIR = "lower optimizer.learning_rate or training.grad_clip, lengthen schedule.warmup_steps, or look for bad data"
_CPU_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def require_finite_means(step: int, means: Mapping[str, float]) -> None:
    """Check the logged means, at which a GPU has to stop anyway.

    Raises:
        TrainingError: naming the step and the terms.
    """
    if not all(map(math.isfinite, means.values())):
        raise TrainingError("finite losses and gradients", got=_listed(means), where=f"at or before step {step}",
                            repair=_REPAIR)  # fmt: skip


def require_finite(step: int, shares: Sequence[Mapping[str, Tensor]], norm: Tensor, batches: Sequence[dict]) -> None:
    """Check one step before its update; on the CPU, where reading a tensor costs nothing.

    Raises:
        TrainingError: naming the step, the terms and the objects (``object_index`` of the batch, where it has one).
    """
    loss = sum(float(share["loss"]) for share in shares)
    if math.isfinite(loss) and math.isfinite(float(norm)):
        return
    terms: dict[str, float] = {}
    for share in shares:
        for name, value in share.items():
            terms[name] = terms.get(name, 0.0) + float(value)
    where = f"step {step}{_objects(shares, batches)}"
    raise TrainingError("a finite loss and gradient", got=_listed({**terms, "gradient norm": float(norm)}), where=where,
                        repair=_REPAIR)  # fmt: skip


def _listed(values: Mapping[str, float]) -> str:
    """Terms that are not finite first."""
    ordered = sorted(values.items(), key=lambda item: math.isfinite(item[1]))
    return ", ".join(f"{name} {value:.4g}" for name, value in ordered)


def _objects(shares: Sequence[Mapping[str, Tensor]], batches: Sequence[dict[str, Any]]) -> str:
    """Objects of the micro-batches whose loss is not finite."""
    bad = [b for s, b in zip(shares, batches, strict=False) if not math.isfinite(float(s["loss"]))]
    ids = [int(i) for b in bad if isinstance(b.get("object_index"), Tensor) for i in b["object_index"][:8]]
    return f", objects {ids[0]} … {ids[-1]}" if ids else ""


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
