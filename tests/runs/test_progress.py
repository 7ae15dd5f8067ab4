"""Progress on a terminal and in a log."""

import io
import logging

from astromodal.runs import progress
from astromodal.runs.progress import Progress, TerminalHandler


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class _Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def _with_clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_per_cent_and_ten_seconds_and_at_the_end(monkeypatch, caplog):
    clock = _with_clock(monkeypatch)
    caplog.set_level(logging.INFO)
    with Progress(1000, "encode", logging.getLogger("t"), unit="rows", stream=io.StringIO()) as bar:
        for _ in range(1000):
            clock.now += 0.05
            bar.update(1, loss=0.123456)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 5  # 50 s: one line per 10 s, the last is the end
    assert lines[0].startswith("encode: 200/1000, 20%, 20 rows/s, 10.0s elapsed, 40.0s left | loss=0.1235")
    assert lines[-1].startswith("encode: 1000/1000, 100%")


def test_very_fast_and_very_slow_work_do_not_flood_or_starve_the_log(monkeypatch, caplog):
    clock = _with_clock(monkeypatch)
    caplog.set_level(logging.INFO)
    with Progress(10**5, "fast", logging.getLogger("t"), stream=io.StringIO()) as bar:
        for _ in range(10**5):
            bar.update()
    assert len(caplog.records) == 1
    caplog.clear()
    with Progress(10**6, "slow", logging.getLogger("t"), stream=io.StringIO()) as bar:
        for _ in range(100):
            clock.now += 6
            bar.update()
    assert 9 <= len(caplog.records) <= 11


def test_a_terminal_shows_a_bar_that_makes_room_for_log_lines(monkeypatch):
    clock, terminal = _with_clock(monkeypatch), _Terminal()
    logger = logging.getLogger("t.terminal")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = TerminalHandler(terminal)
    logger.addHandler(handler)
    bar = Progress(10, "fit", logger, stream=terminal)
    clock.now = 4.0
    bar.update(5, loss=1.0)
    assert "fit [##########..........] 5/10, 50%, 1.25/s, 4.0s elapsed, 4.0s left | loss=1" in terminal.getvalue()
    logger.warning("look")
    assert "\r\x1b[Klook\n\r\x1b[Kfit [" in terminal.getvalue()
    bar.close()
    bar.close()
    assert terminal.getvalue().endswith("\r\x1b[Kfit: 5/10, 50%, 1.25/s, 4.0s elapsed, 4.0s left | loss=1\n")
    assert progress._live == []
    logger.removeHandler(handler)


def test_a_resumed_count_does_not_flatter_the_rate(monkeypatch):
    clock = _with_clock(monkeypatch)
    bar = Progress(100, "x", initial=90, stream=io.StringIO())
    clock.now = 2.0
    bar.update(5)
    assert bar.text() == "95/100, 95%, 2.5/s, 2.0s elapsed, 2.0s left"
    unknown = Progress(None, "x", stream=io.StringIO())
    clock.now = 12.0
    unknown.update(1)
    assert unknown.text() == "1, 10 s/it, 10.0s elapsed"


def test_a_terminal_that_goes_away_does_not_end_the_run():
    terminal = _Terminal()
    bar = Progress(10, "x", stream=terminal)
    terminal.close()
    bar._drawn = -1e9
    bar.update()
    bar.close()
    assert progress._live == []
