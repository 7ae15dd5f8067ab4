"""Processes that show no sign of life are noticed by the others, and only they."""

from __future__ import annotations

import threading
import time

import pytest

from astromodal.parallel.heartbeat import Heartbeat


class Store:
    """As much of torch's stores as is needed, for threads."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.broken = False

    def _look(self) -> None:
        if self.broken:
            raise RuntimeError("Connection reset by peer")

    def set(self, key: str, value: str) -> None:
        self._look()
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        self._look()
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        self._look()
        return all(key in self.values for key in keys)

    def add(self, key: str, value: int) -> int:
        self._look()
        with self.lock:
            self.values[key] = str(int(self.values.get(key, b"0")) + value).encode()
            return int(self.values[key])


class Group:
    """Heartbeats of several processes, as threads of this one."""

    def __init__(self, n_ranks: int, timeout_s: float) -> None:
        self.store, self.ended = Store(), {}
        self.beats = [
            Heartbeat(rank, n_ranks, timeout_s, store=self.store, end=self._end(rank)) for rank in range(n_ranks)
        ]
        for beat in self.beats:
            beat.start()

    def _end(self, rank: int):
        return lambda message: self.ended.setdefault(rank, message)

    def wait(self, n_ended: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while len(self.ended) < n_ended and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self) -> None:
        for beat in self.beats:
            beat.stop()


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_falls_silent_ends_all_others_and_one_says_which(lost: int) -> None:
    group = Group(3, 2.0)
    try:
        time.sleep(0.5)
        assert not group.ended
        begin = time.monotonic()
        group.beats[lost]._stopped.set()
        group.wait(2, 10)
        took = time.monotonic() - begin
    finally:
        group.stop()
    assert set(group.ended) == {0, 1, 2} - {lost} and took < 5
    messages = [message for message in group.ended.values() if message]
    assert len(messages) == 1 and f"process {lost} on" in messages[0] and "resume=auto" in messages[0]


def test_processes_that_live_are_left_alone() -> None:
    group = Group(2, 1.0)
    time.sleep(2.5)
    group.stop()
    assert not group.ended


def test_the_end_of_the_store_ends_the_processes_unless_they_are_ending() -> None:
    group = Group(2, 1.0)
    group.store.broken = True
    group.wait(2, 10)
    assert len(group.ended) == 2 and all("started this one" in message for message in group.ended.values())
    group.stop()
    ending = Group(2, 1.0)
    ending.stop()
    ending.store.broken = True
    time.sleep(0.5)
    assert not ending.ended


def test_a_process_that_was_suspended_itself_blames_nobody_at_once() -> None:
    beat = Heartbeat(0, 2, 8.0, store=Store(), end=lambda message: None)
    beat._store.set("astromodal/alive/1", "1 host")
    beat._seen[1] = (b"1 host", time.monotonic() - 100)
    assert beat._lost() == 1
    beat._seen.clear()  # what the thread does after a pause of its own
    assert beat._lost() is None
