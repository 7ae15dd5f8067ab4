"""Metrics are never lost, whatever the dashboard does."""

import json
import math
import os
import sys
import time
import types

import pytest

from astromodal.core import NullTracker, Tracker, read_json, read_jsonl, truncate_jsonl
from astromodal.errors import ArtifactError
from astromodal.runs import tracking


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc-none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class _FakeRun:
    id = "fake"

    def __init__(self, fails_at=()):
        self.calls, self.fails_at, self.summary = [], set(fails_at), self

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if name in self.fails_at:
                raise RuntimeError("quota\nexceeded")

        return call


def _fake_wandb(monkeypatch, run, init_fails=()):
    modes = []

    def init(mode, **options):
        modes.append((mode, options))
        if mode in init_fails:
            raise OSError("no network")
        return run

    module = types.SimpleNamespace(init=init, Settings=lambda **k: k, Image=lambda p: ("image", p))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return modes


def test_metrics_are_one_line_of_valid_json_each_and_appended(tmp_path):
    for first in (1, 3):
        tracker = Tracker(tmp_path)
        tracker.log(first, {"train/loss": 0.5})
        tracker.log(first + 1, {"train/loss": math.nan, "x": math.inf})
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == first + 1  # without closing
        tracker.close()
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["train/loss"] is None and lines[1]["x"] is None and lines[0]["time"] > 1.7e9


def test_an_unfinished_last_line_is_cut_off_and_a_truncated_file_is_followed(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    tracker = Tracker(tmp_path)
    tracker.log(2, {})
    truncate_jsonl(tmp_path / "metrics.jsonl", 1)
    tracker.log(2, {"again": 1})
    assert [line.get("again") for line in read_jsonl(tmp_path / "metrics.jsonl")] == [None, 1]


def test_a_metric_that_cannot_be_written_ends_the_run_with_a_clear_error(tmp_path):
    tracker = Tracker(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl"):
        tracker.log(1, {})


def test_the_mirror_gets_everything_with_the_step_as_axis(tmp_path, monkeypatch):
    run = _FakeRun()
    modes = _fake_wandb(monkeypatch, run)
    tracker = Tracker(tmp_path, mode="offline", project="p", run_id="a/b", group="g", tags=["t"], config={"lr": 0.1})
    tracker.log(3, {"loss": 1.0})
    tracker.image("plot", tmp_path / "a.png", 3)
    tracker.summary({"best": math.nan})
    tracker.close(exit_code=1)
    assert modes[0][0] == "offline" and modes[0][1]["id"] == "a-b" and modes[0][1]["config"] == {"lr": 0.1}
    assert [c[0] for c in run.calls] == ["define_metric", "log", "log", "update", "finish"]
    assert run.calls[0][2] == {"step_metric": "step"} and run.calls[1][1] == ({"loss": 1.0, "step": 3},)
    assert run.calls[2][1][0]["step"] == 3 and run.calls[4][2] == {"exit_code": 1}
    assert read_json(tmp_path / "summary.json") == {"best": None}


@pytest.mark.parametrize("fails_at", ["log", "finish", "update"])
def test_a_dashboard_that_fails_is_said_once_and_loses_no_metric(tmp_path, monkeypatch, caplog, fails_at):
    run = _FakeRun([fails_at])
    _fake_wandb(monkeypatch, run)
    tracker = Tracker(tmp_path, mode="offline")
    for step in range(5):
        tracker.log(step, {"loss": 1.0})
    tracker.summary({"a": 1})
    tracker.close()
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 5
    assert len(caplog.records) == 1 and "\n" not in caplog.records[0].getMessage() and tracker.broke_off


def test_online_falls_back_to_offline_and_then_to_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    modes = _fake_wandb(monkeypatch, _FakeRun(), init_fails=["online"])
    assert Tracker(tmp_path, mode="auto").wandb_id == "fake"
    assert [m for m, _ in modes] == ["online", "offline"]
    modes = _fake_wandb(monkeypatch, _FakeRun(), init_fails=["online", "offline"])
    tracker = Tracker(tmp_path, mode="online")
    assert tracker.wandb_id is None
    tracker.log(1, {})
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    Tracker(tmp_path, mode="offline").log(2, {})
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 2


def test_the_mode_never_leads_to_a_prompt(monkeypatch, tmp_path):
    assert tracking.wandb_mode("auto") == "offline" and tracking.wandb_mode("online") == "offline"
    assert tracking.wandb_mode("disabled") == "disabled"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert tracking.wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.wandb_mode("auto") == "offline"
    monkeypatch.delenv("WANDB_MODE")
    netrc.write_text("machine elsewhere.org login user password secret\n")
    assert tracking.wandb_mode("auto") == "offline"


def test_the_null_tracker_has_the_same_methods():
    methods = [n for n in vars(NullTracker) if not n.startswith("_")]
    assert methods == ["log", "image", "summary", "rewind", "lineage", "close"]
    assert all(n in vars(Tracker) for n in methods)
    NullTracker().log(1, {})


def test_a_real_offline_run_leaves_its_files_in_the_run_directory(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = Tracker(tmp_path, mode="auto", project="p", name="n", run_id="train_lm-r1", config={"a": 1}, tags=["t"])
    assert tracker.wandb_id == "train_lm-r1"
    tracker.log(1, {"train/loss": 0.25})
    tracker.summary({"best": 0.25})
    tracker.close(0)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-train_lm-r1")
    (record,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 20  # W&B writes in a process of its own, on a busy machine a moment later
    while b"train/loss" not in record.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"train/loss" in record.read_bytes()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["train/loss"] == 0.25
