"""Workers behind one face: processes of this machine (loky), a Dask cluster, a Ray cluster.

All three hand out ``concurrent.futures.Future``; nothing else in the program knows which of them is at work. What jobs
do is in :mod:`.each`. Workers elsewhere need this program installed, and the same files under the same paths.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..config.checks.packages import require_package
from ..config.schema import Backend, WorkersConfig
from ..errors import ConfigError
from ..machine.threads import threads_each

_IDLE_SECONDS = 30  # that a process of this machine is kept: the next pass mostly follows at once
_SECONDS_TO_ANSWER = 20  # of a scheduler that is asked for the first time


@dataclass(frozen=True)
class Pool:
    """What :func:`.each.each` needs of workers."""

    submit: Callable[..., Future]  # (function, *arguments) -> future
    share: Callable[[Any], Any]  # an object for many jobs -> what to pass in its place
    n_at_once: Callable[[], int]  # jobs to have under way; grows with a cluster that grows
    died: tuple[type[BaseException], ...]  # errors that say that a worker is gone


@contextmanager
def open_pool(workers: WorkersConfig, n_jobs: int) -> Iterator[Pool]:
    """Workers for ``n_jobs`` jobs. After an error, and an interruption too, local ones are ended where they stand.

    Raises:
        ConfigError: the package of the backend is not installed, or nobody answers at the address.
    """
    backends = {Backend.loky: _loky, Backend.dask: _dask, Backend.ray: _ray}
    with backends[Backend(workers.backend)](workers, min(workers.n_jobs, n_jobs)) as pool:
        yield pool


@contextmanager
def _loky(workers: WorkersConfig, n: int) -> Iterator[Pool]:
    """Processes of this machine, each with its share of the CPU threads; kept some seconds for the next pass."""
    from joblib.externals.loky import get_reusable_executor

    threads = {"OMP_NUM_THREADS": str(threads_each(n))}  # every library reads this variable
    # a worker that has been idle is replaced when there is work again: no news for anybody
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    executor = get_reusable_executor(n, timeout=_IDLE_SECONDS, initializer=_begin, env=threads)
    try:
        yield Pool(executor.submit, lambda shared: shared, lambda: n, (BrokenProcessPool,))
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise


@contextmanager
def new_process() -> Iterator[Pool]:
    """One process that nobody has used, nor will: its peak of memory, say, is that of its one job."""
    from joblib.externals.loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(1, initializer=_begin)
    try:
        yield Pool(executor.submit, lambda shared: shared, lambda: 1, (BrokenProcessPool,))
    finally:
        executor.shutdown(kill_workers=True)


def _begin() -> None:
    """First thing in a worker: Ctrl-C reaches it too, but it is the parent that ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _dask(workers: WorkersConfig, n: int) -> Iterator[Pool]:
    """The cluster at ``address``, else one of ``n`` processes of this machine that ends with the work."""
    require_package("distributed", "hardware.workers.backend=dask", "hardware.workers.backend=loky")
    from distributed import Client, KilledWorker, LocalCluster

    with ExitStack() as stack:
        place: Any = workers.address
        if place is None:
            quiet = logging.CRITICAL  # what goes wrong is told by the job that it befalls
            cluster = LocalCluster(n, threads_per_worker=1, dashboard_address=None, silence_logs=quiet)
            place = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(place, timeout=_SECONDS_TO_ANSWER, set_as_default=False))
        except (OSError, ValueError) as error:
            raise _silent("a Dask scheduler", workers, error) from error
        executor = client.get_executor(pure=False)
        yield Pool(
            executor.submit,
            lambda shared: client.submit(_same, shared, pure=False),  # made again if lost; scattered, all would wait
            lambda: max(sum(client.ncores().values()), 1),
            (KilledWorker, CancelledError),
        )


def _same(value: Any) -> Any:
    return value


@contextmanager
def _ray(workers: WorkersConfig, n: int) -> Iterator[Pool]:
    """The cluster at ``address`` (``auto``: the one of this machine), else one of ``n`` processes."""
    require_package("ray", "hardware.workers.backend=ray", "hardware.workers.backend=loky")
    import ray

    try:
        ray.init(workers.address, num_cpus=None if workers.address else n, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise _silent("a Ray cluster", workers, error) from error
    call = ray.remote(lambda function, *arguments: function(*arguments))
    try:
        yield Pool(
            lambda *arguments: call.remote(*arguments).future(),
            ray.put,
            lambda: max(int(ray.cluster_resources().get("CPU", 0)), 1),
            (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError),
        )
    finally:
        ray.shutdown()


def _silent(what: str, workers: WorkersConfig, error: Exception) -> ConfigError:
    return ConfigError(
        f"{what} at {workers.address}",
        got=f"{type(error).__name__}: {error}",
        where="hardware.workers.address",
        repair="start it, or correct the address; hardware.workers.backend=loky needs none",
    )
