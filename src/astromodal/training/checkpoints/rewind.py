"""Bring a run directory back to where a restored state stands, so that no record and no checkpoint is ahead of it.

Records beyond the restored step are cut off: the run makes them again. Checkpoints beyond it are there when a run goes
on from an earlier checkpoint than its newest; left in place, the next ``resume=auto`` would take them for its own, and
the pruning of old ones would keep them and remove the new. They move to ``checkpoints/superseded/``, which nothing
reads; remove it when you are sure.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ArtifactError
from ...files.io import truncate_jsonl, write_json
from ...parallel import distributed
from .checkpoint import load_checkpoint

if TYPE_CHECKING:
    from ..loop import TrainingLoop
    from .checkpoint import CheckpointStore

FOLDER = "superseded"


def rewind(loop: TrainingLoop) -> None:
    """Make the restored state the newest of its run directory; call it on all ranks, with the random state in place.

    The state is saved first: killed at any instant, the run is either where it was or where it is to be.
    """
    store = loop.store
    if store is None:
        return
    later = later_checkpoints(loop, store) if loop.is_main else []
    names = {path.name for path in later}
    if distributed.largest(int("best.pt" in names), loop.device):
        loop.best.reset()  # its weights are about to be set aside
    if distributed.largest(len(later), loop.device):
        loop.save()
        loop.finish_writing()
    if loop.is_main:
        _set_aside(loop, store, later)
        store.prune()  # killed between a checkpoint and the removal of the oldest
        cut_records(loop, store.run_dir)


def later_checkpoints(loop: TrainingLoop, store: CheckpointStore) -> list[Path]:
    """Checkpoints of the run directory that hold a later step than the loop stands at."""
    step = loop.global_step
    found = [p for p in store.numbered() if int(re.sub(r"\D", "", p.stem)) > step]
    if loop.resume == "auto":  # took the newest; a numbered one may be newer if the run was killed between two files
        return found
    for path in (store.folder / "last.pt", store.folder / "best.pt"):
        try:
            if path.exists() and load_checkpoint(path)["global_step"] > step:
                found.append(path)
        except ArtifactError:
            continue  # damaged: nobody resumes from it
    return found


def _set_aside(loop: TrainingLoop, store: CheckpointStore, later: list[Path]) -> None:
    moved = [p for p in later if p.name != "last.pt"]  # which was written anew
    if not moved:
        return
    folder = store.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for path in moved:
        os.replace(path, folder / path.name)
    weights = store.run_dir / "best_model.pt"
    if any(p.name == "best.pt" for p in moved) and weights.exists():
        os.replace(weights, folder / weights.name)
    loop.log.info(
        "the run goes on from step %d: %s moved to %s", loop.global_step, ", ".join(p.name for p in moved), folder
    )


def cut_records(loop: TrainingLoop, run_dir: Path) -> None:
    """Remove from the run directory what was recorded beyond the restored step."""
    if not loop.metric_prefix:  # with a prefix, the file also belongs to other loops
        path = getattr(loop.tracker, "path", run_dir / "metrics.jsonl")
        n_cut = truncate_jsonl(path, loop.global_step)
        loop.tracker.rewind(loop.global_step)
        if n_cut:
            loop.log.info("removed %d records beyond step %d from %s", n_cut, loop.global_step, Path(path).name)
    write_json(run_dir / "training_history.json", loop.history)
