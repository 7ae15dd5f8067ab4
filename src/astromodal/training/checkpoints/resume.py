"""The state of a :class:`~astromodal.training.loop.TrainingLoop` as a checkpoint, and back.

Random generators, the loader's position and the running means belong to a rank, so there is one of each per
rank; everything else is the same on all ranks.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError, ConfigError
from ...files.io import plain
from ...machine.random import get_rng_state
from ...parallel import distributed
from ...parallel.sharded import gathered, optimizer_state
from ..arithmetic import Choice
from ..callbacks.hooks import named
from .checkpoint import MAY_CHANGE, CheckpointStore, check_resumable, load_checkpoint, load_model_state, load_weights

if TYPE_CHECKING:
    from ..loop import TrainingLoop


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
        "model": gathered(loop.model.state_dict()),
        "optimizer": gathered(loop.optimizer.state_dict()),
        "scheduler": {"n_updates": loop.n_updates, "total_steps": loop.total_steps},
        "scaler": loop.precision.scaler.state_dict() if loop.precision.scaler else None,
        "ema": loop.ema.state_dict() if loop.ema else None,
        "rng": [rank["rng"] for rank in ranks],
        "sampler": [rank["sampler"] for rank in ranks],
        "callbacks": {name: callback.state_dict() for name, callback in named(loop.callbacks)},
        "global_step": loop.global_step,
        "epoch": loop.epoch,
        "config": plain(loop.config_record),
        "history": plain(loop.history),
        "loop": {
            "meters": [rank["meters"] for rank in ranks],
            "global_batch": loop.global_batch,
            "choice": asdict(loop.choice),
            "best": loop.best.state_dict(),
            "pending": loop.pending,
            "n_skipped": loop.n_skipped,
            "total_skipped": loop.total_skipped,
            "spikes": loop.spikes.state_dict(),
            "wandb_id": getattr(loop.tracker, "wandb_id", None),
            "stop_reason": loop.stop_reason,
            "last_validation": list(loop.last_validation) if loop.last_validation else None,
        },
    }


def load_state(loop: TrainingLoop, state: dict[str, Any], where: object = None) -> None:
    """Inverse of :func:`training_state`. The random generators are set when :meth:`fit` begins.

    Raises:
        ArtifactError: the state is that of another model or optimizer.
    """
    load_model_state(loop.model, state["model"], where)
    try:
        loop.optimizer.load_state_dict(optimizer_state(loop.optimizer, state["optimizer"]))
    except (ValueError, KeyError) as error:
        raise ArtifactError("the state of this optimizer", got=str(error), where=where) from error
    choice = (state.get("loop") or {}).get("choice")
    if choice is not None:
        loop.keep_choice(Choice(**choice))
    if loop.precision.scaler is not None and state["scaler"]:
        loop.precision.scaler.load_state_dict(state["scaler"])
    if loop.ema is not None:
        loop.ema.load_state_dict(state["ema"]) if state["ema"] else loop.ema.restart()
    loop.n_updates = int(state["scheduler"]["n_updates"])
    loop.global_step, loop.history = int(state["global_step"]), list(state["history"])
    rank, n_saved = distributed.this_rank(), len(state["sampler"])
    loop.feed.load_state_dict(state["sampler"][min(rank, n_saved - 1)])
    loop.pending_rng = state["rng"][rank] if rank < n_saved else None
    if n_saved != distributed.n_ranks():
        loop.feed.recount()
        loop.log.warning(
            "saved by %d processes, resumed by %d: the rest of the epoch is cut differently",
            n_saved,
            distributed.n_ranks(),
        )
    extra = state.get("loop")
    if extra:
        for meter, saved in zip((loop.meter, loop.epoch_meter), zip(*extra["meters"], strict=True), strict=True):
            meter.load_state_dict(saved[rank]) if n_saved == distributed.n_ranks() else meter.load_sum(saved)
        loop.best.load_state_dict(extra["best"])
        loop.pending, loop.n_skipped = bool(extra["pending"]), int(extra["n_skipped"])
        loop.total_skipped = int(extra.get("total_skipped", 0))
        if "spikes" in extra:
            loop.spikes.load_state_dict(extra["spikes"])
        loop.stop_reason = extra["stop_reason"]
        loop.last_validation = tuple(extra["last_validation"]) if extra["last_validation"] else None
    for name, callback in named(loop.callbacks):
        if name in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][name])
        elif callback.state_dict():
            loop.log.warning("the checkpoint has no state of %s, which begins anew", type(callback).__name__)


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
    _check_processes(loop, state, wanted)
    load_state(loop, state, wanted)
    _compare_wandb(loop, state)
    loop.log.info("resuming at step %d of %d from %s", loop.global_step, loop.total_steps, wanted)
    return True


def _check_processes(loop: TrainingLoop, state: dict[str, Any], where: object) -> None:
    """Refuse another configuration; with another number of processes, what is in a step may be cut differently.

    Raises:
        ConfigError: naming what differs, or another number of sequences per step.
    """
    n_saved, n_now, training = len(state["sampler"]), distributed.n_ranks(), loop.training
    saved = state.get("loop", {}).get("global_batch")
    cut = ("training.batch_size", "training.grad_accum_steps") if n_saved != n_now and saved else ()
    check_resumable(state["config"], loop.config_record, where, (*MAY_CHANGE, *cut))
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
    old, new = state.get("loop", {}).get("wandb_id"), getattr(loop.tracker, "wandb_id", None)
    if old and new and old != new:
        loop.log.warning("Weights & Biases: the run was %s and goes on as %s", old, new)


def default_record(loop_configs: dict[str, Any]) -> dict[str, Any]:
    """Configuration record of a loop whose caller gave none."""
    return {name: plain(asdict(config)) for name, config in loop_configs.items()}
