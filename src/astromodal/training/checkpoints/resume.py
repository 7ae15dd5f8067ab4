"""Going on from a checkpoint: which one, whether this configuration may, and the run directory brought back to it.

Records beyond the restored step are cut off: the run makes them again. Checkpoints beyond it are there when a run goes
on from an earlier checkpoint than its newest; left in place, the next ``resume=auto`` would take them for its own, and
the pruning of old ones would keep them and remove the new. They move to ``checkpoints/superseded/``, which nothing
reads; remove it when you are sure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.reading.older import migrated
from ...errors import ArtifactError, ConfigError
from ...files.io import plain, read_json, truncate_jsonl, write_json
from ...parallel import distributed
from ...runs.run import in_use
from .checkpoint import CheckpointStore, load_checkpoint, load_weights
from .state import load_state

if TYPE_CHECKING:
    from ..loop import TrainingLoop

FOLDER = "superseded"
# What a run may be resumed with although it differs: length, periods, bookkeeping, hardware.
MAY_CHANGE = (
    "run_id",
    "run_dir",
    "name",
    "tracking",
    "hardware",
    "paths",
    "training.epochs",
    "training.max_steps",
    "training.log_every",
    "training.val_every",
    "training.save_every",
    "training.keep_last",
    "training.checkpoint_async",
    "training.patience",
    "training.min_delta",
    "training.early_stop_start_ratio",
    "training.on_nonfinite",
    "training.spike_factor",
    "training.num_workers",
    "training.pin_memory",
    "training.persistent_workers",
    "training.prefetch_factor",
    "resume",
    "init_from",
    "model.activation_checkpointing",
)


def find_resume(run_root: str | Path, config_hash: str) -> Path | None:
    """Newest unfinished run directory below ``run_root`` with this configuration hash and a checkpoint, for
    ``resume=auto``. ``run.json`` of a run holds its ``status`` and its ``config_fingerprint``."""
    found: list[tuple[float, Path]] = []
    # <root>/<name>/<run_id>/ and <root>/sweeps/<run_id>/<job>/: never down into checkpoints, plots or wandb.
    for record_path in (p for depth in range(4) for p in Path(run_root).glob("*/" * depth + "run.json")):
        run_dir = record_path.parent
        try:
            record = read_json(record_path)
        except ArtifactError:
            continue
        if record.get("status") == "DONE" or record.get("config_fingerprint") != config_hash:
            continue
        if CheckpointStore(run_dir).exists() and not in_use(run_dir):
            newest = max(p.stat().st_mtime for p in (run_dir / "checkpoints").glob("[!.]*.pt"))
            found.append((newest, run_dir))
    return max(found)[1] if found else None


def restore(loop: TrainingLoop) -> bool:
    """Do as ``resume`` and ``init_from`` say; True if ``loop`` now stands where a run was left.

    Raises:
        ArtifactError: no such checkpoint, or a damaged one. ConfigError: the configuration has changed.
    """
    wanted, store, network = loop.resume, loop.saver.store, loop.network
    state: dict[str, Any] | None = None
    if wanted == "auto":
        if store is not None and store.exists():
            state, wanted = store.load(), str(store.folder)
        else:
            loop.log.info("resume=auto: nothing to resume, starting anew")
    elif wanted is not None:
        path = Path(wanted)
        state = CheckpointStore(path, log=loop.log).load() if path.is_dir() else load_checkpoint(path)
    if state is None:
        if loop.init_from is not None:
            load_weights(network.model, loop.init_from)
            loop.log.info("starting from the weights of %s", loop.init_from)
            if network.ema is not None:
                network.ema.restart()
        return False
    _check_processes(loop, state, wanted)
    load_state(loop, state, wanted)
    _compare_wandb(loop, state)
    loop.log.info("resuming at step %d of %d from %s", loop.position.global_step, loop.total_steps, wanted)
    return True


def _check_processes(loop: TrainingLoop, state: dict[str, Any], where: object) -> None:
    """Refuse another configuration; with another number of processes, what is in a step may be cut differently.

    Raises:
        ConfigError: naming what differs, or another number of sequences per step.
    """
    n_saved, n_now, training = len(state["sampler"]), distributed.n_ranks(), loop.training
    saved = state.get("loop", {}).get("global_batch")
    cut = ("training.batch_size", "training.grad_accum_steps") if n_saved != n_now and saved else ()
    check_resumable(state["config"], loop.saver.config_record, where, (*MAY_CHANGE, *cut))
    if cut and saved != loop.global_batch:
        fits, rest = divmod(saved, n_now * training.batch_size)
        repair = f"training.grad_accum_steps={fits}" if not rest else f"training.batch_size={saved // n_now or 1}"
        raise ConfigError(
            f"{saved} sequences per step, as {n_saved} processes had",
            got=f"{n_now} processes x batch_size {training.batch_size} x grad_accum_steps {training.grad_accum_steps}",
            where=where,
            repair=repair,
        )


def _compare_wandb(loop: TrainingLoop, state: dict[str, Any]) -> None:
    """Say so when the charts go on in another Weights & Biases run than that of the checkpoint."""
    old, new = state.get("loop", {}).get("wandb_id"), getattr(loop.records.tracker, "wandb_id", None)
    if old and new and old != new:
        loop.log.warning("Weights & Biases: the run was %s and goes on as %s", old, new)


# ------------------------------------------------------------------- the same configuration, or nearly


def config_differences(old: Mapping, new: Mapping, may_change: tuple[str, ...] = MAY_CHANGE) -> list[str]:
    """Dotted keys whose values differ, as ``key: old -> new``, apart from ``may_change`` and what is below it.

    >>> config_differences({"loss": {"weight": 1}, "name": "a"}, {"loss": {"weight": 2}, "name": "b"})
    ['loss.weight: 1 -> 2']
    """
    a, b = dict(_flat(plain(old))), dict(_flat(plain(new)))
    keys = [k for k in sorted({*a, *b}) if not any(k == m or k.startswith(m + ".") for m in may_change)]
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in keys if a.get(k) != b.get(k)]


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_resumable(
    old: Mapping | None, new: Mapping | None, where: object = None, may_change: tuple[str, ...] = MAY_CHANGE
) -> None:
    """Refuse to resume with another configuration.

    Raises:
        ConfigError: naming what differs.
    """
    differences = config_differences(migrated(old, where), new, may_change) if old and new else []
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ConfigError(
            "the configuration of the run to resume",
            got=shown,
            where=where,
            repair="take back these overrides, or start anew with resume=null",
        )


# ---------------------------------------------------------------------- nothing is ahead of the state


def rewind(loop: TrainingLoop) -> None:
    """Make the restored state the newest of its run directory; call it on all ranks, with the random state in place.

    The state is saved first: killed at any instant, the run is either where it was or where it is to be.
    """
    store, device = loop.saver.store, loop.network.device
    if store is None:
        return
    later = later_checkpoints(loop, store) if loop.saver.is_main else []
    names = {path.name for path in later}
    if distributed.largest(int("best.pt" in names), device):
        loop.records.best.reset()  # its weights are about to be set aside
    if distributed.largest(len(later), device):
        loop.save()
        loop.saver.finish_writing()
    if loop.saver.is_main:
        _set_aside(loop, store, later)
        store.prune()  # killed between a checkpoint and the removal of the oldest
        cut_records(loop, store.run_dir)


def later_checkpoints(loop: TrainingLoop, store: CheckpointStore) -> list[Path]:
    """Checkpoints of the run directory that hold a later step than the loop stands at."""
    step = loop.position.global_step
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
        "the run goes on from step %d: %s moved to %s",
        loop.position.global_step,
        ", ".join(p.name for p in moved),
        folder,
    )


def cut_records(loop: TrainingLoop, run_dir: Path) -> None:
    """Remove from the run directory what was recorded beyond the restored step."""
    records, step = loop.records, loop.position.global_step
    if not records.prefix:  # with a prefix, the file also belongs to other loops
        path = getattr(records.tracker, "path", run_dir / "metrics.jsonl")
        n_cut = truncate_jsonl(path, step)
        records.tracker.rewind(step)
        if n_cut:
            loop.log.info("removed %d records beyond step %d from %s", n_cut, step, Path(path).name)
    write_json(run_dir / "training_history.json", records.history)
