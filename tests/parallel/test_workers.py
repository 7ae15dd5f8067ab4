"""Workers share the threads, finish after an error and end at once on an interruption."""

from __future__ import annotations

import os
import time
from multiprocessing import active_children

import pytest

from astromodal.machine import threads
from astromodal.parallel.workers import worker_pool


def _threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_workers_have_their_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with worker_pool(2) as pool:
        assert set(pool.map(_threads, range(4))) == {"3"}
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_an_interruption_does_not_wait_for_the_workers() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(2) as pool:
        running = [pool.submit(time.sleep, 100) for _ in range(4)]
        while not running[0].running():
            time.sleep(0.01)
        assert active_children()
        raise KeyboardInterrupt
    deadline = started + 30
    while active_children():
        assert time.monotonic() < deadline
        time.sleep(0.01)
