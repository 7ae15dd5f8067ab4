"""A run directory tells what happened, whatever happened."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from astromodal.config.schema import Config
from astromodal.core import NullTracker, RunContext, Tracker, read_json, read_jsonl
from astromodal.errors import ArtifactError, DataError
from astromodal.runs import run as runs


def _cfg(folder, **changes):
    cfg = OmegaConf.structured(Config)
    values = {"stage": "train_lm", "run_id": "r1", "run_dir": str(folder), "seed": 3, "tracking": {"wandb": "disabled"}}
    return OmegaConf.merge(cfg, values | changes)


def test_a_run_that_ends_well_leaves_everything_a_person_asks_for(tmp_path, capfd):
    folder = tmp_path / "deep" / "run"
    with RunContext.open(_cfg(folder), "train_lm") as run:
        assert read_json(folder / "run.json")["status"] == "RUNNING"
        assert isinstance(run.tracker, Tracker) and run.id == "r1" and run.dir == folder
        run.add_input("tokens", "00ff")
        run.add_input("vocab", "11ee")
        run.log.info("hello %d", 7)
        run.tracker.log(1, {"loss": 0.5})
        assert run.seconds >= 0
    record = read_json(folder / "run.json")
    assert (
        record["status"] == "DONE" and record["inputs"] == {"tokens": "00ff", "vocab": "11ee"} and record["seed"] == 3
    )
    assert record["ended"] >= record["started"] and "numpy" in record["versions"] and "revision" in record["git"]
    assert os.uname().nodename not in json.dumps({k: v for k, v in record.items() if k != "command"})
    assert "INFO hello 7" in (folder / "train_lm.log").read_text() and "hello 7\n" in capfd.readouterr().err
    assert yaml.safe_load((folder / "config.yaml").read_text()) == read_json(folder / "config.json")
    assert read_json(folder / "config.json")["hardware"]["precision"] == "auto"
    assert sorted(os.listdir(folder)) == ["config.json", "config.yaml", "metrics.jsonl", "run.json", "train_lm.log"]
    assert logging.getLogger("astromodal").handlers == [] and isinstance(run.tracker, NullTracker)
    assert not isinstance(run.tracker, Tracker)


def test_a_written_configuration_can_be_read_back_into_the_schema(tmp_path):
    with RunContext.open(_cfg(tmp_path / "r"), "train_lm"):
        pass
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(tmp_path / "r" / "config.yaml"))
    assert merged.run_id == "r1"


@pytest.mark.parametrize(
    ("error", "status", "on_terminal"),
    [
        (DataError("a column", got="none"), "FAILED", False),
        (ZeroDivisionError("by zero"), "FAILED", True),
        (KeyboardInterrupt(), "INTERRUPTED", False),
        (SystemExit(3), "INTERRUPTED", False),
    ],
)
def test_an_exception_is_recorded_and_goes_on(tmp_path, capfd, monkeypatch, error, status, on_terminal):
    codes = []
    monkeypatch.setattr(Tracker, "close", lambda self, exit_code=0: codes.append(exit_code))
    with pytest.raises(type(error)) as caught, RunContext.open(_cfg(tmp_path / "r"), "train_lm"):
        raise error
    assert caught.value is error and codes == [1]
    record = read_json(tmp_path / "r" / "run.json")
    assert record["status"] == status and record["error"]["type"] == type(error).__name__
    assert "Traceback" in record["error"]["traceback"] and "test_run.py" in record["error"]["traceback"]
    assert "Traceback" in (tmp_path / "r" / "train_lm.log").read_text()
    terminal = capfd.readouterr().err
    assert "Traceback" not in terminal and (type(error).__name__ in terminal) == on_terminal


def test_a_directory_of_another_run_is_refused_and_left_alone(tmp_path):
    with RunContext.open(_cfg(tmp_path), "train_lm"):
        pass
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with (
        pytest.raises(ArtifactError, match=r"r1 \(DONE\).*resume"),
        RunContext.open(_cfg(tmp_path, run_id="r2"), "train_lm"),
    ):
        pass
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_resumed_run_keeps_its_id_and_the_history_of_its_attempts(tmp_path):
    with pytest.raises(ZeroDivisionError), RunContext.open(_cfg(tmp_path), "train_lm") as run:
        run.tracker.log(1, {})
        raise ZeroDivisionError
    with RunContext.open(_cfg(tmp_path, run_id="r2"), "train_lm", resume=True) as run:
        assert run.id == "r1" and run.config["run_id"] == "r1"
        run.tracker.log(2, {})
    record = read_json(tmp_path / "run.json")
    assert record["status"] == "DONE" and record["resumed"] and record["run_id"] == "r1" and "error" not in record
    assert [a["status"] for a in record["attempts"]] == ["FAILED"] and len(read_jsonl(tmp_path / "metrics.jsonl")) == 2
    with pytest.raises(ArtifactError, match="encode"), RunContext.open(_cfg(tmp_path), "encode", resume=True):
        pass
    with RunContext.open(_cfg(tmp_path / "new"), "train_lm", resume=True) as run:  # nothing there yet
        assert not read_json(tmp_path / "new" / "run.json")["resumed"]


_CHILD = (
    "import sys, time\nfrom astromodal.core import RunContext\n"
    "cfg = {'stage': 's', 'run_id': 'r1', 'run_dir': sys.argv[1], 'name': 'n'}\n"
    "with RunContext.open(cfg, 's'): print('in', flush=True); time.sleep(60)\n"
)


def test_a_second_process_is_refused_and_a_killed_run_can_be_resumed(tmp_path):
    env = os.environ | {"PYTHONPATH": str(runs.__file__).rsplit("/astromodal/", 1)[0]}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, tmp_path / "r"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout.readline() == "in\n"
    for resume in (False, True):
        with pytest.raises(ArtifactError, match=f"process {child.pid}"):
            RunContext.open(_cfg(tmp_path / "r"), "s", resume=resume).__enter__()
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)
    assert read_json(tmp_path / "r" / "run.json")["status"] == "RUNNING"
    with RunContext.open(_cfg(tmp_path / "r"), "s", resume=True):
        pass
    assert [a["status"] for a in read_json(tmp_path / "r" / "run.json")["attempts"]] == ["RUNNING"]


def test_a_run_whose_end_cannot_be_written_still_raises_its_own_error(tmp_path, monkeypatch):
    def full(*args):
        raise ArtifactError("room on the disk")

    with pytest.raises(ZeroDivisionError), RunContext.open(_cfg(tmp_path), "train_lm"):
        monkeypatch.setattr(runs, "write_json", full)
        raise ZeroDivisionError
    assert not (tmp_path / ".run.lock").exists()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with RunContext.open(_cfg(tmp_path / "r"), "train_lm") as run:
        run.add_input("a", "b")
        run.tracker.log(1, {})
        with run.progress(3, "x") as bar:
            bar.update()
    assert not (tmp_path / "r").exists()


def test_run_ids_come_from_the_environment_in_order_and_else_from_the_clock():
    env = {"ASTROMODAL_RUN_ID": "a", "WANDB_RUN_ID": "w", "TORCHELASTIC_RUN_ID": "t"}
    found = []
    for name in list(env):
        found.append(runs.make_run_id(env))
        del env[name]
    assert found == ["a", "w", "t"]
    stamp = runs.make_run_id({"TORCHELASTIC_RUN_ID": "none", "WANDB_RUN_ID": ""})
    assert len(stamp) == 19 and stamp[8] == stamp[15] == "-" and stamp.replace("-", "").isdigit()


def test_jobs_and_stages_never_share_a_dashboard_run_except_under_a_sweep_agent():
    ids = {runs.wandb_id(s, "r", j, {"WANDB_RUN_ID": "r"}) for s in ("encode", "train_lm") for j in (None, "0", "1")}
    assert len(ids) == 6
    assert runs.wandb_id("train_lm", "r", "1", {"WANDB_RUN_ID": "x", "WANDB_SWEEP_ID": "s"}) == "x"


@pytest.mark.parametrize("after", ["log", "record", "nothing"])
def test_a_run_whose_directory_is_removed_ends_with_one_line_and_does_not_make_it_again(tmp_path, after):
    with (
        pytest.raises(ArtifactError, match=r"it is gone: something removed or moved it .*run.*to repair: run again"),
        RunContext.open(_cfg(tmp_path / "run"), "train_lm") as run,
    ):
        shutil.rmtree(run.dir)
        if after == "log":
            run.tracker.log(1, {"loss": 0.5})
        elif after == "record":
            run.record(note=1)
    assert not (tmp_path / "run").exists()
