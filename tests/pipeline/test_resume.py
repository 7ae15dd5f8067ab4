"""Real kills: a run that was killed three times and resumed ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from astromodal.files.io import load_torch, read_jsonl
from tests.warm_start import WarmProcess

from .conftest import MODEL, SURVEY, Workplace

REPO = Path(__file__).resolve().parents[2]
# every step is recorded and saved, so that a kill falls between any two of them
RUN = (
    *SURVEY,
    *MODEL,
    "training.epochs=3",
    "training.batch_size=8",
    "training.log_every=1",
    "training.save_every=1",
    "training.val_every=4",
    "training.ema_decay=0.9",
    "training.grad_accum_steps=2",
    "sequence=ask",
    "sequence.questions=[{predict: [specz_z], given: [scalar], share: 0.3}]",
)


def results(folder: Path) -> tuple[list[dict], list[dict], dict]:
    """Records, history and summary of a run, without times."""
    records = read_jsonl(folder / "metrics.jsonl")
    plain = [{k: v for k, v in r.items() if k != "time" and not k.startswith("perf/")} for r in records]
    history = json.loads((folder / "training_history.json").read_text())
    history = [
        {k: v for k, v in r.items() if not k.startswith("perf/") and "second" not in k and k != "time"} for r in history
    ]
    return plain, history, json.loads((folder / "summary.json").read_text())


def assert_same_results(a: Path, b: Path) -> None:
    """Weights to the bit, records, history and summary."""
    for name in ("best_model.pt", "final_model.pt"):
        x, y = (load_torch(folder / name)["model_state_dict"] for folder in (a, b))
        assert list(x) == list(y)
        assert [k for k in x if not torch.equal(x[k], y[k])] == [], name
    for first, second in zip(results(a), results(b), strict=True):
        assert first == second


def start(place: Workplace, *arguments: str) -> WarmProcess:
    return WarmProcess([REPO / "train_lm.py", *RUN, *arguments], cwd=place.folder)


def kill_at(place: Workplace, step: int, *arguments: str) -> None:
    """Start the run and kill it with SIGKILL as soon as the checkpoint of ``step`` stands."""
    process = start(place, *arguments)
    deadline = time.monotonic() + 180  # of machines that do other work besides
    try:
        while not list((place.folder / "runs" / "train_lm").glob(f"*/*/checkpoints/step_{step:08d}.pt")):
            assert process.poll() is None, process.errors()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(pipeline: Workplace, tmp_path_factory) -> Workplace:
    import shutil

    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(pipeline.folder / "artifacts", folder / "artifacts")
    place = Workplace(folder)
    outcome = place.run("train_lm", *RUN)
    assert outcome.returncode == 0, outcome.stderr
    return place


def test_a_run_killed_three_times_ends_bit_identical(uninterrupted: Workplace, workplace: Workplace):
    kill_at(workplace, 2)
    for step in (7, 13):
        kill_at(workplace, step, "resume=auto")
        assert workplace.record("train_lm")["status"] == "RUNNING"
    outcome = workplace.run("train_lm", *RUN, "resume=auto")
    assert outcome.returncode == 0, outcome.stderr
    assert "resuming at step" in outcome.stderr
    (folder,) = workplace.runs("train_lm")  # every attempt went on in the first one's directory
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    record = workplace.record("train_lm")
    assert record["status"] == "DONE" and record["resumed"] and len(record["attempts"]) == 3
    (whole,) = uninterrupted.runs("train_lm")
    assert_same_results(whole, folder)
    steps = [r["step"] for r in read_jsonl(folder / "metrics.jsonl") if "train/loss" in r]
    assert steps == list(range(1, 19))


@pytest.mark.slow
def test_a_terminated_run_is_saved_and_goes_on(uninterrupted: Workplace, workplace: Workplace):
    process = start(workplace)
    deadline = time.monotonic() + 60
    while not list((workplace.folder / "runs").glob("train_lm/*/*/checkpoints/step_*3.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert "saved" in stderr
    assert workplace.record("train_lm")["status"] == "INTERRUPTED"
    (folder,) = workplace.runs("train_lm")
    outcome = workplace.run("train_lm", *RUN, f"resume={folder.relative_to(workplace.folder)}")
    assert outcome.returncode == 0, outcome.stderr
    assert_same_results(uninterrupted.runs("train_lm")[0], folder)


def test_resuming_a_finished_run_says_so(uninterrupted: Workplace):
    (folder,) = uninterrupted.runs("train_lm")
    before = results(folder)
    outcome = uninterrupted.run("train_lm", *RUN, f"resume={folder}")
    assert outcome.returncode == 0, outcome.stderr
    assert "nothing to do: step 18 of 18 is done" in outcome.stderr
    assert results(folder) == before
    assert uninterrupted.runs("train_lm") == [folder]


def test_asking_for_fewer_epochs_than_are_done_says_so_and_is_no_error(uninterrupted: Workplace):
    (folder,) = uninterrupted.runs("train_lm")
    before = results(folder)
    outcome = uninterrupted.run("train_lm", *RUN, f"resume={folder}", "training.epochs=1")
    assert outcome.returncode == 0, outcome.stderr
    assert "nothing to do: 18 steps are done, more than the 6 asked for" in outcome.stderr
    assert results(folder)[:2] == before[:2]


def test_resuming_with_another_loss_weight_is_refused_with_the_difference(uninterrupted: Workplace):
    (folder,) = uninterrupted.runs("train_lm")
    before = results(folder)
    outcome = uninterrupted.run("train_lm", *RUN, f"resume={folder}", "loss.weight_image=0.7")
    assert "loss.weight_image: 0.1 -> 0.7" in outcome.error()
    assert results(folder) == before
    again = uninterrupted.run("train_lm", *RUN, f"resume={folder}")  # the run is not spoiled by the refusal
    assert again.returncode == 0, again.stderr


def test_a_longer_run_continues_a_finished_one(uninterrupted: Workplace, tmp_path: Path):
    import shutil

    shutil.copytree(uninterrupted.folder, tmp_path / "longer")
    place = Workplace(tmp_path / "longer")
    (folder,) = place.runs("train_lm")
    outcome = place.run("train_lm", *RUN, f"resume={folder}", "training.epochs=4")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads((folder / "summary.json").read_text())["steps"] == 24


def faults(folder: Path, *arguments: str) -> str:
    """What ``benchmarks/faults.py`` prints; fails unless all of its runs ended bit-identical."""
    command = [sys.executable, str(REPO / "benchmarks/faults.py"), "--folder", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert not list(folder.iterdir())
    return result.stdout


def test_kills_at_random_instants_end_bit_identical(tmp_path: Path):
    assert "3 of 3 ended bit-identical" in faults(tmp_path, "--kills", "3", "--epochs", "2")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full"])
def test_faults_at_every_rename_removal_and_copy_end_bit_identical(tmp_path: Path, fault: str):
    said = faults(tmp_path, "--calls", fault, "--kinds", "copy", "replace", "unlink", "--epochs", "2")
    assert "ended bit-identical" in said and ("times -9" if fault == "kill" else "times 3") in said


def test_the_comparison_of_the_faults_sees_a_single_bit(tmp_path: Path):
    """A wrong weight, and a wrong number in the metrics, are found."""
    sys.path.insert(0, str(REPO / "benchmarks"))
    try:
        from fault_outcome import differences
    finally:
        sys.path.pop(0)
    a, b = torch.zeros(4), torch.zeros(4)
    b[2] = -0.0
    assert differences({"w": [a]}, {"w": [b]}) == ["/w/0"] and differences({"w": [a]}, {"w": [a.clone()]}) == []
    assert differences([{"x": 1.0}], [{"x": 1.0 + 1e-15}]) and differences([{"x": 1}], [{"x": 1, "y": 2}])
    assert differences([float("nan")], [float("nan")]) == [] and differences([1], [1.0]) and differences([1], [1, 2])


def test_resuming_what_does_not_exist_is_one_line(workplace: Workplace):
    result = workplace.run("train_lm", *RUN, "resume=runs/train_lm/default/nothing")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: expected a run directory, or a checkpoint in one, to resume")
    assert "resume=auto" in line


def test_resume_auto_without_a_run_starts_anew(workplace: Workplace):
    outcome = workplace.run("train_lm", "training.max_steps=1", "resume=auto")
    assert outcome.returncode == 0, outcome.stderr
    assert "starting anew" in outcome.stderr


def test_a_damaged_last_checkpoint_is_passed_over(uninterrupted: Workplace, tmp_path: Path):
    import shutil

    shutil.copytree(uninterrupted.folder, tmp_path / "damaged")
    place = Workplace(tmp_path / "damaged")
    (folder,) = place.runs("train_lm")
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    outcome = place.run("train_lm", *RUN, f"resume={folder}")
    assert outcome.returncode == 0, outcome.stderr
    assert "last.pt cannot be used" in outcome.stderr
    assert_same_results(uninterrupted.runs("train_lm")[0], folder)
