"""What a step that went wrong was made of, in one file: ``<run>/debug/step_<n>/bundle.pt``.

It holds tensors and plain values only (``weights_only=True`` reads it): the micro-batches as they entered the
objective, their terms, the weights, and the random state before each forward pass, so that :func:`replay` computes the
same numbers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import ArtifactError
from ...files.io import plain, save_torch
from ...machine.random import get_rng_state
from ...parallel import distributed
from ...parallel.sharded import is_sharded, local
from ..checkpoints.checkpoint import load_model_state, load_with_keys
from ..precision import MixedPrecision
from ..validation import to_device

if TYPE_CHECKING:
    from ..checkpoints.saver import Saver
    from ..network import Network
    from .guards import StepTrace

MAX_BUNDLES = 3  # per run: a bundle holds the weights, and many of them would fill the disk
_KEYS = ("step", "batches", "terms", "model", "rng")


def torch_rng(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators, which a forward pass draws from; no synchronisation."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def save_bundle(trace: StepTrace, network: Network, saver: Saver, *, prefix: str, before_update: bool) -> Path | None:
    """Write the bundle of ``trace``; returns its path, ``None`` without a run directory or after ``MAX_BUNDLES``.

    Args:
        prefix: of the metrics' names, where there are several loops in one run.
        before_update: the weights are those that the step was computed with.
    """
    if saver.store is None:
        return None
    chosen = trace.bad_micro_batches() or list(range(len(trace.batches)))
    if not saver.is_main and not trace.bad_micro_batches():
        return None  # another rank has what is wrong
    folder = saver.store.run_dir / "debug" / f"{prefix.replace('/', '_')}step_{trace.step:08d}"
    if not folder.exists() and len(list(folder.parent.glob("*step_*"))) >= MAX_BUNDLES:
        return None
    path = folder / ("bundle.pt" if saver.is_main else f"bundle_rank{distributed.this_rank()}.pt")
    weights = {  # of a sharded model this process's share: the others may not be here to gather the whole
        name: (local(p), local(p.grad) if p.grad is not None else torch.zeros(1))
        for name, p in network.model.named_parameters()
    }
    content = {
        "step": trace.step,
        "before_update": before_update,
        "micro_batches": chosen,
        "batches": [_storable(trace.batches[i]) for i in chosen],
        "object_index": [_objects(trace.batches[i]) for i in chosen],
        "terms": [trace.terms(i) for i in chosen],
        "gradient_norm": float(trace.norm) if trace.norm is not None else None,
        "bad_gradients": [name for name, (_, gradient) in weights.items() if not bool(gradient.isfinite().all())],
        "bad_weights": [name for name, (weight, _) in weights.items() if not bool(weight.isfinite().all())],
        "model": {name: local(value).cpu() for name, value in network.model.state_dict().items()},
        "sharded": is_sharded(network.model),
        "rng": [trace.rng[i] for i in chosen],
        "rng_all": get_rng_state(),
        "precision": network.precision.name,
        "config": plain(saver.config_record),
    }
    try:
        save_torch(path, content)
    except (ArtifactError, OSError) as error:  # must not hide what the bundle is about
        saver.log.warning("the step could not be kept for debugging: %s", error)
        return None
    return path


def _storable(value: Any) -> Any:
    """Tensors on the CPU, without the storage that they may be a view of; the rest plain."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value if isinstance(value, float) else plain(value)


def _objects(batch: Mapping[str, Any]) -> list[int]:
    index = batch.get("object_index")
    return [int(i) for i in index.flatten()] if isinstance(index, Tensor) else []


def load_bundle(path: str | Path) -> dict[str, Any]:
    """What :func:`save_bundle` wrote; nothing in the file is executed.

    Returns:
        ``step``; ``batches`` (dicts of tensors), their numbers ``micro_batches`` within the step, ``object_index``,
        ``terms`` (name to value) and ``rng``, one entry each per offending micro-batch; ``gradient_norm``;
        ``bad_gradients`` and ``bad_weights``, names of parameters; ``model``, a state dict, of before the update if
        ``before_update`` (of a ``sharded`` one only this process's share); ``rng_all``; ``precision``; ``config``.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: nothing there, a damaged file, or another kind of file.
    """
    return load_with_keys(path, _KEYS, "a debug bundle", "use debug/step_<n>/bundle.pt of a run")


def replay(objective: Any, bundle: Mapping[str, Any]) -> list[dict[str, float]]:
    """The terms of the bundle's micro-batches computed again, with its weights and random state.

    Args:
        objective: of the same model; its weights are replaced. Gradients are left on its parameters.

    Raises:
        ArtifactError: the weights are those of another model.
    """
    model: nn.Module = objective.model
    load_model_state(model, bundle["model"], "the debug bundle", finite=False)
    device = next(model.parameters()).device
    precision = MixedPrecision(bundle["precision"], device)
    objective.train()
    terms = []
    for batch, rng in zip(bundle["batches"], bundle["rng"], strict=True):
        torch.set_rng_state(rng["cpu"])
        if device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], device)
        with precision.autocast():
            loss, stats = objective(to_device(batch, device))
        loss.backward()
        terms.append({"loss": float(loss.detach())} | {k: float(v.detach()) for k, v in stats.items() if k != "loss"})
    return terms
