"""What a run read and wrote shows at Weights & Biases, and can never end or hide a run; jobs of a sweep are a group."""

from __future__ import annotations

import sys
import types

import pytest

from astromodal.core import RunContext, read_json
from astromodal.provenance import lineage
from astromodal.runs import run as runs
from tests.offline_runs import read_offline

CUBES = {"datacube_A": "a" * 32, "datacube_B": "b" * 32}
TOKENIZERS = {"scalar_tokenizer": "1" * 32, "image_tokenizer": "2" * 32}


def context(folder, stage: str, mode: str = "offline", **tracking) -> RunContext:
    config = {
        "stage": stage,
        "name": "n",
        "run_id": "r",
        "run_dir": str(folder),
        "data": {"name": "my sky"},
        "tracking": {"wandb": mode} | tracking,
    }
    return RunContext.open(config, stage)


def sent(folder):
    (record,) = (folder / "wandb").glob("offline-run-*")
    return read_offline(record)


def run_stage(folder, stage: str, inputs: dict[str, str], outputs: dict[str, str], **tracking):
    """The artifacts of a run: (used, made), each name → digest."""
    with context(folder, stage, **tracking) as run:
        for name, value in inputs.items():
            run.add_input(name, value)
        for name, value in outputs.items():
            run.add_output(name, value)
    record = read_json(folder / "run.json")
    assert record["inputs"] == inputs and record["outputs"] == outputs and record["wandb_mode"] == "offline"
    artifacts = sent(folder).artifacts
    return tuple({a.name: a.digest for a in artifacts if a.use_after_commit is used} for used in (True, False))


def test_what_one_stage_writes_is_the_version_that_the_next_one_reads(tmp_path):
    used, fitted = run_stage(tmp_path / "t", "train_tokenizers", CUBES, TOKENIZERS)
    assert set(used) == {"my-sky-datacubes"} and set(fitted) == {"my-sky-scalar_tokenizer", "my-sky-image_tokenizer"}
    encoding, tokens = run_stage(tmp_path / "e", "encode", CUBES | TOKENIZERS, {"tokens": "3" * 32})
    assert encoding == used | fitted and set(tokens) == {"my-sky-tokens"}
    reads = {"tokens": "3" * 32, "sequences": "4" * 32, **TOKENIZERS}
    training, model = run_stage(tmp_path / "m", "train_lm", reads, {"model": "5" * 32})
    assert training == fitted | tokens and set(model) == {"my-sky-model"}
    other, _ = run_stage(tmp_path / "o", "train_lm", {"tokens": "6" * 32}, {})
    assert set(other) == set(tokens) and other != tokens  # another version of the same artifact


def test_an_artifact_is_a_fingerprint_and_no_file(tmp_path):
    run_stage(tmp_path / "r", "train_lm", {}, {"model": "5" * 32})
    (artifact,) = sent(tmp_path / "r").artifacts
    (entry,) = artifact.manifest.contents
    assert (artifact.type, entry.ref) == ("model", f"astromodal:model/{'5' * 32}") and not entry.local_path
    assert sorted(artifact.aliases) == ["555555555555", "latest"] and "5" * 32 in artifact.metadata


def test_lineage_can_be_turned_off(tmp_path):
    assert run_stage(tmp_path / "r", "train_lm", {"tokens": "3" * 32}, {"model": "5" * 32}, lineage=False) == ({}, {})


def test_many_cubes_are_one_artifact_that_changes_with_each_of_them():
    (one,) = lineage.links(CUBES, "sky")
    (same,) = lineage.links(dict(reversed(CUBES.items())), "sky")
    (other,) = lineage.links(CUBES | {"datacube_B": "c" * 32}, "sky")
    assert one == same and one.name == other.name and one.fingerprint != other.fingerprint


class Online:
    """A run of W&B that is online, and may refuse artifacts."""

    id, offline = "x", False

    def __init__(self, fails: bool, documented: bool) -> None:
        self.calls, self.fails, self.documented, self.summary = [], fails, documented, self

    def __getattr__(self, name):
        if self.documented and name == "_log_artifact":
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, kwargs))
            if self.fails and name.endswith("_artifact"):
                raise RuntimeError("storage\nis full")

        return call


@pytest.fixture
def online(monkeypatch):
    def make(fails: bool = False, documented: bool = False) -> Online:
        run = Online(fails, documented)
        artifact = types.SimpleNamespace(add_reference=lambda *a, **k: None)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setitem(
            sys.modules,
            "wandb",
            types.SimpleNamespace(init=lambda **k: run, Settings=lambda **k: k, Artifact=lambda *a, **k: artifact),
        )
        return run

    return make


@pytest.mark.parametrize("documented", [False, True])
def test_online_nothing_waits_unless_only_the_documented_calls_are_there(tmp_path, online, documented):
    run = online(documented=documented)
    with context(tmp_path / "r", "encode", "online") as stage:
        stage.add_input("scalar_tokenizer", "1" * 32)
        stage.add_output("tokens", "3" * 32)
    (_, used, made, end) = run.calls
    assert used[0] == ("use_artifact" if documented else "_log_artifact") and used[1]["aliases"] == ["1" * 12]
    assert documented or used[1]["use_after_commit"] is True
    assert made == ("log_artifact", {"aliases": ["latest", "3" * 12]}) and end == ("finish", {"exit_code": 0})
    assert read_json(tmp_path / "r" / "run.json")["wandb_mode"] == "online"


def test_a_lineage_that_fails_is_said_once_and_the_run_is_shown_as_done(tmp_path, online, caplog):
    run = online(fails=True)
    with context(tmp_path / "r", "encode", "online") as stage:
        stage.add_input("scalar_tokenizer", "1" * 32)
        stage.add_output("tokens", "3" * 32)
    said = [record.getMessage() for record in caplog.records if "is not shown" in record.getMessage()]
    assert len(said) == 1 and "RuntimeError: storage is full" in said[0]
    assert run.calls[-1] == ("finish", {"exit_code": 0})
    assert read_json(tmp_path / "r" / "run.json")["status"] == "DONE"


def test_an_interrupted_run_does_not_wait_for_its_lineage(tmp_path, online):
    run = online()
    with pytest.raises(KeyboardInterrupt), context(tmp_path / "r", "encode", "online") as stage:
        stage.add_input("scalar_tokenizer", "1" * 32)
        raise KeyboardInterrupt
    assert [name for name, _ in run.calls] == ["define_metric", "finish"] and run.calls[-1][1] == {"exit_code": 1}


# ------------------------------------------------------------------------------------------ groups


def test_jobs_of_a_sweep_are_one_group_with_ids_of_their_own(tmp_path, monkeypatch):
    for job in ("0", "1"):
        monkeypatch.setattr(runs, "sweep_job", lambda job=job: job)
        with context(tmp_path / job, "train_lm"):
            pass
    first, second = (sent(tmp_path / job).run for job in ("0", "1"))
    assert (first.run_group, second.run_group) == ("r", "r")
    assert (first.run_id, second.run_id) == ("train_lm-r-0", "train_lm-r-1")
    assert (first.display_name, second.display_name) == ("n-r-0", "n-r-1")


def test_a_job_that_is_resumed_alone_stays_in_its_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "sweep_job", lambda: "3")
    with context(tmp_path / "r", "train_lm"):
        pass
    monkeypatch.setattr(runs, "sweep_job", lambda: None)
    config = {
        "stage": "train_lm",
        "name": "n",
        "run_id": "later",
        "run_dir": str(tmp_path / "r"),
        "tracking": {"wandb": "disabled"},
    }
    with RunContext.open(config, "train_lm", resume=True) as run:
        assert runs.mirror_options(run._record, run.config)["group"] == "r"
    record = read_json(tmp_path / "r" / "run.json")
    assert (record["job"], record["run_id"]) == ("3", "r") and len(record["attempts"]) == 1
    assert runs.mirror_options(record, config)["run_id"] == "train_lm-r-3"


def test_runs_of_a_sweep_agent_are_a_group_and_a_group_of_ones_own_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep9")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    with context(tmp_path / "a", "train_lm"):
        pass
    with context(tmp_path / "b", "train_lm", group="mine"):
        pass
    agent, own = sent(tmp_path / "a").run, sent(tmp_path / "b").run
    assert (agent.run_id, agent.run_group, own.run_group) == ("abc", "sweep9", "mine")
    assert read_json(tmp_path / "a" / "run.json")["sweep_id"] == "sweep9"
