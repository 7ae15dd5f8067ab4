"""What a printed command takes over from the run before, and what it leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from astromodal.config.launching.next_command import next_command
from astromodal.config.reading.conf_files import conf_dir


@pytest.fixture
def run(monkeypatch):
    """A run of train_tokenizers.py, as Hydra has recorded it, with what a test changes."""

    def make(task=(), hydra=(), mode="RUN", sources=(), config_name="train_tokenizers"):
        main = SimpleNamespace(provider="main", schema="file", path=str(conf_dir()))
        found = SimpleNamespace(
            mode=mode,
            overrides=SimpleNamespace(task=list(task), hydra=list(hydra)),
            job=SimpleNamespace(config_name=config_name),
            runtime=SimpleNamespace(config_sources=[main, *sources], choices={"data": "mine"}),
        )
        monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: found))
        monkeypatch.setattr("sys.argv", ["../my code/train_tokenizers.py"])
        return SimpleNamespace(stage="train_tokenizers", tokenizer_id="20260101-1")

    return make


def test_what_the_next_stage_reads_is_kept_and_what_it_does_not_is_left(run):
    cfg = run(
        [
            "data=splus",
            "tokenizer=image",
            "name='1_0'",
            "seed=3",
            "experiment=demo",
            "run_id=x",
            "hardware=ddp",
            "~data.scalars.z",
            "data.root='a=b'",
        ],
        ["hydra.searchpath=[file:///x]", "hydra.mode=RUN"],
    )
    assert next_command(cfg, "encode", "seed=4") == (
        "python '../my code/encode.py' 'hydra.searchpath=[file:///x]' data=splus name=1_0 experiment=demo "
        "'~data.scalars.z' data.root=a=b seed=4"
    )


def test_folders_of_the_user_are_named(run):
    mine = SimpleNamespace(provider="command-line", schema="file", path="/my conf")
    assert "encode.py' --config-dir '/my conf' data=mine" in next_command(run(["data=mine"], sources=[mine]), "encode")


def test_a_job_of_a_sweep_names_its_own_tokenizers(run):
    assert next_command(run(["seed=1"], mode="RunMode.MULTIRUN"), "encode").endswith("seed=1 tokenizer_id=20260101-1")
    kept = next_command(run(["tokenizer_id=t"], mode="RunMode.MULTIRUN"), "encode")
    assert kept.endswith(" tokenizer_id=t")


def test_a_primary_file_of_the_user_is_one_of_its_stage(run):
    class Cfg(dict):
        __getattr__ = dict.__getitem__

    run(config_name="study")
    cfg = Cfg(stage="train_tokenizers", data={"name": "m", "root": "/d=1"}, paths={"store": "artifacts/m"})
    assert "--config-name study" in next_command(cfg, "train_tokenizers")
    said = next_command(cfg, "encode")
    assert "study" not in said and said.endswith("data=mine data.name=m data.root=/d=1 paths.store=artifacts/m")
