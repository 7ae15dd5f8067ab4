"""Exponential moving average of a model's parameters.

Polyak & Juditsky 1992 (doi:10.1137/0330046). The decay warms up as ``min(decay, (1 + t) / (10 + t))`` with the
number of updates ``t``, so that after a short run the average is not mostly the initial weights. Buffers are
not averaged: the model keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, ConfigError
from ..parallel.sharded import forget_whole, gathered, like, local


class ParameterAverage:
    """Shadow copy of the trainable parameters of ``model``, updated after every optimizer step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Raises ConfigError unless 0 <= decay < 1."""
        if not 0.0 <= decay < 1.0:
            raise ConfigError("training.ema_decay of at least 0 and under 1", got=decay)
        self.decay = float(decay)
        self.n_updates = 0
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._shadow = [p.detach().clone() for p in self._parameters]
        self._model = model

    def decay_at(self, n_updates: int) -> float:
        """Decay of the update after ``n_updates`` others."""
        return min(self.decay, (1.0 + n_updates) / (10.0 + n_updates))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters as they are now."""
        weight = 1.0 - self.decay_at(self.n_updates)
        torch._foreach_lerp_(self._shadow, self._parameters, weight)
        self.n_updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew from the parameters as they are now."""
        self._put(self._shadow, self._parameters)
        self.n_updates = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model holds the average; afterwards its own parameters, to the bit."""
        with torch.no_grad():
            own = [p.detach().clone() for p in self._parameters]
            self._put(self._parameters, self._shadow)
            for p in self._parameters:
                if hasattr(p, "manifold"):  # the mean of points on a sphere lies inside of it
                    p.copy_(p.manifold.projx(p))
        try:
            yield
        finally:
            with torch.no_grad():
                self._put(self._parameters, own)

    def _put(self, targets: list[Tensor], values: list[Tensor]) -> None:
        """Copy ``values`` into ``targets``, of which the model's parameters may be one."""
        torch._foreach_copy_([local(t) for t in targets], [local(v) for v in values])
        forget_whole(self._model)

    def model_state(self) -> dict[str, Tensor]:
        """The model's state dict with the average in place of its parameters (tied ones share a tensor)."""
        shadow_of = {id(p): s for p, s in zip(self._parameters, self._shadow, strict=True)}
        state = self._model.state_dict(keep_vars=True)
        return {key: shadow_of.get(id(value), value.detach()) for key, value in state.items()}

    def state_dict(self) -> dict:
        """Tensors and plain numbers."""
        return {
            "n_updates": self.n_updates,
            "decay": self.decay,
            "shadow": gathered(dict(zip(self._names, self._shadow, strict=True))),
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises ArtifactError when the parameters are not those of this model."""
        if set(state["shadow"]) != set(self._names):
            odd = sorted(set(state["shadow"]) ^ set(self._names))[:3]
            raise ArtifactError("the moving average of this model", got=f"other parameters: {', '.join(odd)}")
        self.n_updates = int(state["n_updates"])
        with torch.no_grad():
            for name, shadow in zip(self._names, self._shadow, strict=True):
                shadow.copy_(like(state["shadow"][name], shadow))
