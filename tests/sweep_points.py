"""Points of a sweep file as W&B's own engine draws them, and the command lines that its agent makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPO = Path(__file__).resolve().parents[1]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def draw(engine: Any, sweep: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """``n`` points, each run having ended with another figure before the next one is drawn."""
    np.random.seed(0)  # the engine draws from NumPy's global state
    done = []
    for k in range(n):
        run = engine.next_run(sweep, done, validate=True)
        if run is None:  # a grid is used up
            break
        run.state, figure = engine.RunState.finished, 0.5 + 0.1 * math.sin(k)
        run.summary_metrics, run.history = {sweep["metric"]["name"]: figure}, [{sweep["metric"]["name"]: figure}]
        done.append(run)
    return [{key: entry["value"] for key, entry in run.config.items()} for run in done]


def command(sweep: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """The command line of a point, put together by W&B's own agent code."""
    from wandb.sdk.launch.sweeps import utils

    plain = {key: {"value": v.item() if isinstance(v, np.generic) else v} for key, v in point.items()}
    parts = utils.create_sweep_command_args({"args": plain})
    parts |= {"env": ["/usr/bin/env"], "program": [str(REPO / sweep["program"])]}
    line: list[str] = []
    for chunk in utils.create_sweep_command(list(sweep["command"])):
        macro = chunk.startswith("${") and chunk.endswith("}")
        line += parts[chunk[2:-1]] if macro else [chunk]
    return line


def overrides_of(line: list[str]) -> list[str]:
    return line[line.index("python") + 2 :]
