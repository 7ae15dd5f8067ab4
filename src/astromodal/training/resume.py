"""The state of a :class:`~astromodal.training.loop.TrainingLoop` as a checkpoint, and back.

Random generators, the loader's position and the running means belong to a rank, so there is one of each per
rank; everything else is the same on all ranks.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.io import plain, truncate_jsonl, write_json
from ..core.random import get_rng_state
from ..errors import ArtifactError
from . import distributed
from .callbacks import Callback
from .checkpoint import CheckpointStore, check_resumable, load_checkpoint, load_model_state, load_weights

if TYPE_CHECKING:
    from .loop import TrainingLoop


def training_state(loop: TrainingLoop) -> dict[str, Any]:
    """Everything that decides how ``loop`` goes on; call it on all ranks."""
    ranks = distributed.gather(
        {
            "rng": get_rng_state(),
            "sampler": loop.feed.state_dict(),
            "meters": [loop.meter.state_dict(), loop.epoch_meter.state_dict()],
        }
    )
    return {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "scheduler": {"n_updates": loop.n_updates, "total_steps": loop.total_steps},
        "scaler": loop.precision.scaler.state_dict() if loop.precision.scaler else None,
        "ema": loop.ema.state_dict() if loop.ema else None,
        "rng": [rank["rng"] for rank in ranks],
        "sampler": [rank["sampler"] for rank in ranks],
        "callbacks": {name: callback.state_dict() for name, callback in _named(loop.callbacks)},
        "global_step": loop.global_step,
        "epoch": loop.epoch,
        "config": plain(loop.config_record),
        "history": plain(loop.history),
        "loop": {
            "meters": [rank["meters"] for rank in ranks],
            "best": loop.best.state_dict(),
            "pending": loop.pending,
            "n_skipped": loop.n_skipped,
            "stop_reason": loop.stop_reason,
            "last_validation": list(loop.last_validation) if loop.last_validation else None,
        },
    }


def _named(callbacks: list[Callback]) -> list[tuple[str, Callback]]:
    return [(f"{i}_{type(callback).__name__}", callback) for i, callback in enumerate(callbacks)]


def load_state(loop: TrainingLoop, state: dict[str, Any], where: object = None) -> None:
    """Inverse of :func:`training_state`. The random generators are set when :meth:`fit` begins.

    Raises:
        ArtifactError: the state is that of another model or optimizer.
    """
    load_model_state(loop.model, state["model"], where)
    try:
        loop.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise ArtifactError("the state of this optimizer", got=str(error), where=where) from error
    if loop.precision.scaler is not None and state["scaler"]:
        loop.precision.scaler.load_state_dict(state["scaler"])
    if loop.ema is not None:
        loop.ema.load_state_dict(state["ema"]) if state["ema"] else loop.ema.restart()
    loop.n_updates = int(state["scheduler"]["n_updates"])
    loop.global_step, loop.history = int(state["global_step"]), list(state["history"])
    rank = min(distributed.this_rank(), len(state["sampler"]) - 1)
    loop.feed.load_state_dict(state["sampler"][rank])
    loop.pending_rng = state["rng"][rank]
    if len(state["sampler"]) != distributed.n_ranks():
        loop.log.warning("saved by %d processes, resumed by %d: the rest of the epoch is cut differently",
                         len(state["sampler"]), distributed.n_ranks())  # fmt: skip
    extra = state.get("loop")
    if extra:
        loop.meter.load_state_dict(extra["meters"][rank][0])
        loop.epoch_meter.load_state_dict(extra["meters"][rank][1])
        loop.best.load_state_dict(extra["best"])
        loop.pending, loop.n_skipped = bool(extra["pending"]), int(extra["n_skipped"])
        loop.stop_reason = extra["stop_reason"]
        loop.last_validation = tuple(extra["last_validation"]) if extra["last_validation"] else None
    for name, callback in _named(loop.callbacks):
        if name in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][name])


def restore(loop: TrainingLoop) -> bool:
    """Do as ``resume`` and ``init_from`` say; True if ``loop`` now stands where a run was left.

    Raises:
        ArtifactError: no such checkpoint, or a damaged one. ConfigError: the configuration has changed.
    """
    wanted = loop.resume
    state: dict[str, Any] | None = None
    if wanted == "auto":
        if loop.store is not None and loop.store.exists():
            state, wanted = loop.store.load(), str(loop.store.folder)
        else:
            loop.log.info("resume=auto: nothing to resume, starting anew")
    elif wanted is not None:
        path = Path(wanted)
        state = CheckpointStore(path, log=loop.log).load() if path.is_dir() else load_checkpoint(path)
    if state is None:
        if loop.init_from is not None:
            load_weights(loop.model, loop.init_from)
            loop.log.info("starting from the weights of %s", loop.init_from)
            if loop.ema is not None:
                loop.ema.restart()
        return False
    check_resumable(state["config"], loop.config_record, wanted)
    load_state(loop, state, wanted)
    loop.log.info("resuming at step %d of %d from %s", loop.global_step, loop.total_steps, wanted)
    return True


def cut_records(loop: TrainingLoop) -> None:
    """Remove from the run directory what was recorded beyond the restored step."""
    if loop.store is None or not loop.is_main:
        return
    if not loop.metric_prefix:  # with a prefix, the file also belongs to other loops
        path = getattr(loop.tracker, "path", loop.store.run_dir / "metrics.jsonl")
        n_cut = truncate_jsonl(path, loop.global_step)
        if n_cut:
            loop.log.info("removed %d records beyond step %d from %s", n_cut, loop.global_step, Path(path).name)
    write_json(loop.store.run_dir / "training_history.json", loop.history)


def default_record(loop_configs: dict[str, Any]) -> dict[str, Any]:
    """Configuration record of a loop whose caller gave none."""
    return {name: plain(asdict(config)) for name, config in loop_configs.items()}
