"""Online, with W&B's own client against a server of a few lines: what arrives is what the run directory holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.core import read_json
from astromodal.dashboards.marker import NAME
from tests.compare.fake_runs import make_run
from tests.dashboards.toy_server import Server, serve

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.skipif(
    not wandb.__version__.startswith("0.31."), reason="the server speaks the language of wandb 0.31"
)
LIVE = """
import sys
from astromodal.core import RunContext
config = {"stage": "encode", "name": "n", "run_id": "live", "run_dir": sys.argv[1], "data": {"name": "synthetic"},
          "tracking": {"wandb": "auto"}}
with RunContext.open(config, "encode") as run:
    run.add_input("scalar_tokenizer", "5ca1" * 8)
    run.add_output("tokens", "3" * 32)
    run.tracker.log(1, {"a": 0.5})
"""


@pytest.fixture
def server():
    with serve() as made:
        yield made


@pytest.fixture
def call(server: Server, repo: Path, tmp_path: Path):
    """Run Python on the arguments with an account at the server; returns the finished process."""

    def run(*arguments: object) -> subprocess.CompletedProcess:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(repo / "src"),
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "k" * 40,
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=repo,
            env=environment,
            timeout=120,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def steps(server: Server, run_id: str) -> list[int]:
    return [row["_step"] for row in server.runs[run_id]["history"]]


def test_a_replay_arrives_once_and_goes_on_where_it_was_interrupted(server, call, tmp_path):
    run = make_run(tmp_path / "runs", "a", "r1", job="0", record={"outputs": {"model": "1" * 32}})
    replay = ("-m", "astromodal", "wandb", "replay", tmp_path / "runs")
    done = call(*replay)
    assert done.returncode == 0 and done.stderr == "" and "1 sent" in done.stdout, done
    there = server.runs["train_lm-r1-0"]
    assert there["upsert"]["groupName"] == "r1" and there["upsert"]["jobType"] == "train_lm" and there["exit_code"] == 0
    assert json.loads(there["upsert"]["config"])["loss"]["value"]["weight_image"] == 0.1
    assert there["summary"]["model/score"] == 0.5 and steps(server, "train_lm-r1-0") == list(range(6))
    assert server.used == [("train_lm-r1-0", "synthetic-scalar_tokenizer")]
    assert server.made == [("train_lm-r1-0", "synthetic-model")]

    marker = read_json(run / NAME)  # as a replay that was killed would have left it
    marker["sent"][0] |= {"lines": 0, "bytes": 0, "next_step": 0, "status": ""}
    (run / NAME).write_text(json.dumps(marker))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "time": 50.0, "val/score": null}\n')
    done = call(*replay)
    assert done.returncode == 0 and done.stderr == "" and steps(server, "train_lm-r1-0") == list(range(7))
    assert there["history"][-1]["val/score"] != there["history"][-1]["val/score"]  # NaN


def test_a_run_that_was_online_itself_is_left_alone(server, call, tmp_path):
    folder = tmp_path / "runs" / "live"
    done = call("-c", LIVE, folder)
    assert done.returncode == 0, done.stderr
    assert read_json(folder / "run.json")["wandb_mode"] == "online" and len(steps(server, "encode-live")) == 1
    assert server.used == [("encode-live", "synthetic-scalar_tokenizer")]
    assert server.made == [("encode-live", "synthetic-tokens")]
    done = call("-m", "astromodal", "wandb", "replay", folder)
    assert "the run itself was online" in done.stdout and len(steps(server, "encode-live")) == 1

    # Its directory without W&B's own files, as if it had been copied: the server still knows the run.
    record = read_json(folder / "run.json")
    (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "wandb_mode"}))
    (folder / "wandb").rename(tmp_path / "elsewhere")
    (folder / "config.json").write_text(json.dumps(read_json(folder / "config.json")))
    done = call("-m", "astromodal", "wandb", "replay", folder)
    assert done.returncode == 1 and "from elsewhere" in done.stdout and done.stderr.startswith("error: ")
    assert len(steps(server, "encode-live")) == 1 and server.runs["encode-live"]["exit_code"] == 0
    done = call("-m", "astromodal", "wandb", "replay", folder, "--again")
    assert "encode-live-2, 1 records" in done.stdout and len(steps(server, "encode-live-2")) == 1


@pytest.mark.slow
def test_offline_replays_are_one_run_after_wandb_sync(server, call, tmp_path):
    run = make_run(tmp_path / "runs", "a", "r1", record={"outputs": {"model": "1" * 32}})
    replay = ("-m", "astromodal", "wandb", "replay", run)
    assert call(*replay, "--offline").returncode == 0 and not server.runs
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "time": 50.0, "val/score": 0.25}\n')
    assert "continued" in call(*replay, "--offline").stdout
    for folder in sorted((run / "replay" / "wandb").glob("offline-run-*")):
        done = call("-m", "wandb", "sync", folder)
        assert done.returncode == 0, done.stderr
    assert steps(server, "train_lm-r1") == list(range(7)) and list(server.runs) == ["train_lm-r1"]
    assert set(server.used) == {("train_lm-r1", "synthetic-scalar_tokenizer")} and len(server.artifacts) == 2
    assert "an offline replay that was synced" in call(*replay).stdout


RESUMED = """
import sys
from astromodal.core import RunContext
config = {"stage": "train_lm", "name": "n", "run_id": "cut", "run_dir": sys.argv[1], "data": {"name": "synthetic"},
          "tracking": {"wandb": "offline"}}
for steps, resume in (((1, 2, 3, 4), False), ((3, 4, 5), True)):
    with RunContext.open(config, "train_lm", resume=resume) as run:
        run.tracker.rewind(steps[0] - 1)
        for step in steps:
            run.tracker.log(step, {"a": step / 2})
"""


@pytest.mark.slow
def test_a_run_that_was_resumed_offline_is_replayed_once(server, call, tmp_path):
    assert call("-c", RESUMED, tmp_path / "run").returncode == 0
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2  # one of each attempt
    done = call("-m", "astromodal", "wandb", "replay", tmp_path / "run")
    assert done.returncode == 0, done
    (there,) = server.runs.values()
    assert [(row["step"], row["a"]) for row in there["history"]] == [(s, s / 2) for s in (1, 2, 3, 4, 5)]


DYING = """
import os, signal, subprocess, sys
from astromodal.core import RunContext
config = {"stage": "encode", "name": "n", "run_id": "r", "run_dir": sys.argv[1], "tracking": {"wandb": "offline"}}
with RunContext.open(config, "encode") as run:
    run.tracker.log(1, {"a": 0.5})
    children = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
    for child in children:
        if "wandb-core" in open(f"/proc/{child}/cmdline").read():
            os.kill(int(child), signal.SIGKILL)
            print("killed")
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_service_that_dies_is_one_line_and_recorded(call, tmp_path):
    done = call("-c", DYING, tmp_path)
    assert done.returncode == 0 and "killed" in done.stdout and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "Weights & Biases" in line]
    assert len(lines) == 1 and "metrics.jsonl goes on" in lines[0]
    record = read_json(tmp_path / "run.json")
    assert record["status"] == "DONE" and record["wandb_broke_off"] is True
