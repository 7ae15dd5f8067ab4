"""How many CPU threads this process may use, and how they wait for each other; said to OpenMP before torch starts it.

A thread of a parallel loop that is done early waits for the others. OpenMP lets it spin for milliseconds, which costs
nothing where every thread has a core of its own; beside another busy process the spinning takes the time of the very
thread that is waited for, and a step takes three times as long. ``benchmarks/waiting_threads.py`` measures both.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

SPINS = "1000"  # turns of libgomp's waiting loop, some 0.03 ms: less than putting a thread to sleep and waking it costs
BLOCK_TIME = "1"  # milliseconds, the same for the runtimes of LLVM and Intel
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # any of them: the user has decided
_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(root: Path = _CGROUP, group: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that the scheduler lets this process use: its affinity, and the quota of its control group (v1 and v2)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, cpu_quota(root, group))))


def cpu_quota(root: Path = _CGROUP, group: Path = Path("/proc/self/cgroup")) -> float:
    """CPUs' worth of time that the control group allows, infinite without a limit; the tightest of all levels."""
    limits = [math.inf]
    for own in _groups(group):
        for folder in (own, *own.parents):
            limits.append(_ratio(_read(root / str(folder).lstrip("/") / "cpu.max")))
            v1 = root / "cpu" / str(folder).lstrip("/")
            limits.append(_ratio(f"{_read(v1 / 'cpu.cfs_quota_us')} {_read(v1 / 'cpu.cfs_period_us')}"))
    return min(limits)


def _groups(group: Path) -> list[Path]:
    """Paths of the control groups of this process (within a container often ``/``)."""
    lines = [line.split(":", 2) for line in _read(group).splitlines()]
    return [
        Path(path)
        for _, controllers, path in (p for p in lines if len(p) == 3)
        if controllers == "" or "cpu" in controllers.split(",")
    ] or [Path("/")]


def _ratio(text: str) -> float:
    """``quota period`` in microseconds as CPUs; anything else (``max``, -1, nothing) is no limit."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return math.inf
    return int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def threads_each(n_processes: int, environ: Mapping[str, str] = os.environ) -> int:
    """Threads of one of ``n_processes`` equal ones; what the user has set is the most."""
    share = max(available_cpus() // max(n_processes, 1), 1)
    wished = environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(share, int(wished)) if wished.isdecimal() and int(wished) > 0 else share


def prepare_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Settings of OpenMP for this process and those that it starts; what the user has set stays."""
    if not any(name in environ for name in WAITING):
        environ["GOMP_SPINCOUNT"], environ["KMP_BLOCKTIME"] = SPINS, BLOCK_TIME
    # A launcher's processes are told their share by it, unless this process says otherwise.
    shared = any(argument.startswith("hydra/launcher=") for argument in sys.argv)
    if not shared and cpu_quota() < (os.cpu_count() or 1):
        environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))


def use_threads(n: int | None, environ: MutableMapping[str, str] = os.environ) -> None:
    """Let every library that has not been started yet have ``n`` threads, and torch if it has; None changes nothing."""
    if n is None:
        return
    environ["OMP_NUM_THREADS"] = str(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
