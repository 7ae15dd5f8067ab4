"""Fingerprints of what a stage would read now, under the names by which ``run.json`` has them; nothing is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ..config.reading.containers import to_object
from ..config.schema import Config
from ..errors import ArtifactError, DataError
from .jobs import Job


def job_inputs(job: Job) -> Mapping[str, str]:
    """Fingerprints of the job's inputs; of those that do not exist there are none."""
    config = to_object(job.config, Config)
    found: dict[str, str] = {}
    with contextlib.suppress(ArtifactError, DataError):
        if job.config.stage == "train_lm":
            found |= _tokens(config)
        else:
            found |= _cubes(config)
    return found


def _tokens(config: Config) -> dict[str, str]:
    """Token files, whose fingerprint includes those of the tokenizers and of the cubes behind them."""
    from ..tokens.store import TokenStore

    return {"tokens": TokenStore.of(config).fingerprint}


def _cubes(config: Config) -> dict[str, str]:
    from ..data import discover

    cubes = discover(config.data, config.paths.datacube_template)
    return {f"datacube_{cube.field}": cube.fingerprint() for cube in cubes}
