"""What an older version recorded is read under the keys of this one, and that is said."""

from __future__ import annotations

import json
import logging

import pytest
from omegaconf import OmegaConf

from astromodal.compare.rundir import Run, read_run
from astromodal.config.launching.continued import continued
from astromodal.config.reading import older
from astromodal.config.reading.yaml_files import load_run_config
from astromodal.config.schema import Config
from astromodal.errors import ConfigError
from astromodal.training.checkpoints.resume import check_resumable


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(older, "_SAID", set())


NEW = {
    "seed": 3,
    "resume": "auto",
    "init_from": None,
    "training": {"epochs": 2},
    "hardware": {"n_processes": 2, "workers": {"backend": "loky", "n_jobs": 2, "address": None}},
}


def recorded(workers: object = 2) -> dict:
    """``NEW`` under the keys of the first version; ``workers``: None for none."""
    hardware = {"n_processes": 2} if workers is None else {"n_processes": 2, "workers": workers}
    return {"seed": 3, "training": {"epochs": 2, "resume": "auto", "init_from": None}, "hardware": hardware}


@pytest.mark.parametrize(("workers", "n_jobs"), [(3, 3), (None, 2), ({"backend": "dask", "n_jobs": 5}, 5)])
def test_a_run_of_an_older_version_has_the_keys_of_this_one(tmp_path, caplog, workers, n_jobs):
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(recorded(workers))))
    with caplog.at_level(logging.WARNING):
        config = OmegaConf.merge(OmegaConf.structured(Config), load_run_config(path))
    assert config.resume == "auto" and config.init_from is None
    assert config.hardware.workers.n_jobs == n_jobs
    assert "training.resume is resume now" in caplog.text and str(path) in caplog.text
    assert ("hardware.workers is a section now" in caplog.text) == (not isinstance(workers, dict))
    load_run_config(path)
    assert caplog.text.count("training.resume is resume now") == 1  # once, however often it is read


def test_what_this_version_wrote_is_left_alone(caplog):
    assert older.migrated(NEW, "here") == NEW and not caplog.records


def test_a_new_key_is_stronger_than_the_old_one():
    assert older.migrated({"training": {"resume": "auto"}, "resume": None}, "here") == {"training": {}, "resume": None}


def test_an_older_checkpoint_can_be_resumed_and_another_configuration_cannot():
    assert older.migrated(recorded(), "here") == NEW
    check_resumable(recorded(), NEW)
    with pytest.raises(ConfigError, match="seed"):
        check_resumable(recorded() | {"seed": 77}, NEW)


def test_an_older_sweep_is_continued(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("ASTROMODAL_RUN_ID", "x")
    arguments = ["training.init_from=runs/a", "hardware.workers=2", "seed=0,1"]
    record = {"arguments": arguments, "stage": "train_lm", "run_id": "20260301-120000-000"}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    found = continued(["-m", f"sweep.resume={tmp_path}"], "train_lm")
    assert found[:4] == ["-m", "init_from=runs/a", "hardware.workers.n_jobs=2", "seed=0,1"]
    assert "training.init_from is init_from now" in caplog.text


def test_runs_of_both_versions_are_compared_under_one_key(tmp_path):
    record = {"stage": "train_lm", "status": "DONE", "run_id": "a", "name": "a"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text(json.dumps({"training": {"init_from": "runs/a"}}))
    run = read_run(tmp_path, needs_metric=False)
    assert isinstance(run, Run) and run.config == {"init_from": "runs/a", "training": {}}
