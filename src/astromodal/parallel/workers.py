"""Worker processes that share the cores, and end at once when their parent is told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context

from ..machine.threads import threads_each


@contextmanager
def worker_pool(
    n_processes: int, initializer: Callable[..., None] | None = None, initargs: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``n_processes`` new processes, each with its share of the CPU threads.

    After an error no further job is begun and running ones are finished; an interruption ends them where they stand.
    """
    before = set(active_children())
    # torch and Arrow hold threads, which do not survive a fork
    pool = ProcessPoolExecutor(n_processes, get_context("spawn"), _begin, (initializer, initargs))
    try:
        with _threads_of_children(threads_each(n_processes) if n_processes > 1 else None):
            yield pool
        pool.shutdown()
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(active_children()) - before:
            child.terminate()
        raise


def _begin(initializer: Callable[..., None] | None, arguments: tuple) -> None:
    """First thing in a worker: Ctrl-C reaches it too, but it is the parent that ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initializer is not None:
        initializer(*arguments)


@contextmanager
def _threads_of_children(n: int | None) -> Iterator[None]:
    """Block in which processes that are started have ``n`` CPU threads; every library reads this variable."""
    if n is None:
        yield
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(n)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
