"""Several processes under torchrun: process group, wrapping, and the few reductions that the loop needs.

A process that dies or hangs is noticed in two ways. Over gloo the next reduction fails at once; elsewhere it would
wait for ``TIMEOUT``, so :mod:`.heartbeat` watches signs of life beside it. Either way the others end with one line,
and the run can be resumed from its last checkpoint.

Losses and statistics are shares of the step, so ranks are summed, not averaged. DistributedDataParallel
averages gradients; the loop therefore multiplies each rank's loss by the number of ranks. Every function also
works in a single process, where it does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.schema import Parallel
from ..errors import ConfigError, TrainingError
from .heartbeat import Heartbeat
from .sharded import is_sharded

TIMEOUT = timedelta(minutes=30)  # for a reduction: one process may write or plot for long while the others wait
_LOST = ("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe",
         "nccl communicator was aborted", "timed out waiting", "remote process exited", "socket timeout")  # fmt: skip
_heartbeat: Heartbeat | None = None


def initialised() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def join_process_group(device: torch.device, rank_timeout_s: float | None = None) -> bool:
    """Join the group that torchrun described in the environment; True if this call made it.

    On GPUs what is on the CPU (objects, counts of a step) travels over gloo, so that it never waits for the GPU.

    Args:
        rank_timeout_s: see :class:`~astromodal.training.heartbeat.Heartbeat`; ``None`` watches nobody.
    """
    global _heartbeat
    if initialised() or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    if rank_timeout_s is not None:
        _heartbeat = Heartbeat(dist.get_rank(), dist.get_world_size(), rank_timeout_s)
        _heartbeat.start()
    return True


def leave_process_group() -> None:
    """Undo :func:`join_process_group`, once all processes are here."""
    global _heartbeat
    if initialised():
        dist.barrier()
        if _heartbeat is not None:
            _heartbeat.stop()
            _heartbeat = None
        dist.destroy_process_group()


@contextmanager
def explain_lost_rank() -> Iterator[None]:
    """Turn the failure of a reduction whose partner is gone into one line.

    Raises:
        TrainingError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if n_ranks() == 1 or not any(words in str(error).lower() for words in _LOST):
            raise
        raise TrainingError(
            f"all {n_ranks()} processes to take part",
            got=f"no answer from another one to process {this_rank()}",
            repair="see above or in its log why it ended; the same command with resume=auto goes on from the last "
            "checkpoint",
        ) from error


def wants_shards(parallel: Parallel | str) -> bool:
    """Whether the model is to be divided among the processes of this run.

    Raises:
        ConfigError: several processes are asked for, and this is a single one that torchrun has not started.
    """
    parallel = Parallel(parallel)
    if parallel is not Parallel.auto and n_ranks() == 1 and "RANK" not in os.environ:
        raise ConfigError(f"several processes for hardware.parallel={parallel.value}", got="one",
                          repair="torchrun --nproc-per-node=<processes> train_lm.py …, or hardware=auto")  # fmt: skip
    return parallel is Parallel.fsdp and n_ranks() > 1


def n_ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if initialised() else 1


def this_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if initialised() else 0


def wrap(objective: nn.Module, device: torch.device) -> nn.Module:
    """``objective`` whose backward pass averages gradients over the ranks (itself, if it does so already)."""
    if n_ranks() == 1 or is_sharded(objective.model):
        return objective
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=ids)


def without_sync(module: nn.Module, skip: bool) -> AbstractContextManager:
    """Context in which gradients are not exchanged, for all but the last micro-batch of a step.

    Sharded models exchange them every time: whole gradients, to wait with, are what has no room.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile
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
