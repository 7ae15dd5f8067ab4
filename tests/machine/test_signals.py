"""A signal of a queue ends any command with one line and 128 + its number, and the run says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from astromodal.config.launching.launch import one_line_errors
from astromodal.core import RunContext, read_json
from astromodal.machine.signals import Stopped, stops_raised


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal; a shell starts what it runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_a_stopped_command_is_one_line_and_its_run_interrupted(tmp_path: Path, capfd, number: int, code: int) -> None:
    config = {"stage": "evaluate", "name": "n", "run_id": "r", "run_dir": str(tmp_path), "tracking": {}}
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, one_line_errors("and again"), RunContext.open(config, "evaluate"):
        os.kill(os.getpid(), number)
    assert stop.value.code == code and signal.getsignal(number) == before
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("run r in")]
    reason = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert said == [f"error: {reason}; run the same command again (and again)"]
    record = read_json(tmp_path / "run.json")
    assert record["status"] == "INTERRUPTED" and signal.Signals(number).name in str(record["error"]) + "SIGINT"


def test_a_second_signal_does_not_disturb_what_the_first_has_ended() -> None:
    cleaned = []
    with pytest.raises(Stopped, match="SIGTERM"), stops_raised():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
    assert cleaned == [True]


def test_a_stop_is_not_held_by_those_who_catch_errors() -> None:
    with pytest.raises(Stopped), stops_raised():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")
