"""Which of several training processes this is; one process when torch.distributed is not in use.

torch is never imported here: a process group can only exist if something else has imported it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def _group() -> Any:
    """``torch.distributed`` if a process group is up, else ``None``."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed
    return None


def _launched(name: str, default: int) -> int:
    """What torchrun has put into the environment, before the process group is up."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        value = os.environ[name]
        if value.isdecimal():
            return int(value)
    return default


def rank() -> int:
    """Number of this process, from 0."""
    group = _group()
    return group.get_rank() if group else _launched("RANK", 0)


def world_size() -> int:
    """Number of processes."""
    group = _group()
    return group.get_world_size() if group else _launched("WORLD_SIZE", 1)


def dealt(jobs: Sequence[T], size: Callable[[T], int]) -> list[T]:
    """This process's share of the jobs, the largest dealt out first; all of them for a single process."""
    order = sorted(range(len(jobs)), key=lambda k: (-size(jobs[k]), k))
    return [jobs[k] for k in sorted(order[rank() :: world_size()])]


def is_last(folder: Path, name: str) -> bool:
    """Say that this process has finished its share; True if all the others have said so too.

    Processes that end at the same time may both be the last; one that fails leaves none.

    Args:
        folder: one that all of them see.
        name: of what they have shared out, such as the run's id.
    """
    if world_size() == 1:
        return True
    place = folder / ".shares" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / str(rank())).touch()
    if len(list(place.iterdir())) < world_size():
        return False
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # others share something else out
        place.parent.rmdir()
    return True


def is_main() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes; without a process group, nothing."""
    group = _group()
    if group:
        group.barrier()


def broadcast_object(value: T, source: int = 0) -> T:
    """The ``value`` of process ``source`` in every process; without a process group, one's own.

    The value travels as a pickle between processes of one run: use it for text and plain values.
    """
    group = _group()
    if not group or group.get_world_size() == 1:
        return value
    box = [value]
    group.broadcast_object_list(box, src=source)
    return box[0]
