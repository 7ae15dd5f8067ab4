"""Several processes under torchrun: process group, wrapping, and the few reductions that the loop needs.

Losses and statistics are shares of the step, so ranks are summed, not averaged. DistributedDataParallel
averages gradients; the loop therefore multiplies each rank's loss by the number of ranks. Every function also
works in a single process, where it does nothing.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=30)  # a validation on one rank may take long; a lost rank is torchrun's to notice


def initialised() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def join_process_group(device: torch.device) -> bool:
    """Join the group that torchrun described in the environment; True if this call made it."""
    if initialised() or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return True


def leave_process_group() -> None:
    """Undo :func:`join_process_group`."""
    if initialised():
        dist.destroy_process_group()


def n_ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if initialised() else 1


def this_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if initialised() else 0


def wrap(objective: nn.Module, device: torch.device) -> nn.Module:
    """``objective`` whose backward pass averages gradients over the ranks (itself, in a single process)."""
    if n_ranks() == 1:
        return objective
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=ids)


def without_sync(module: nn.Module, skip: bool) -> AbstractContextManager:
    """Context in which gradients are not exchanged, for all but the last micro-batch of a step."""
    return module.no_sync() if skip and isinstance(module, DistributedDataParallel) else nullcontext()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of ``values`` over the ranks, in place."""
    if n_ranks() > 1:
        dist.all_reduce(values)
    return values


def smallest(value: int, device: torch.device) -> int:
    """Minimum over the ranks of a number."""
    if n_ranks() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return int(tensor)


def largest(value: int, device: torch.device) -> int:
    """Maximum over the ranks of a number."""
    return -smallest(-value, device)


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in the order of the ranks."""
    if n_ranks() == 1:
        return [value]
    gathered: list[Any] = [None] * n_ranks()
    dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait for the other ranks."""
    if n_ranks() > 1:
        dist.barrier()
