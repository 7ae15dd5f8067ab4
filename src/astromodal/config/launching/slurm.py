"""Processes that ``srun`` has started, told apart in the words of torchrun."""

from __future__ import annotations

import os
from collections.abc import MutableMapping


def join_step(stage: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """``RANK``, ``WORLD_SIZE`` and one run id for all tasks of a job step of Slurm; training has torchrun for that.

    Only ``srun`` sets ``SLURM_STEP_ID``: a batch script itself is told the number of tasks too, but is one process.

    >>> step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
    >>> join_step("encode", step)
    >>> step["RANK"], step["WORLD_SIZE"], step["ASTROMODAL_RUN_ID"]
    ('2', '4', 'slurm-7-0')
    """
    if stage == "train_lm" or "RANK" in environ or "SLURM_STEP_ID" not in environ:
        return
    n_tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    if n_tasks.isdecimal() and int(n_tasks) > 1:
        environ.update(RANK=environ["SLURM_PROCID"], WORLD_SIZE=n_tasks)
        environ.setdefault("ASTROMODAL_RUN_ID", f"slurm-{environ['SLURM_JOB_ID']}-{environ['SLURM_STEP_ID']}")
