"""A point of a sweep file goes through the real command, started as W&B's agent starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.offline_runs import read_offline
from tests.sweep_points import REPO, command, draw, read

SIZE = (
    "data.synthetic.n_fields=2",
    "data.synthetic.n_objects_per_field=60",
    "data.synthetic.image_fraction=0.4",
    "data.synthetic.spectrum_fraction=0.3",
    "hardware=cpu",
    "hardware.n_threads=1",
    "training.max_steps=4",
    "model=tiny",
    "model.d_model=32",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_ff=64",
)


def test_a_sweep_agent_runs_a_point_through_the_real_command(workplace, tmp_path):
    engine = pytest.importorskip("sweeps", reason="W&B's sweep engine: pip install --no-deps sweeps")
    from wandb.sdk.lib import config_util

    sweep, folder = read(REPO / "sweeps" / "loss_and_learning_rate.yaml"), workplace.folder
    (point,) = draw(engine, sweep, 1)
    parameters = folder / "wandb" / "sweep-s9" / "config-abc123.yaml"
    config_util.save_config_file_from_dict(str(parameters), {key: {"value": float(v)} for key, v in point.items()})
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "s9",
        "WANDB_RUN_ID": "abc123",
        "WANDB_DIR": str(folder),
        "WANDB_SWEEP_PARAM_PATH": str(parameters),
    }
    done = subprocess.run(
        [*command(sweep, point), *SIZE],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs" / "train_lm").glob("*/*/run.json")
    record = json.loads(run.read_text())
    assert (record["status"], record["wandb_id"], record["sweep_id"]) == ("DONE", "abc123", "s9")
    (mirror,) = (run.parent / "wandb").glob("offline-run-*")
    offline = read_offline(mirror)
    assert (offline.run.run_id, offline.run.sweep_id, offline.run.run_group) == ("abc123", "s9", "s9")
    assert sum("val/score" in row for row in offline.metrics) >= 1
    assert {"synthetic-tokens", "synthetic-model"} <= {artifact.name for artifact in offline.artifacts}
    for key, value in point.items():
        group, name = key.split(".")
        assert offline.config[group][name] == offline.config[key] == pytest.approx(float(value))
