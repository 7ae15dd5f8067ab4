"""One function over many jobs: the same results whoever works; what fails is named, and the rest is finished."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from astromodal.config.schema import Backend, WorkersConfig
from astromodal.errors import ArtifactError, ConfigError, DataError
from astromodal.machine import threads
from astromodal.parallel.each import each

HERE, TWO = WorkersConfig(), WorkersConfig(n_jobs=2)


@pytest.fixture(scope="module")
def cluster():
    """Workers of a Dask cluster of two processes on loopback, which outlives what is done with it."""
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    quick = dask.config.set({"distributed.scheduler.allowed-failures": 1})  # a job is tried again once, not three times
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with quick, distributed.LocalCluster(2, threads_per_worker=1, host="127.0.0.1", **quiet) as made:
        yield WorkersConfig(backend=Backend.dask, address=made.scheduler_address)


@pytest.fixture(params=["this process", "two processes", "dask"])
def workers(request) -> WorkersConfig:
    if request.param == "dask":
        return request.getfixturevalue("cluster")
    return HERE if request.param == "this process" else TWO


def _scaled(job: int, weights: np.ndarray, folder: Path) -> tuple[int, str | None, float]:
    """A job that leaves a trace, and fails if it is the seventh."""
    if job == 7:
        raise DataError("another job", got=job)
    if job == 8:
        raise KeyError("a fault of the program")
    time.sleep(0.02)
    (folder / str(job)).touch()
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), float(weights[job] * 2)


def _named(job: int) -> str:
    return f"field {job}"


def test_results_are_the_same_whoever_works(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "available_cpus", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    shared = (np.arange(100.0), tmp_path)
    results = dict(each(_scaled, iter(range(6)), workers, shared=shared))
    assert {job: value for job, (*_, value) in results.items()} == {job: 2.0 * job for job in range(6)}
    processes = {process for process, *_ in results.values()}
    assert processes == {os.getpid()} if workers is HERE else os.getpid() not in processes
    if workers is TWO:  # they share the threads
        assert {n_threads for _, n_threads, _ in results.values()} == {"3"}
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert not list(each(_scaled, [], workers, shared=shared))


def test_the_first_failure_is_named_and_what_was_begun_is_finished(workers, tmp_path):
    done = []
    with pytest.raises(DataError, match=r"^field 7 was not doubled: expected another job, got 7") as error:
        for job, _ in each(
            _scaled, [0, 1, 7, *range(10, 60)], workers, shared=(np.ones(100), tmp_path), named=_named, done="doubled"
        ):
            done.append(job)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == sorted(done) and len(done) < 40
    assert {0, 1} <= set(done) and "before it are done and kept)" in str(error.value) and "\n" not in str(error.value)


def test_a_fault_of_the_program_keeps_its_class_and_its_traceback(cluster, tmp_path):
    with pytest.raises(KeyError, match="a fault of the program") as error:
        list(each(_scaled, [0, 8], cluster, shared=(np.ones(100), tmp_path), named=_named))
    notes = "\n".join(error.value.__notes__)
    assert "field 8" in notes and "in _scaled" in notes


def _die_or_wait(job: str, folder: Path) -> str:
    if job == "dies":
        os._exit(9)
    time.sleep(0.3)
    (folder / job).touch()
    return job


@pytest.mark.parametrize("name", ["two processes", "dask"])
def test_a_worker_that_dies_is_explained_with_the_job_that_it_had(name, request, tmp_path):
    workers = TWO if name == "two processes" else request.getfixturevalue("cluster")
    done = []
    with pytest.raises(ArtifactError, match=r"dies.* was not done: a worker process died"):
        for job, _ in each(_die_or_wait, ["first", "dies", *map(str, range(40))], workers, shared=(tmp_path,)):
            done.append(job)
    assert len(done) < 40 and {path.name for path in tmp_path.iterdir()} >= set(done)
    if name == "dask":  # the cluster goes on, without what was lost
        assert [value for _, value in each(_die_or_wait, ["next"], workers, shared=(tmp_path,))] == ["next"]


def _say_and_sleep(job: int, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    if job:
        time.sleep(100)


def test_an_interruption_does_not_wait_for_the_workers(tmp_path):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in each(_say_and_sleep, [0, 1, 2], TWO, shared=(tmp_path,)):
            raise KeyboardInterrupt
    for process in [int(path.name) for path in tmp_path.iterdir()]:
        while Path(f"/proc/{process}").exists() and "State:\tZ" not in Path(f"/proc/{process}/status").read_text():
            assert time.monotonic() < started + 30
            time.sleep(0.01)


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("astromodal.parallel.pools._SECONDS_TO_ANSWER", 0.3)
    with pytest.raises(ConfigError, match=r"Dask scheduler at tcp://127\.0\.0\.1:9.*hardware\.workers\.address"):
        list(each(abs, [1, 2], WorkersConfig(backend=Backend.dask, address="tcp://127.0.0.1:9")))
