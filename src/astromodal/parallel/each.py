"""One function over many jobs: :func:`each`, in which every stage that maps over fields shares its work out.

In this process, in several, or on a cluster (``hardware.workers``): the results are the same, in any order. A job that
fails stops those that were not begun; the others finish, and the first failure is raised, with the name of its job.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from ..config.schema import Backend, WorkersConfig
from ..errors import ArtifactError, UserError
from .pools import Pool, open_pool

J = TypeVar("J")


def in_this_process(workers: WorkersConfig | None, n_jobs: int) -> bool:
    """Whether :func:`each` will not start any process for so many jobs."""
    return workers is None or (Backend(workers.backend) is Backend.loky and min(workers.n_jobs, n_jobs) < 2)


def each(
    function: Callable[..., Any],
    jobs: Iterable[J],
    workers: WorkersConfig | None = None,
    *,
    shared: tuple = (),
    named: Callable[[J], str] = str,
    done: str = "done",
) -> Iterator[tuple[J, Any]]:
    """``(job, function(job, *shared))`` of all jobs, as they are ready.

    Args:
        function: of a module; it and the jobs travel to the workers as pickles, so jobs are small.
        workers: who works; default: this process, one job after the other.
        shared: what all jobs need, however large: it travels to a worker once.
        named, done: for errors: ``<field A> was not <encoded>: …``.

    Raises:
        UserError: of the first job that failed, of its class, with its name.
        ArtifactError: a worker died.

    >>> [result for _, result in each(abs, [-1, -2])]
    [1, 2]
    """
    waiting = deque(jobs)
    if in_this_process(workers, len(waiting)):
        for n, job in enumerate(waiting):
            try:
                result = function(job, *shared)
            except UserError as error:
                raise _failed(f"{named(job)} was not {done}", error, n) from error
            yield job, result
        return
    assert workers is not None
    with open_pool(workers, len(waiting)) as pool:
        yield from _among(pool, function, waiting, Shared(shared), named, done)


def _among(
    pool: Pool, function: Callable[..., Any], waiting: deque[J], shared: Shared, named: Callable[[J], str], done: str
) -> Iterator[tuple[J, Any]]:
    given, running = pool.share(shared), dict[Future, J]()
    failure: tuple[str, Exception] | None = None
    lost: list[str] = []  # jobs that were at work when a worker died: one of them may have been the cause
    n_done = 0
    while running or (waiting and failure is None and not lost):
        while waiting and failure is None and not lost and len(running) < pool.n_at_once():
            job = waiting.popleft()
            running[pool.submit(_work, function, job, given)] = job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            try:
                result, error = future.result()
            except pool.died:
                lost.append(named(job))
                continue
            if error is not None:
                failure = failure or (named(job), error)
                continue
            n_done += 1
            yield job, result
    if failure is not None:
        raise _failed(f"{failure[0]} was not {done}", failure[1], n_done) from None
    if lost:
        text = "a worker process died (out of memory? see hardware.n_processes)"
        raise _failed(f"{' or '.join(sorted(lost))} was not {done}", ArtifactError.plain(text), n_done)


def _failed(what: str, error: Exception, n_done: int) -> Exception:
    """The error of a job, of the same class, with the job's name."""
    kept = f" ({n_done} before it are done and kept)" if n_done else ""
    if isinstance(error, UserError):
        return type(error).plain(f"{what}: {error}{kept}")
    error.add_note(what + kept)
    return error


# ------------------------------------------------------------------------------------- in a worker


class Shared:
    """Objects as one pickle, made once, and read once by each process that is given it."""

    _newest: tuple[str, tuple] | None = None
    _lock = threading.Lock()  # workers of a cluster may be threads

    def __init__(self, objects: tuple) -> None:
        from joblib.externals.loky.backend.reduction import dumps  # also of what a notebook has defined

        self.pickle = bytes(dumps(objects))
        self.digest = hashlib.blake2b(self.pickle, digest_size=16).hexdigest()

    def __sizeof__(self) -> int:
        return len(self.pickle)

    def open(self) -> tuple:
        """The objects."""
        with Shared._lock:
            if Shared._newest is None or Shared._newest[0] != self.digest:
                Shared._newest = self.digest, pickle.loads(self.pickle)
            return Shared._newest[1]


def _work(function: Callable[..., Any], job: Any, shared: Shared) -> tuple[Any, Exception | None]:
    """Result, or the error in a form that survives the way back."""
    try:
        return function(job, *shared.open()), None
    except UserError as error:
        return None, error.with_traceback(None)
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(repr(error))
        error.add_note(f"in the worker: {text}")
        return None, error.with_traceback(None)
