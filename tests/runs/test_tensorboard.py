"""TensorBoard as a mirror: what it is sent, what happens without it, and every step once after a resume."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from astromodal.config.checks.packages import require_package
from astromodal.core import Tracker, read_jsonl
from astromodal.errors import ConfigError
from astromodal.runs.tensorboard import TensorBoard
from tests.pipeline.conftest import launch_stage

INSTALLED = importlib.util.find_spec("tensorboard") is not None


class FakeWriter:
    """What TensorBoard's writer was asked to do, over all its instances."""

    made: ClassVar[list] = []

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step, self.calls, self.closed = folder, purge_step, [], False
        FakeWriter.made.append(self)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, *args))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    FakeWriter.made = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    module = types.SimpleNamespace(SummaryWriter=FakeWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return FakeWriter.made


def test_numbers_are_scalars_at_their_step_and_reach_the_file_at_once(tmp_path, writers):
    tracker = Tracker(tmp_path, tensorboard=True)
    assert writers == []  # nothing is opened before there is something to write
    tracker.log(3, {"train/loss": 0.5, "train/kl": np.float32(2.0), "note": "text", "val/nothing": None})
    tracker.close()
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard") and writer.purge_step is None and writer.closed
    assert writer.calls == [("add_scalar", "train/loss", 0.5, 3), ("add_scalar", "train/kl", 2.0, 3), ("flush",)]


def test_pictures_and_final_figures_are_sent(tmp_path, writers):
    from matplotlib.image import imsave

    imsave(tmp_path / "a.png", np.zeros((4, 6, 3)))
    tracker = Tracker(tmp_path, tensorboard=True)
    tracker.image("plot", tmp_path / "a.png", 7)
    tracker.summary({"best": 0.25})
    (writer,) = writers
    (_, name, pixels, step), (_, tag, text) = writer.calls
    assert (name, pixels.shape, step, tag) == ("plot", (4, 6, 3), 7, "summary") and "| best | 0.25 |" in text


def test_a_resume_says_from_which_step_older_events_do_not_count(tmp_path, writers):
    tracker = Tracker(tmp_path, tensorboard=True)
    tracker.rewind(4)  # a new run directory: nothing to take back
    tracker.log(5, {"a": 1.0})
    assert writers[0].purge_step is None
    (tmp_path / "tensorboard").mkdir()
    again = Tracker(tmp_path, tensorboard=True)
    again.rewind(4)
    again.log(5, {"a": 2.0})
    assert writers[1].purge_step == 5
    assert [r["a"] for r in read_jsonl(tmp_path / "metrics.jsonl")] == [2.0]


def test_a_writer_that_fails_is_said_once_and_loses_no_metric(tmp_path, writers, caplog, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("no space\nleft")

    monkeypatch.setattr(FakeWriter, "add_scalar", full, raising=False)
    tracker = Tracker(tmp_path, tensorboard=True)
    for step in range(3):
        tracker.log(step, {"a": 1.0})
    tracker.close()
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 3
    (record,) = caplog.records
    assert record.getMessage() == "TensorBoard failed, metrics.jsonl goes on: OSError: no space left"


def test_without_the_package_the_message_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package tensorboard .*pip install tensorboard, or tracking") as error:
        Tracker(tmp_path, tensorboard=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="pip install geoopt, or optimizer=adamw"):
        require_package("geoopt", "optimizer=riemannian_adam", "optimizer=adamw")


@pytest.mark.skipif(INSTALLED, reason="tensorboard is installed")
def test_the_configuration_is_refused_before_any_work(tmp_path):
    result = launch_stage("train_lm", "tracking.tensorboard=true", cwd=tmp_path)
    assert result.returncode == 1 and "pip install tensorboard" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_real_event_files_show_every_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path / "tb")
    for step in range(1, 8):  # never closed: the process was killed
        first.log(step, {"a": float(step)})
    second = TensorBoard(tmp_path / "tb")
    second.rewind(4)
    for step in range(5, 10):
        second.log(step, {"a": 10.0 * step})
    second.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 4.0),
        (5, 50.0),
        (6, 60.0),
        (7, 70.0),
        (8, 80.0),
        (9, 90.0),
    ]
