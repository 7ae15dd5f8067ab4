"""Checkpoints in the public format, and how a training goes on from one.

The file has the public keys; those that :func:`train_variational_autoencoder` writes have one more,
``training_state``: random generators, position of the loader and state of the loop. All are written atomically, hold
tensors and plain values only and are read with ``weights_only=True``.

The public way to resume hands no checkpoint to the training function: it loads one into the model and calls the
function again. :func:`load_checkpoint` therefore remembers, for as long as the model lives, where the model was
saved; the next :func:`train_variational_autoencoder` with this model goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ....errors import ArtifactError
from ....files.io import plain, save_torch
from ....training.checkpoints.checkpoint import load_model_state, load_with_keys
from ....training.checkpoints.state import load_state, training_state
from ....training.utils import available_device

if TYPE_CHECKING:
    from ....training.loop import TrainingLoop

KEYS = ("epoch", "model_state_dict", "optimizer_state_dict", "train_loss", "val_loss")
_loaded: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    train_loss: float,
    val_loss: float,
    filepath: str | Path,
    history: Mapping[str, list[float]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write model, optimizer and where training stands, for a loop of one's own.

    Without the state of random generators and loader, a training that goes on from here goes on with the same weights,
    optimizer, epoch and history, but with other draws than an uninterrupted one.

    Args:
        epoch: complete epochs.
        metadata: plain values.

    Raises:
        ArtifactError: the file cannot be written; what was there before is as it was.
    """
    write(filepath, model.state_dict(), optimizer.state_dict(), epoch, (train_loss, val_loss), history, metadata)


def write(
    filepath: str | Path,
    model: Mapping,
    optimizer: Mapping,
    epoch: int,
    losses: tuple[float, float],
    history: Mapping | None,
    metadata: Mapping | None,
    state: Mapping | None = None,
) -> None:
    """The file of :func:`save_checkpoint` from state dicts; ``state``: :func:`loop_state`."""
    content = {
        "epoch": int(epoch),
        "model_state_dict": dict(model),
        "optimizer_state_dict": dict(optimizer),
        "train_loss": float(losses[0]),
        "val_loss": float(losses[1]),
        "history": None if history is None else plain(dict(history)),
        "metadata": None if metadata is None else plain(dict(metadata)),
    }
    save_torch(filepath, content if state is None else content | {"training_state": dict(state)})


def load_checkpoint(
    filepath: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Load a checkpoint into ``model`` (moved to ``device``) and, if given, ``optimizer``; returns its content.

    The next :func:`train_variational_autoencoder` of this model goes on where the checkpoint was written, up to
    ``num_epochs`` epochs in all. If that function also wrote the checkpoint, and is called with the same loaders and
    settings, the result is bit-identical to a training that was never interrupted.

    Raises:
        ArtifactMissingError, ArtifactError, UnsafeFileError: no such file, a damaged one, weights of another model, or
            a file that would execute code.
    """
    repair = "use a file that save_checkpoint or the training has written"
    content = load_with_keys(filepath, KEYS, "a checkpoint of the denoising VAE", repair)
    model.to(available_device(str(device)))
    load_model_state(model, content["model_state_dict"], filepath)
    if optimizer is not None:
        try:
            optimizer.load_state_dict(content["optimizer_state_dict"])
        except (ValueError, KeyError) as error:
            raise ArtifactError("the state of this optimizer", got=str(error), where=filepath) from error
    _loaded[model] = {key: content.get(key) for key in (*KEYS, "history", "training_state")}
    return content


def pending(model: nn.Module) -> dict[str, Any] | None:
    """What was loaded into ``model`` and not gone on from yet; it is forgotten here."""
    return _loaded.pop(model, None)


# ------------------------------------------------------------------------------- the loop's side of it


def loop_state(loop: TrainingLoop) -> dict[str, Any]:
    """What the public keys lack for an exact resume."""
    return {key: value for key, value in training_state(loop).items() if key != "model"}


def plain_adam_state(loop: TrainingLoop) -> dict[str, Any]:
    """The optimizer's state as ``torch.optim.Adam(model.parameters())`` has it: one group, in the model's order."""
    parameters = list(loop.model.parameters())
    group = {k: v for k, v in loop.optimizer.param_groups[0].items() if k not in ("params", "initial_lr", "fused")}
    group |= {"fused": None, "params": list(range(len(parameters)))}
    states = {i: dict(loop.optimizer.state[p]) for i, p in enumerate(parameters) if p in loop.optimizer.state}
    return {"state": states, "param_groups": [group]}


def go_on(loop: TrainingLoop, checkpoint: Mapping[str, Any], learning_rate: float) -> None:
    """Put ``loop``, whose model holds the weights already, where ``checkpoint`` was written.

    Raises:
        ArtifactError: the optimizer's state is that of another model.
    """
    state = checkpoint["training_state"]
    if state is not None:
        load_state(loop, {**state, "model": loop.model.state_dict()}, "checkpoint")
    else:
        _restore_adam(loop, checkpoint["optimizer_state_dict"])
        epoch = int(checkpoint["epoch"])
        loop.feed.epoch = epoch
        loop.position.global_step = loop.position.n_updates = epoch * loop.steps_per_epoch
    for group in loop.optimizer.param_groups:
        group["initial_lr"] = learning_rate


def _restore_adam(loop: TrainingLoop, state: Mapping[str, Any]) -> None:
    """Inverse of :func:`plain_adam_state`, also for the state that an optimizer of the user's own has written."""
    parameters = list(loop.model.parameters())
    reference = torch.optim.Adam(parameters)
    try:
        reference.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise ArtifactError("the state of Adam over this model's parameters", got=str(error)) from error
    for parameter in parameters:
        if parameter in reference.state:
            loop.optimizer.state[parameter] = dict(reference.state[parameter])
