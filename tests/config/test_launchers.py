"""Sweeps whose jobs run elsewhere: in other processes of this machine, or on a cluster (the plugins are optional)."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from astromodal.errors import ArtifactMissingError, ConfigError

REPO = Path(__file__).resolve().parents[2]
PLUGINS = {"slurm": "submitit", "local": "submitit", "parallel": "joblib"}

SCRIPT = """
import json, os
from pathlib import Path
from astromodal.config.launching.launch import launch
from astromodal.errors import ArtifactMissingError

def task(cfg):
    if cfg.init_from:
        raise ArtifactMissingError("a file of weights", got="nothing", where=cfg.init_from)
    seen = {"run_id": cfg.run_id, "seed": cfg.seed, "process": os.getpid()}
    seen["threads"] = os.environ.get("OMP_NUM_THREADS")
    Path(cfg.run_dir, "seen.json").write_text(json.dumps(seen))

launch("train_lm", task, None)
"""


def sweep(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A sweep of a script that only writes down what it was given."""
    script = folder / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(REPO / 'src')!r})\n" + SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k not in ("ASTROMODAL_RUN_ID", "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, str(script), "-m", *arguments],
        cwd=folder,
        env=environment | (env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def installed(plugin: str) -> bool:
    try:
        return importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("option", [*PLUGINS, "submitit_slurm", "joblib"])
def test_a_launcher_without_its_package_names_the_package(tmp_path: Path, option: str) -> None:
    plugin = PLUGINS.get(option, option.split("_")[0])
    if installed(plugin):
        pytest.skip("it is installed")
    done = sweep(tmp_path, f"hydra/launcher={option}", "seed=0,1")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1
    assert f"pip install hydra-{plugin}-launcher" in lines[0] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["local", "parallel"])
def test_jobs_in_other_processes_share_the_folder_of_the_sweep(tmp_path: Path, option: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{PLUGINS[option]}_launcher")
    done = sweep(tmp_path, f"hydra/launcher={option}", "seed=0,1")
    assert done.returncode == 0, done.stderr
    found = {
        path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/train_lm/sweeps/*/*/seen.json")
    }
    assert {job: seen["seed"] for job, seen in found.items()} == {"0": 0, "1": 1}
    assert {seen["run_id"] for seen in found.values()} == {p.name for p in tmp_path.glob("runs/train_lm/sweeps/*")}
    assert len({seen["process"] for seen in found.values()}) == 2
    if option == "parallel":
        threads = {int(seen["threads"]) for seen in found.values()}
        assert threads == {max(len(os.sched_getaffinity(0)) // 2, 1)}


@pytest.mark.parametrize("option", ["local", "parallel"])
def test_what_goes_wrong_in_another_process_is_said_per_job_and_in_one_line(tmp_path: Path, option: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{PLUGINS[option]}_launcher")
    done = sweep(tmp_path, f"hydra/launcher={option}", "seed=0,1", "init_from=nowhere.pt")
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    for job in (0, 1):
        why = "ArtifactMissingError: expected a file of weights, got nothing (nowhere.pt)"
        assert f"job {job} (seed={job}) failed: {why}" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 2 jobs failed; to go on: python ")


def test_slurm_without_a_cluster_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = sweep(tmp_path, "hydra/launcher=slurm", "seed=0,1", env={"PATH": str(tmp_path)})
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert last.startswith("error: 2 of 2 jobs not finished, the launcher stopped: expected a machine of a Slurm")
    assert "to repair: hydra/launcher=local" in last


@pytest.mark.parametrize("kind", [ConfigError, ArtifactMissingError])
def test_errors_survive_the_way_between_processes(kind: type) -> None:
    error = pickle.loads(pickle.dumps(kind("a file", got="none", where="here")))
    assert type(error) is kind and str(error) == "expected a file, got none (here)"
