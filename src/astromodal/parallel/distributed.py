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
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..config.schema import Parallel
from ..errors import ConfigError, TrainingError
from .heartbeat import Heartbeat
from .sharded import is_sharded

MEETING = timedelta(minutes=5)  # for the others to close a run, which may take an upload, and to come to the next one
TIMEOUT = timedelta(minutes=30)  # for a reduction: one process may write or plot for long while the others wait
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "nccl communicator was aborted",
    "timed out waiting",
    "remote process exited",
    "socket timeout",
)
_heartbeat: Heartbeat | None = None
_store: dist.Store | None = None  # where the processes meet: torchrun's, or one that the first process keeps


def initialised() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def join_process_group(device: torch.device, rank_timeout_s: float | None = None, name: str = "run") -> bool:
    """Join the group that torchrun described in the environment; True if this call made it.

    On GPUs what is on the CPU (objects, counts of a step) travels over gloo, so that it never waits for the GPU.

    Args:
        rank_timeout_s: see :class:`~astromodal.parallel.heartbeat.Heartbeat`; ``None`` watches nobody.
        name: unlike that of every earlier group of these processes, whose addresses are still in the store.
    """
    global _heartbeat, _store
    if initialised() or int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if _store is None:
        _store = next(rendezvous("env://", rank, size, timeout=TIMEOUT))[0]
    else:
        _meet(_store, name, rank, size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore(name, _store), rank=rank, world_size=size, timeout=TIMEOUT)
    if rank_timeout_s is not None and _heartbeat is None:
        _heartbeat = Heartbeat(dist.get_rank(), dist.get_world_size(), rank_timeout_s)
        _heartbeat.start()
    return True


def _meet(store: dist.Store, name: str, rank: int, size: int) -> None:
    """Wait for the others, who may be closing the run before; one that is caught in it will not come."""
    store.set(f"{name}/here/{rank}", "")
    try:
        store.wait([f"{name}/here/{other}" for other in range(size)], MEETING)
    except dist.DistError:
        print(
            f"[rank {rank}] error: expected all {size} processes to go on with {name}, got not all within {MEETING}; "
            "to repair: see above why one failed; sweep.resume=<folder of the sweep> goes on",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def leave_process_group(watch: bool = False) -> None:
    """Undo :func:`join_process_group`, once all processes are here; ``watch``: they go on watching each other."""
    global _heartbeat
    if initialised():
        with explain_lost_rank():
            dist.barrier()
        if _heartbeat is not None and not watch:
            _heartbeat.stop()
            _heartbeat = None
        dist.destroy_process_group()


@contextmanager
def process_group(device: torch.device, rank_timeout_s: float | None, name: str, others_follow: bool) -> Iterator[None]:
    """The group of one run, where torchrun has started several processes; see :func:`join_process_group`.

    Each of the runs that follow each other in the same processes (jobs of a sweep) has a group of its own, so that a
    process that has failed alone, and is ahead of the others, never mixes the next run's numbers with theirs.

    Args:
        others_follow: other runs follow, also if this one fails; the processes go on watching each other.
    """
    joined = join_process_group(device, rank_timeout_s, name)
    try:
        yield
        if joined:
            leave_process_group(watch=others_follow)
    except Exception:
        if joined and others_follow and initialised():
            dist.destroy_process_group()
        raise


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
        raise ConfigError(
            f"several processes for hardware.parallel={parallel.value}",
            got="one",
            repair="torchrun --nproc-per-node=<processes> train_lm.py …, or hardware=auto",
        )
    return parallel is Parallel.fsdp and n_ranks() > 1


def n_ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if initialised() else 1


def this_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if initialised() else 0


def wrap(objective: nn.Module, device: torch.device) -> nn.Module:
    """``objective`` whose backward pass averages gradients over the ranks (itself, if it does so already)."""
    if n_ranks() == 1 or is_sharded(objective.get_submodule("model")):
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
