"""How much memory a process has needed so far."""

from __future__ import annotations

import contextlib
import resource
import sys


def peak_memory() -> dict[str, float]:
    """``peak_memory_mb`` of this process (resident, in 10^6 bytes) and, where a GPU was used, ``peak_memory_gpu_mb``.

    Both are the highest since :func:`forget_peak`, or since the process began.
    """
    found = {"peak_memory_mb": round(_peak_bytes() / 1e6, 1)}
    torch = sys.modules.get("torch")  # not imported for this alone
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_memory_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return found


def forget_peak() -> None:
    """Begin anew, so that the peak of a sweep's later job is its own; without effect where the system cannot."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # proc(5): sets VmHWM to the present resident size
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    """Peak of the resident size."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Elsewhere; on Linux it would count what the parent process held when it started this one.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
