"""A recorded command is taken up again as far as it chooses options and sets keys; nothing of it is executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astromodal.config.checks.names import check_name
from astromodal.config.launching.continued import continued
from astromodal.config.launching.replayed import check_replayed
from astromodal.errors import ArtifactError, ConfigError

FINE = [
    "model=tiny,small",
    "seed=0,1",
    "seed=range(0,3)",
    "loss.weight_image=0.1,0.2",
    "+data.scalars.z={min:0}",
    "~data.scalars.z",
    "tokenizer/image/codec=vae",
    "hparams=loss_weights",
    "hydra/launcher=slurm",
    "hydra.launcher.partition=gpu-a",
    "hydra.launcher.n_jobs=4",
    "hydra.sweeper.max_batch_size=2",
    "data.root='/data/my cubes'",
    "paths.runs=${data.root}/runs",
    "name=a b",
    "data.scalars.r-SDSS.min=0",
]
EVIL = [
    "+hydra.callbacks.x._target_=joblib.load",
    "++hydra.callbacks.x={_target_:os.system,command:id}",
    "hydra.launcher._target_=os.system",
    "hydra.sweeper._target_=os.system",
    "hydra/callbacks=log_job_return",
    "+hydra.job.env_set.LD_PRELOAD=/tmp/x.so",
    "hydra.searchpath=[file:///tmp/x]",
    "hydra.job_logging.version=1",
    "hydra.launcher.setup=[id]",
    "hydra.launcher.partition='a\nid'",
    "hydra.launcher.pre_dispatch=id()",
    "--config-dir=/tmp/x",
    "--config-dir",
    "/tmp/x",
    "-cd",
    "experiment=../../tmp/x",
    "experiment=/tmp/x",
    "experiment=[demo,../../x]",
    "model@hydra.callbacks=tiny",
    "+model@_global_=tiny",
    " hydra.verbose=true",
    "hydra={}",
    "name=${oc.env:HOME}",
    "name=${${x}:HOME}",
    "unknown=1",
    "",
    "=1",
    7,
    None,
    ["seed=1"],
]


@pytest.mark.parametrize("argument", FINE)
def test_choices_and_values_are_replayed(argument):
    check_replayed([argument], Path("sweep.json"))


@pytest.mark.parametrize("argument", EVIL, ids=repr)
def test_anything_else_is_refused_by_name(argument):
    with pytest.raises(ConfigError, match=r"recorded arguments.*sweep\.json.*give it again") as caught:
        check_replayed(["seed=1", argument], Path("sweep.json"))
    assert "\n" not in str(caught.value)


def record(folder: Path, arguments: list, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    values = {"schema_version": 1, "stage": "train_lm", "run_id": "s", "arguments": arguments, "jobs": []} | changes
    (folder / "sweep.json").write_text(json.dumps(values))
    return folder


def test_what_is_typed_again_is_the_readers_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "before")
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "s", ["name=${oc.env:HOME}", "seed=0,1"])
    with pytest.raises(ConfigError, match=r"oc\.env"):
        continued(["-m", "sweep.resume=s"], "train_lm")
    own = continued(["-m", "sweep.resume=s", "name=${oc.env:HOME}"], "train_lm")
    assert own == ["-m", "name=${oc.env:HOME}", "seed=0,1", "sweep.resume=s", "hydra.sweep.dir='s'"]


@pytest.mark.parametrize("run_id", ["../../x", "/tmp/x", "..", "", "a\x1b[2J", "a" * 300])
def test_the_id_of_a_recorded_sweep_is_the_name_of_a_folder(run_id, tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "before")
    folder = record(tmp_path / "s", ["seed=0,1"], run_id=run_id)
    with pytest.raises(ConfigError, match="name of one folder") as caught:
        continued(["-m", f"sweep.resume={folder}"], "train_lm")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"arguments": 3}', "null", "\xff", "{}"], ids=lambda t: t[:9])
def test_a_record_of_another_form_is_one_line(text, tmp_path):
    (tmp_path / "sweep.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ArtifactError, match="readable record of a sweep") as caught:
        continued(["-m", f"sweep.resume={tmp_path}"], "train_lm")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["default", "2026-11-30_a", "été", "loss=2", "a" * 200, ".hidden"])
def test_names_of_one_folder(name):
    assert check_name(name, "name") == name
