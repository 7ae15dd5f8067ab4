"""A sweep of two processes (``torchrun``): every job once, in both, and as one process would have trained it.

python -m pytest -m slow tests/pipeline/test_sweep_processes.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from .conftest import EXTRA, SURVEY, Outcome, Workplace, contents, launch_stage
from .test_sweep_resume import REPO, folder_of, go_on, statuses, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]
RATES = ("optimizer.learning_rate=1e-3,2e-3", "training.epochs=2")
SHARE, WHOLE = "training.batch_size=8", "training.batch_size=16"  # sequences per process; a step has 16 either way
RESUME = "sweep.resume=runs/train_lm/sweeps/s"


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "s")
    return workplace


def torchrun(place: Workplace, *arguments: str, script: Path = REPO / "train_lm.py") -> Outcome:
    """What a user types, with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), "-m"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_two_processes_run_every_job_once_and_as_one_process_does(place: Workplace):
    outcome = torchrun(place, *SURVEY, *EXTRA["train_lm"], *RATES, SHARE)
    assert outcome.returncode == 0, outcome.stderr
    assert statuses(outcome) == [("0", "done"), ("1", "done")] and outcome.stdout.count("sweep of 2 jobs") == 1
    assert outcome.stdout.count("#0 :") == outcome.stdout.count("#1 :") == 1  # each job begins once

    folder = folder_of(place)
    assert [p for p in place.folder.glob("runs/*/*/*")] == [folder]  # no process has made one of its own
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["0", "1"]
    records = [json.loads((folder / str(job) / "run.json").read_text()) for job in range(2)]
    assert [(r["status"], r["world_size"], r["attempts"]) for r in records] == [("DONE", 2, [])] * 2
    assert [r["job"] for r in records] == ["0", "1"]

    before = contents(folder)
    again = torchrun(place, RESUME)
    assert again.returncode == 0, again.stderr
    assert statuses(again) == [("0", "done before"), ("1", "done before")] and "#0 :" not in again.stdout
    assert {name for name, value in contents(folder).items() if before.get(name) != value} <= {"multirun.yaml"}
    assert statuses(go_on(place)) == statuses(again)  # to one process they are done as well

    alone = launch_stage(
        "train_lm", "-m", *SURVEY, *EXTRA["train_lm"], *RATES, WHOLE, "hydra.sweep.dir=alone", cwd=place.folder
    )
    assert statuses(alone) == [("0", "done"), ("1", "done")], alone.stderr
    for job in "01":
        assert_same_results(folder / job, place.folder / "alone" / job)
    first, second = (weights(folder / job) for job in "01")
    assert not all(torch.equal(first[name], second[name]) for name in first)  # the swept value has reached both


def assert_same_results(ours: Path, theirs: Path) -> None:
    """Weights, every logged loss, validation and errors of each object; sums are made in another order."""
    own, expected = weights(ours), weights(theirs)
    assert own.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(own[name], value, rtol=1e-3, atol=1e-4)
    own, expected = (_losses(folder / "metrics.jsonl") for folder in (ours, theirs))
    assert own.keys() == expected.keys() and len(expected) >= 4
    for key, value in expected.items():
        assert own[key] == pytest.approx(value, rel=1e-4), key
    with np.load(ours / "object_errors.npz") as a, np.load(theirs / "object_errors.npz") as b:
        assert set(a.files) == set(b.files)
        for name in b.files:
            if b[name].dtype.kind == "f":
                np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4, err_msg=name)
            else:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def _losses(path: Path) -> dict[tuple[int, str], float]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    names = ("train/loss", "train/ce", "optim/lr", "optim/grad_norm", "val/loss", "val/ce", "val/score")
    return {(record["step"], name): record[name] for record in records for name in names if name in record}


def test_a_job_that_fails_in_both_processes_leaves_the_next_one_as_it_is(place: Workplace):
    arguments = (*SURVEY, *EXTRA["train_lm"], "training.batch_size=8")
    outcome = torchrun(place, *arguments, "optimizer.learning_rate=1e30,1e-3")
    assert outcome.returncode == 1 and statuses(outcome) == [("0", "failed"), ("1", "done")], outcome.stderr
    line = next(line for line in outcome.stderr.splitlines() if line.startswith("error: "))
    assert "1 of 2 jobs failed; to go on: torchrun --nproc-per-node=2 train_lm.py -m sweep.resume=" in line
    alone = place.run("train_lm", WHOLE, "optimizer.learning_rate=1e-3", "hydra.run.dir=alone", "run_id=alone")
    assert alone.returncode == 0, alone.stderr
    assert_same_results(folder_of(place) / "1", place.folder / "alone")


FAULT = """
import os, sys
from datetime import timedelta

sys.path.insert(0, {src!r})
from astromodal.config.launching.launch import launch


def task(cfg):
    from astromodal import stages
    from astromodal.runs.run import sweep_job
    from astromodal.errors import TrainingError
    from astromodal.training import distributed
    from astromodal.training.loop import TrainingLoop

    def step(self, batches):
        if self.global_step == 2 and sweep_job() == "0" and os.environ["RANK"] == "1":
            raise TrainingError("a whole machine", got="half of one")
        train_step(self, batches)

    train_step, TrainingLoop._train_step = TrainingLoop._train_step, step
    distributed.MEETING = timedelta(seconds=3)
    try:
        return stages.train_lm(cfg)
    finally:
        TrainingLoop._train_step = train_step


launch("train_lm", task, "")
"""


def test_a_process_that_fails_alone_ends_the_sweep_and_never_trains_the_next_job_alone(
    place: Workplace,
    tmp_path: Path,
):
    """The other one waits for it in a reduction of the first job, which no number of the next one may answer."""
    script = tmp_path / "faulty.py"
    script.write_text(FAULT.format(src=str(REPO / "src")))
    outcome = torchrun(place, *SURVEY, *EXTRA["train_lm"], *RATES, SHARE, script=script)
    assert outcome.returncode != 0
    assert "[rank 1] error in job 0: expected a whole machine" in outcome.stderr
    assert "[rank 1] error: expected all 2 processes to go on with job 1" in outcome.stderr
    assert not (folder_of(place) / "1" / "run.json").exists()
    again = torchrun(place, RESUME, "sweep.retry_failed=true")
    assert again.returncode == 0 and statuses(again) == [("0", "done"), ("1", "done")], again.stderr
