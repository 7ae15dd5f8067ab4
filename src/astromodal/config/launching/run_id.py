"""The id of a run: one per command, so that all jobs of a sweep, and all processes of torchrun, share a folder."""

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
    """:func:`make_run_id`, remembered; that of the first process in all that torchrun has started."""
    global _run_id
    if _run_id is None:
        _run_id = shared("run_id", make_run_id(), os.environ)
    return _run_id


def shared(name: str, own: str, environ: Mapping[str, str]) -> str:
    """``own`` of the first process, through torchrun's store (their clocks and views of the disk differ)."""
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or int(environ.get("WORLD_SIZE", "1")) < 2:
        return own
    from torch.distributed import TCPStore  # only under torchrun: training will need it anyway

    store = TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)
    key = f"astromodal/{name}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if environ["RANK"] == "0":
        store.set(key, own)
    return store.get(key).decode()
