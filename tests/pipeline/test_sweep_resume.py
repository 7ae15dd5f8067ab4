"""Sweeps survive: a killed one goes on, finished jobs are not run again, a failed one hides nothing."""

from __future__ import annotations

import gc
import json
import re
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from astromodal import stages
from astromodal.errors import TrainingError
from astromodal.files.io import write_json
from astromodal.files.locks import FileLock
from astromodal.stages import wiring
from astromodal.sweeps import sweeper
from tests.warm_start import WarmProcess

from .conftest import EXTRA, SURVEY, Outcome, Workplace, contents, launch_stage

REPO = Path(__file__).resolve().parents[2]
RATES = "optimizer.learning_rate=1e-3,2e-3"


class Stage:
    """In place of ``train_lm``: a run like any other, but without the training."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inputs = folder, {"tokens": "a"}
        self.started: list[int] = []  # seeds, in order
        self.failing: dict[int, Exception] = {}

    def __call__(self, cfg) -> None:
        config = OmegaConf.to_object(cfg)
        with wiring.begin(cfg, config, "train_lm") as run:
            self.started.append(config.seed)
            run.add_input("tokens", self.inputs["tokens"])
            if config.seed in self.failing:
                raise self.failing[config.seed]
            write_json(run.dir / "summary.json", {"model": {"score": config.seed / 10}})
            wiring.objective(run, "val/score", config.seed / 10)

    def run(self, *arguments: str) -> Outcome:
        """``train_lm.py -m`` with these arguments."""
        self.started.clear()
        return launch_stage("train_lm", "-m", "tracking=off", *arguments, cwd=self.folder)

    def go_on(self, *arguments: str) -> Outcome:
        """The same with ``sweep.resume`` and nothing else: the rest is in the sweep's record."""
        return self.run("sweep.resume=runs/train_lm/sweeps/s", *arguments)

    def job(self, number: int) -> Path:
        return self.folder / "runs/train_lm/sweeps/s" / str(number)

    def record(self, number: int) -> dict:
        return json.loads((self.job(number) / "run.json").read_text())

    def change(self, number: int, **values) -> None:
        write_json(self.job(number) / "run.json", self.record(number) | values)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    fake = Stage(tmp_path)
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "s")
    monkeypatch.setattr(stages, "train_lm", fake)
    monkeypatch.setattr(sweeper, "job_inputs", lambda job: fake.inputs)
    yield fake


def statuses(outcome: Outcome) -> list[tuple[str, str]]:
    """Number and status of each line of the final table."""
    everything = outcome.stdout.splitlines()
    head = next(i for i, line in enumerate(everything) if line.split()[:2] == ["job", "status"])
    lines = everything[head + 1 :]
    states = "done before|failed before|running elsewhere|done|failed|interrupted|not run|duplicate"
    return [re.match(rf"(\d*)\s+({states})\s", line).groups() for line in lines[: lines.index("")]]


# ------------------------------------------------------------------------ what is run, and in which folder


def test_finished_jobs_are_not_run_again_and_unfinished_ones_are(stage: Stage):
    outcome = stage.run("seed=1,2,3")
    assert outcome.returncode == 0 and stage.started == [1, 2, 3]
    assert statuses(outcome) == [("0", "done"), ("1", "done"), ("2", "done")] and "0.2000" in outcome.stdout
    stage.change(1, status="RUNNING")  # as a kill leaves it
    again = stage.go_on()
    assert again.returncode == 0 and stage.started == [2], again.stderr
    assert statuses(again) == [("0", "done before"), ("1", "done"), ("2", "done before")]
    record = stage.record(1)
    assert record["resumed"] and record["job"] == "1" and record["run_id"] == "s" and len(record["attempts"]) == 1


@pytest.mark.slow
def test_jobs_stand_in_the_folders_that_hydra_sweep_subdir_names(stage: Stage):
    outcome = stage.run("seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}_of_${name}")
    assert outcome.returncode == 0, outcome.stderr
    sweep = stage.folder / "runs/train_lm/sweeps/s"
    names = {path.parent.name for path in sweep.glob("*/run.json")}
    assert {next(n for n in names if f"seed={seed}" in n)[-11:] for seed in (1, 2)} == {"_of_default"}
    assert statuses(outcome) == [("0", "done"), ("1", "done")] and "0.2000" in outcome.stdout
    second = next(name for name in names if "seed=2" in name)
    record = json.loads((sweep / second / "run.json").read_text())
    write_json(sweep / second / "run.json", record | {"status": "RUNNING"})
    again = stage.go_on()
    assert again.returncode == 0 and stage.started == [2], again.stderr
    assert {path.parent.name for path in sweep.glob("*/run.json")} == names


def test_a_folder_that_jobs_would_share_is_refused(stage: Stage):
    assert "same twice" in stage.run("seed=1,2", "hydra.sweep.subdir=same").error() and stage.started == []


def test_a_failed_job_is_listed_with_its_error_and_run_again_only_when_asked(stage: Stage):
    stage.failing = {2: TrainingError("a finite loss", got="nan")}
    outcome = stage.run("seed=1,2,3")
    assert stage.started == [1, 2, 3] and [s for _, s in statuses(outcome)] == ["done", "failed", "done"]
    assert outcome.error() == (
        "error: 1 of 3 jobs failed; to go on: "
        "python train_lm.py -m sweep.resume=runs/train_lm/sweeps/s sweep.retry_failed=true"
    )
    assert "job 1 (seed=2) failed: TrainingError: expected a finite loss, got nan" in outcome.stdout
    assert "error in job 1: expected a finite loss" in outcome.stderr  # at once, not only at the end
    assert "Traceback" not in outcome.stdout
    before = contents(stage.folder)
    again = stage.go_on()
    assert again.returncode == 1 and stage.started == []
    assert [s for _, s in statuses(again)] == ["done before", "failed before", "done before"]
    assert "failed before: TrainingError: expected a finite loss" in again.stdout
    assert {Path(k).name for k, v in contents(stage.folder).items() if before.get(k) != v} <= {"multirun.yaml"}
    stage.failing = {}
    retried = stage.go_on("sweep.retry_failed=true")
    assert retried.returncode == 0 and stage.started == [2]


def test_an_error_of_the_program_is_listed_with_its_traceback(stage: Stage):
    stage.failing = {1: ZeroDivisionError("an odd thing")}
    outcome = stage.run("seed=1,2")
    assert [s for _, s in statuses(outcome)] == ["failed", "done"]
    assert "    Traceback (most recent call last):" in outcome.stdout and "ZeroDivisionError: an odd" in outcome.stdout
    assert outcome.error().startswith("error: 1 of 2 jobs failed")


def test_a_job_refused_before_it_had_a_folder_is_a_failed_one(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    def refuse(cfg):
        raise TrainingError("a machine", got="none")

    monkeypatch.setattr(stages, "train_lm", refuse)
    outcome = stage.run("seed=1")
    assert statuses(outcome) == [("0", "failed")] and "TrainingError: expected a machine" in outcome.stdout


def test_a_continued_sweep_may_have_more_jobs_and_finished_ones_keep_their_numbers(stage: Stage):
    assert stage.run("model=tiny", "seed=1,2").returncode == 0
    outcome = stage.go_on("seed=0,2,1,3")
    assert statuses(outcome) == [("2", "done"), ("1", "done before"), ("0", "done before"), ("3", "done")]
    configs = [json.loads((stage.job(n) / "config.json").read_text()) for n in range(4)]
    assert [c["seed"] for c in configs] == [1, 2, 0, 3] and {c["model"]["d_model"] for c in configs} == {128}
    assert [stage.record(n)["job"] for n in range(4)] == list("0123")  # the Weights & Biases id contains it


def test_equal_jobs_run_once(stage: Stage):
    outcome = stage.run("seed=0,1,0")
    assert statuses(outcome) == [("0", "done"), ("1", "done"), ("", "duplicate")] and stage.started == [0, 1]


def test_jobs_whose_inputs_have_changed_are_run_again_in_a_new_folder(stage: Stage):
    assert stage.run("seed=0,1").returncode == 0
    before = contents(stage.job(0))
    stage.inputs = {"tokens": "b"}
    outcome = stage.go_on()
    assert statuses(outcome) == [("2", "done"), ("3", "done")] and "its inputs have changed" in outcome.stdout
    assert contents(stage.job(0)) == before
    assert statuses(stage.go_on()) == [("2", "done before"), ("3", "done before")]


def test_two_commands_never_run_one_sweep_at_the_same_time(stage: Stage):
    assert stage.run("seed=0").returncode == 0
    with FileLock(stage.job(0).parent / ".sweep"):
        outcome = stage.go_on()
    assert "expected no other process writing here" in outcome.error()
    assert "expected a folder of its own for the sweep" in stage.run("seed=5").error()


def test_a_job_that_runs_elsewhere_is_left_alone(stage: Stage):
    assert stage.run("seed=0,1").returncode == 0
    with FileLock(stage.job(1) / ".run"):
        outcome = stage.go_on()
    assert statuses(outcome) == [("0", "done before"), ("1", "running elsewhere")] and stage.started == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep.resume=nowhere"], "the folder of a sweep, with sweep.json"),
        (["seed=0,1", "loss.weight_imag=0.1"], "did you mean loss.weight_image?"),
        (["model=tiny", "seed=0", "model.n_heads=2,3"], "job 1 of 2 (model.n_heads=3): expected model.n_heads"),
        (["seed=0,1,2,x"], "expected a value of type Integer, got 'x' (seed)"),
        (["loss.sample_k="], "expected a value of type Integer"),
        (["seed=choice()"], "empty choice"),
        (["model=tiny,smal"], "did you mean small?"),
        (["model=glob(zz*)"], "got none in model=glob(zz*) (command line); to repair: choose from base, large"),
        (["seed=range(3,3)"], "expected at least one value of seed to sweep over"),
    ],
)
def test_a_mistake_in_any_job_is_refused_before_the_first_one_starts(stage: Stage, arguments, expected):
    assert expected in stage.run(*arguments).error()
    assert stage.started == [] and not (stage.folder / "runs").exists()


def test_a_sweep_of_another_stage_or_a_damaged_one_is_refused(stage: Stage):
    assert stage.run("seed=0").returncode == 0
    outcome = launch_stage("encode", "-m", "sweep.resume=runs/train_lm/sweeps/s", cwd=stage.folder)
    assert "expected a sweep of encode.py, got one of train_lm.py" in outcome.error()
    assert (
        "expected -m with sweep.resume"
        in launch_stage("train_lm", "sweep.resume=runs/train_lm/sweeps/s", cwd=stage.folder).error()
    )
    (stage.job(0).parent / "sweep.json").write_text("{")
    assert "a readable record of a sweep" in stage.go_on().error()


def test_a_strangers_sweep_executes_nothing(stage: Stage):
    """Hydra makes its callbacks before anything else is looked at, with ``preview=true`` alone."""
    assert stage.run("seed=0").returncode == 0
    file, marker = stage.job(0).parent / "sweep.json", stage.folder / "ran"
    whole = json.loads(file.read_text())
    evil = f"+hydra.callbacks.x={{_target_:pathlib.Path.touch,self:{{_target_:pathlib.Path,_args_:[{marker}]}}}}"
    write_json(file, whole | {"arguments": [*whole["arguments"], evil]})
    assert "expected recorded arguments that choose options" in stage.go_on("preview=true").error()
    assert (
        not marker.exists()
        and launch_stage("train_lm", "-m", "seed=0", evil, "preview=true", cwd=stage.folder).returncode is not None
    )
    assert marker.exists(), "the reader's own command line stays Hydra's"
    write_json(file, whole | {"jobs": [{"number": "../../x", "config_fingerprint": "a"}]})
    assert "the record of a sweep" in stage.go_on().error()


def test_jobs_are_checked_with_the_configuration_that_they_get(stage: Stage):
    outcome = stage.run("model=tiny,small", "loss.sample_k=64,null", "training.epochs=2", "hydra.job.num=7")
    assert outcome.returncode == 0, outcome.stderr
    jobs = json.loads((stage.job(0).parent / "sweep.json").read_text())["jobs"]
    assert [job["config_fingerprint"] for job in jobs] == [stage.record(n)["config_fingerprint"] for n in range(4)]
    assert len({job["config_fingerprint"] for job in jobs}) == 4
    assert jobs[1]["overrides"] == ["model=tiny", "loss.sample_k=null"]


def test_the_flag_may_stand_between_the_overrides(stage: Stage):
    assert launch_stage("train_lm", "tracking=off", "-m", "seed=0,1", cwd=stage.folder).returncode == 0
    assert stage.started == [0, 1]


def test_each_job_of_a_tokenizer_sweep_has_its_own_store(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    stores = []
    monkeypatch.setattr(stages, "train_tokenizers", lambda cfg: stores.append(Path(cfg.paths.store).name))
    outcome = launch_stage("train_tokenizers", "-m", "tokenizer.scalar.n_bins=8,16", cwd=stage.folder)
    assert outcome.returncode == 0 and stores == ["s-0", "s-1"]


# ------------------------------------------------------------------------------------------ real training runs


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "s")
    return workplace


def folder_of(place: Workplace) -> Path:
    return place.folder / "runs/train_lm/sweeps/s"


def go_on(place: Workplace) -> Outcome:
    return launch_stage("train_lm", "-m", "sweep.resume=runs/train_lm/sweeps/s", cwd=place.folder)


def kill_when(place: Workplace, path: str) -> None:
    """Start the sweep as a user does, in a new process, and kill it when ``path`` exists below its folder."""
    command = [
        REPO / "train_lm.py",
        "-m",
        *SURVEY,
        *EXTRA["train_lm"],
        "training.epochs=3",
        "training.save_every=1",
        RATES,
    ]
    process = WarmProcess(command, cwd=place.folder)
    try:
        deadline = time.monotonic() + 120
        while not list(folder_of(place).glob(path)):
            assert process.poll() is None and time.monotonic() < deadline, "no progress"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final_model.pt", weights_only=True)["model_state_dict"]


def test_a_killed_sweep_goes_on_where_it_was_and_ends_as_if_nothing_had_happened(place: Workplace):
    kill_when(place, "1/checkpoints/step_00000003.pt")
    first = (folder_of(place) / "0/run.json").read_text()
    outcome = go_on(place)
    assert outcome.returncode == 0, outcome.stderr
    assert statuses(outcome) == [("0", "done before"), ("1", "done")]
    assert (folder_of(place) / "0/run.json").read_text() == first
    record = json.loads((folder_of(place) / "1" / "run.json").read_text())
    assert record["resumed"] and record["job"] == "1" and record["run_id"] == "s"
    alone = place.run(
        "train_lm",
        "training.epochs=3",
        "training.save_every=1",
        "optimizer.learning_rate=2e-3",
        "run_id=alone",
        "name=alone",
        "hydra.run.dir=alone",
    )
    assert alone.returncode == 0, alone.stderr
    ours, expected = weights(folder_of(place) / "1"), weights(place.folder / "alone")
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)


@pytest.mark.slow
def test_nothing_of_a_failed_job_stays_in_memory(place: Workplace):
    """The launcher keeps the error, and with its traceback the frames that hold model and batches."""
    from astromodal.training.loop import TrainingLoop

    alive: list[weakref.ref] = []
    found: list[int] = []
    original = TrainingLoop.fit

    def fit(self):
        gc.collect()
        found.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(self.model))
        return original(self)

    with mock.patch.object(TrainingLoop, "fit", fit):
        outcome = place.run("train_lm", "-m", "optimizer.learning_rate=1e30,1e-3,2e-3")
    assert [s for _, s in statuses(outcome)] == ["failed", "done", "done"]
    assert found == [0, 0, 0]


@pytest.mark.slow
def test_a_job_is_the_same_alone_and_after_others(place: Workplace):
    assert place.run("train_lm", "-m", "model.dropout=0.3,0.1").returncode == 0
    assert place.run("train_lm", "model.dropout=0.1", "hydra.run.dir=alone").returncode == 0
    job = folder_of(place) / "1"
    assert all(torch.equal(v, weights(place.folder / "alone")[k]) for k, v in weights(job).items())
    with np.load(job / "object_errors.npz") as ours, np.load(place.folder / "alone/object_errors.npz") as theirs:
        for name in ours.files:
            assert np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f"), name


def test_an_interrupted_sweep_prints_its_table_and_how_to_go_on(place: Workplace):
    command = [
        REPO / "train_lm.py",
        "-m",
        *SURVEY,
        *EXTRA["train_lm"],
        "training.epochs=50",
        "seed=0,1",
    ]
    process = WarmProcess(command, cwd=place.folder)
    deadline = time.monotonic() + 120
    while not (folder_of(place) / "0" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err
    assert statuses(Outcome(0, out, err)) == [("0", "interrupted"), ("1", "not run")]
    assert f"to go on: python {REPO / 'train_lm.py'} -m sweep.resume=runs/train_lm/sweeps/s" in out


def test_a_preview_says_what_the_sweep_will_cost_and_writes_nothing(place: Workplace):
    assert place.run("train_lm", "seed=1", "hydra.run.dir=runs/train_lm/one/two").returncode == 0
    before = contents(place.folder)
    outcome = place.run("train_lm", "-m", "hparams=seeds", "preview=true")
    assert outcome.returncode == 0, outcome.stderr
    after = contents(place.folder)
    assert before == after
    lines = outcome.stdout.splitlines()
    rows = [line for line in lines if re.match(r"\d+ ", line)][:3]
    record = json.loads((place.folder / "runs/train_lm/one/two/run.json").read_text())
    assert all(f"{record['model']['parameters'] / 1e6:.2f} M" in row for row in rows)
    assert ["the same as the finished run" in row for row in rows] == [False, True, False]
    summary = json.loads((place.folder / "runs/train_lm/one/two/summary.json").read_text())
    assert all(re.search(rf"M\s+{summary['steps']}\s", row) for row in rows)
    assert "3 jobs to run, 0 not, 1 the same as finished runs" in outcome.stdout


@pytest.mark.slow
def test_a_preview_of_one_run(place: Workplace):
    outcome = place.run("train_lm", "preview=true")
    assert outcome.returncode == 0 and "nothing was started" in outcome.stdout, outcome.stderr
    assert not list(place.folder.glob("runs/*/*/*"))
    broken = place.run("train_lm", "preview=true", "model.max_len=64")
    assert "model.max_len" in broken.error()
