"""What is in a checkpoint: the state of a :class:`~astromodal.training.loop.TrainingLoop`, and back.

Random generators, the loader's position and the running means belong to a rank, so there is one of each per
rank; everything else is the same on all ranks.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError
from ...files.io import plain
from ...machine.random import get_rng_state
from ...parallel import distributed
from ...parallel.sharded import gathered, optimizer_state
from ..arithmetic import Choice
from ..callbacks.hooks import named
from .checkpoint import load_model_state

if TYPE_CHECKING:
    from ..loop import TrainingLoop
    from ..network import Network


def training_state(loop: TrainingLoop) -> dict[str, Any]:
    """Everything that decides how ``loop`` goes on; call it on all ranks."""
    network, position, records = loop.network, loop.position, loop.records
    ranks = distributed.gather(
        {
            "rng": get_rng_state(),
            "sampler": loop.feed.state_dict(),
            "meters": [loop.meters.step.state_dict(), loop.meters.epoch.state_dict()],
        }
    )
    return {
        "model": network.model_state(),
        "optimizer": gathered(network.optimizer.state_dict()),
        "scheduler": {"n_updates": position.n_updates, "total_steps": loop.total_steps},
        "scaler": network.precision.scaler.state_dict() if network.precision.scaler else None,
        "ema": network.ema.state_dict() if network.ema else None,
        "rng": [rank["rng"] for rank in ranks],
        "sampler": [rank["sampler"] for rank in ranks],
        "callbacks": {name: callback.state_dict() for name, callback in named(loop.callbacks)},
        "global_step": position.global_step,
        "epoch": loop.feed.epoch,
        "config": plain(loop.saver.config_record),
        "history": plain(records.history),
        "loop": {
            "meters": [rank["meters"] for rank in ranks],
            "global_batch": loop.global_batch,
            "choice": asdict(network.choice),
            "best": records.best.state_dict(),
            "pending": position.pending,
            "n_skipped": position.n_skipped,
            "total_skipped": position.total_skipped,
            "spikes": loop.meters.spikes.state_dict(),
            "wandb_id": getattr(records.tracker, "wandb_id", None),
            "stop_reason": position.stop_reason,
            "last_validation": list(records.last_validation) if records.last_validation else None,
        },
    }


def load_state(loop: TrainingLoop, state: dict[str, Any], where: object = None) -> None:
    """Inverse of :func:`training_state`. The random generators are set when :meth:`fit` begins.

    Raises:
        ArtifactError: the state is that of another model or optimizer.
    """
    extra = state.get("loop") or {}
    _load_network(loop.network, state, extra, where)
    position, records = loop.position, loop.records
    position.global_step, records.history = int(state["global_step"]), list(state["history"])
    position.n_updates = int(state["scheduler"]["n_updates"])
    _load_ranks(loop, state, extra)
    if extra:
        records.best.load_state_dict(extra["best"])
        position.pending, position.n_skipped = bool(extra["pending"]), int(extra["n_skipped"])
        position.total_skipped = int(extra.get("total_skipped", 0))
        if "spikes" in extra:
            loop.meters.spikes.load_state_dict(extra["spikes"])
        position.stop_reason = extra["stop_reason"]
        records.last_validation = tuple(extra["last_validation"]) if extra["last_validation"] else None
    for name, callback in named(loop.callbacks):
        if name in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][name])
        elif callback.state_dict():
            loop.log.warning("the checkpoint has no state of %s, which begins anew", type(callback).__name__)


def _load_network(network: Network, state: dict[str, Any], extra: dict[str, Any], where: object) -> None:
    load_model_state(network.model, state["model"], where)
    try:
        network.optimizer.load_state_dict(optimizer_state(network.optimizer, state["optimizer"]))
    except (ValueError, KeyError) as error:
        raise ArtifactError("the state of this optimizer", got=str(error), where=where) from error
    if extra.get("choice") is not None:
        network.keep_choice(Choice(**extra["choice"]))
    if network.precision.scaler is not None and state["scaler"]:
        network.precision.scaler.load_state_dict(state["scaler"])
    if network.ema is not None:
        network.ema.load_state_dict(state["ema"]) if state["ema"] else network.ema.restart()


def _load_ranks(loop: TrainingLoop, state: dict[str, Any], extra: dict[str, Any]) -> None:
    """What belongs to a process; another number of them takes what can be divided anew."""
    rank, n_saved, n_now = distributed.this_rank(), len(state["sampler"]), distributed.n_ranks()
    loop.feed.load_state_dict(state["sampler"][min(rank, n_saved - 1)])
    loop.rng = state["rng"][rank] if rank < n_saved else None
    if n_saved != n_now:
        loop.feed.recount()
        loop.log.warning(
            "saved by %d processes, resumed by %d: the rest of the epoch is cut differently", n_saved, n_now
        )
    if extra:
        for meter, saved in zip((loop.meters.step, loop.meters.epoch), zip(*extra["meters"], strict=True), strict=True):
            meter.load_state_dict(saved[rank]) if n_saved == n_now else meter.load_sum(saved)
