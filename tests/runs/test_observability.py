"""Logging and buffered metrics for a loop of the user's own."""

from __future__ import annotations

import logging

import pytest
import torch

from astromodal.core import MetricsBuffer, NullTracker, get_logger, read_jsonl, setup_logging
from astromodal.errors import ArtifactError, ConfigError


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger("astromodal")
    level = root.level
    yield
    for handler in [h for h in root.handlers if getattr(h, "by_setup_logging", False)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


class Kept(NullTracker):
    def __init__(self):
        self.records, self.closed = [], False

    def log(self, step, values):
        self.records.append((step, dict(values)))

    def close(self, exit_code=0):
        self.closed = True


def test_lines_reach_terminal_and_file_once_however_often_it_is_set_up(tmp_path, capsys):
    for _ in range(3):
        setup_logging(tmp_path / "logs")
    get_logger("my.module").info("hello %d", 1)
    get_logger("my.module").debug("not shown")
    logging.getLogger("astromodal.training").info("from inside")
    logging.getLogger("somebody.else").warning("not ours")
    assert capsys.readouterr().err.splitlines()[:2] == ["hello 1", "from inside"]
    lines = (tmp_path / "logs/astromodal.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "INFO astromodal.my.module hello 1",
        "INFO astromodal.training from inside",
    ]


def test_levels(tmp_path, capsys):
    setup_logging(level="debug")
    get_logger("x").debug("shown")
    setup_logging(level=logging.ERROR)
    get_logger("x").warning("hidden")
    assert capsys.readouterr().err == "shown\n"
    with pytest.raises(ConfigError, match="'loud'"):
        setup_logging(level="loud")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file"):
        setup_logging(tmp_path / "file")


def test_metrics_are_written_together_in_the_order_of_steps():
    tracker = Kept()
    buffer = MetricsBuffer(tracker=tracker)
    buffer.add("loss", torch.tensor(2.0, requires_grad=True), step=2)
    buffer.add("loss", 1.0, step=1)
    buffer.add_many({"kl": 0.5, "loss": 3.0}, step=2)
    assert tracker.records == [] and len(buffer) == 4
    buffer.flush()
    assert tracker.records == [(1, {"loss": 1.0}), (2, {"loss": 3.0, "kl": 0.5})] and len(buffer) == 0
    buffer.flush()
    assert len(tracker.records) == 2


def test_a_full_buffer_writes_by_itself_and_a_context_writes_the_rest():
    tracker = Kept()
    with MetricsBuffer(tracker=tracker, flush_every=3) as buffer:
        for step in range(5):
            buffer.add("a", step, step=step)
        assert [step for step, _ in tracker.records] == [0, 1, 2]
    assert [step for step, _ in tracker.records] == [0, 1, 2, 3, 4] and tracker.closed


def test_what_cannot_be_written_stays_in_the_buffer():
    class Full(Kept):
        def log(self, step, values):
            if step == 2 and not self.records[1:]:
                self.records.append("failed")
                raise ArtifactError("room on the disk")
            super().log(step, values)

    tracker = Full()
    buffer = MetricsBuffer(tracker=tracker)
    for step in (1, 2, 3):
        buffer.add("a", step, step=step)
    with pytest.raises(ArtifactError):
        buffer.flush()
    assert len(buffer) == 2
    buffer.flush()
    assert [r[0] for r in tracker.records if r != "failed"] == [1, 2, 3]


def test_a_folder_gets_metrics_jsonl_with_tensorboard_or_without(tmp_path, caplog):
    with MetricsBuffer(tensorboard_dir=tmp_path / "runs") as buffer:
        buffer.add("train/loss", float("nan"), step=1)
    (record,) = read_jsonl(tmp_path / "runs/metrics.jsonl")
    assert record["step"] == 1 and record["train/loss"] is None
    if not (tmp_path / "runs/tensorboard").exists():
        assert "pip install tensorboard" in caplog.text


@pytest.mark.parametrize(
    "arguments", [{}, {"tensorboard_dir": "x", "tracker": NullTracker()}, {"tracker": NullTracker(), "flush_every": 0}]
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ConfigError):
        MetricsBuffer(**arguments)
