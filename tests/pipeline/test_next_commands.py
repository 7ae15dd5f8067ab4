"""Somebody's own survey, as the pages say, and every printed ``next:`` command pasted as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from astromodal.sweeps import sweeper
from tests.pipeline.conftest import MODEL, Outcome, launch_stage

SURVEY = """
name: 2026_11
root: elsewhere
ra_column: null
dec_column: null
splits: {method: hash, val_fraction: 0.2, test_fraction: 0.1}
scalars: {mag: {min: 5, max: 35}, z: {min: -1, max: 9}}
spectra:
  lamost_b: {flux: flux, ivar: ivar, wave: wave, wave_min: 3600.0, wave_max: 3726.0, wave_step: 2.0}
images: null
"""
CHEAP = ("hardware=cpu", "hardware.n_threads=1", "tracking=off")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Cubes in a folder with a name that shells and Hydra's grammar stumble over, and the survey's file in another."""
    folder = tmp_path_factory.mktemp("own survey")
    cubes = folder / "My [Data]=1 é"
    cubes.mkdir()
    (folder / "my conf" / "data").mkdir(parents=True)
    (folder / "my conf" / "data" / "mine.yaml").write_text(SURVEY)
    rng, n, n_pixels = np.random.default_rng(0), 120, 64
    flux = 10 + np.sin(np.arange(n_pixels) / 5 + rng.uniform(0, 6, (n, 1))) + 0.1 * rng.normal(size=(n, n_pixels))
    table = {
        "mag": rng.normal(18, 1, n),
        "z": rng.exponential(0.5, n),
        "flux": list(flux),
        "ivar": [np.full(n_pixels, 100.0)] * n,
        "wave": [3600 + 2.0 * np.arange(n_pixels)] * n,
    }
    for field in ("1_0", "B,1"):
        rows = {"id": [f"{field}{i}" for i in range(n)], **table}
        pq.write_table(pa.table(rows), cubes / f"datacube_{field}.parquet")
    return folder


def pasted(outcome: Outcome) -> tuple[str, list[str]]:
    """Stage and arguments of the command that a stage has printed, as a shell would read it."""
    assert outcome.returncode == 0, outcome.stderr
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("next: ")]
    program, script, *arguments = shlex.split(line.removeprefix("next: "))
    assert program == "python"
    return script.removesuffix(".py"), arguments


def test_each_printed_command_runs_on_what_the_one_before_has_made(place: Path):
    given = [
        "--config-dir",
        "my conf",
        "data=mine",
        f"data.root={place}/My [Data]=1 é",
        "data.fields=[1_0,'B,1']",
        "name=1_1",
        "tokenizer_id=1_2",
        *CHEAP,
    ]
    stage, arguments = pasted(launch_stage("train_tokenizers", *given, "tokenizer.scalar.n_bins=16", cwd=place))
    assert stage == "encode" and "name=1_1" in arguments and not any("n_bins" in a for a in arguments)
    stage, arguments = pasted(launch_stage(stage, *arguments, cwd=place))
    assert stage == "train_lm" and {p.name for p in (place / "artifacts/2026_11").iterdir()} == {"1_2"}
    sizes = [*MODEL, "schedule.warmup_steps=2", "sequence=random"]
    stage, arguments = pasted(launch_stage(stage, *arguments, *sizes, cwd=place))
    assert stage == "train_lm" and arguments.count("-m") == 1 and set(sizes) <= set(arguments)
    assert "loss.weight_scalar=0.05,0.2,1.0" in arguments, "the survey has no images"
    with mock.patch.object(sweeper, "launch", lambda *_: []):  # all jobs are composed and checked
        swept = launch_stage(stage, *arguments, cwd=place)
    assert "sweep of 3 jobs" in swept.stdout and "error in" not in swept.stderr, swept.stderr
    of_training = ["-m", "loss.weight_scalar", *(size.split("=")[0] for size in sizes)]
    shared = [a for a in arguments if a.split("=")[0] not in of_training]
    stage, arguments = pasted(launch_stage("evaluate", *shared, "evaluate.judge=null", cwd=place))
    assert stage == "evaluate" and {"evaluate.given=[spectrum]", "evaluate.judge=null"} <= set(arguments)
    assert launch_stage(stage, *arguments, cwd=place).returncode == 0


def test_a_model_that_was_trained_to_be_asked_is_asked_its_question(place: Path):
    given = ["--config-dir", "my conf", "data=mine", f"data.root={place}/My [Data]=1 é", "tokenizer_id=asked", *CHEAP]
    launch_stage("train_tokenizers", *given, "tokenizer=scalar", cwd=place)
    launch_stage("encode", *given, cwd=place)
    question = "sequence.questions=[{predict: [z], given: [mag], share: 0.5}]"
    sizes = [*MODEL, "schedule.warmup_steps=2", "sequence=ask", "sequence.modalities=[scalar]"]
    stage, arguments = pasted(launch_stage("train_lm", *given, *sizes, question, cwd=place))
    assert stage == "evaluate" and {"evaluate.given=[mag]", "evaluate.predict=[z]"} <= set(arguments)
    asked = launch_stage(stage, *arguments, "evaluate.judge=null", cwd=place)
    assert asked.returncode == 0 and "catalogue of 240 objects" in asked.stderr, asked.stderr


def test_paths_mean_the_folder_of_the_command_with_chdir_too(place: Path):
    given = [
        "--config-dir",
        "my conf",
        "data=mine",
        "data.root=My [Data]=1 é",
        "tokenizer=scalar",
        *CHEAP,
        "tokenizer_id=chdir",
        "hydra.job.chdir=true",
    ]
    assert launch_stage("train_tokenizers", *given, cwd=place).returncode == 0
    assert (place / "artifacts/2026_11/chdir/tokenizers/scalar_tokenizers").is_dir()
    assert not list((place / "runs").rglob("artifacts"))


def test_the_configuration_is_shown_with_its_values(place: Path):
    shown = launch_stage("encode", "--config-dir", "my conf", "data=mine", "--cfg", "job", "--resolve", cwd=place)
    assert shown.returncode == 0 and f"run_dir: {place}/runs/encode/default/" in shown.stdout
    assert "store: artifacts/2026_11/default" in shown.stdout and "${" not in shown.stdout
