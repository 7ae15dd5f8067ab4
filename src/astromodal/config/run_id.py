"""The id of a run: one per process, handed to child processes, so that all jobs of a sweep share a folder."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping

_run_id: str | None = None


def make_run_id(environ: Mapping[str, str] = os.environ) -> str:
    """ASTROMODAL_RUN_ID, else WANDB_RUN_ID, else torchrun's id unless it is ``none``, else the UTC time.

    >>> make_run_id({"TORCHELASTIC_RUN_ID": "none", "WANDB_RUN_ID": "abc"})
    'abc'
    """
    for name in ("ASTROMODAL_RUN_ID", "WANDB_RUN_ID", "TORCHELASTIC_RUN_ID"):
        value = environ.get(name, "").strip()
        if value and not (name == "TORCHELASTIC_RUN_ID" and value == "none"):
            return value
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]


def run_id() -> str:
    """:func:`make_run_id`, remembered."""
    global _run_id
    if _run_id is None:
        _run_id = make_run_id()
    return _run_id
