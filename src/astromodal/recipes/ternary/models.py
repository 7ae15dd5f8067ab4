"""The public models: ``TernaryVAE``, ``CurriculumScheduler`` and ``HomeostasisController``."""

from __future__ import annotations

import math
from typing import Any

from ...errors import ConfigError
from ...training.callbacks.quantities import Controller, ramp
from .hyperbolic_vae import TernaryVAE

__all__ = ["CurriculumScheduler", "HomeostasisController", "TernaryVAE"]


class CurriculumScheduler:
    """Difficulty that rises from start to end over ``warmup_epochs`` epochs, and stays there; it has no state.

    Args:
        shape: ``linear``, ``cosine`` (half a cosine) or ``exponential`` (the same factor every epoch).

    Raises:
        ConfigError: fewer than one epoch, another shape, or an exponential one that begins or ends at 0 or below.

    >>> scheduler = CurriculumScheduler(start_difficulty=0.1, end_difficulty=1.0, warmup_epochs=50)
    >>> [round(scheduler.get_difficulty(epoch), 3) for epoch in (0, 25, 50, 99)]
    [0.1, 0.55, 1.0, 1.0]
    """

    def __init__(
        self,
        start_difficulty: float = 0.1,
        end_difficulty: float = 1.0,
        warmup_epochs: int = 50,
        *,
        shape: str = "linear",
    ) -> None:
        if shape not in ("linear", "cosine", "exponential"):
            raise ConfigError("a curriculum that is linear, cosine or exponential", got=repr(shape))
        self._exponential = shape == "exponential"
        ends = (start_difficulty, end_difficulty)
        if self._exponential:
            if min(ends) <= 0:
                raise ConfigError("difficulties above 0 for an exponential curriculum", got=ends)
            ends = (math.log(ends[0]), math.log(ends[1]))
        self._curve = ramp(*ends, warmup_epochs, shape="linear" if self._exponential else shape)

    def get_difficulty(self, epoch: int) -> float:
        """Difficulty of an epoch, counted from 0."""
        value = self._curve(epoch)
        return math.exp(value) if self._exponential else value


class HomeostasisController:
    """Keeps a KL divergence within ``target_kl ± kl_tolerance`` by the weight beta: too high raises it, too low
    lowers it, inside nothing changes. See :class:`astromodal.training.callbacks.quantities.Controller` for the rule.

    Args:
        beta: the first weight.
        gain: largest relative change per update.
        limits: least and largest weight.

    Raises:
        ConfigError: a tolerance that is not above 0, or a beta outside of the limits.

    >>> controller = HomeostasisController(target_kl=1.0, kl_tolerance=0.5)
    >>> controller.get_beta(1.2), controller.update(1.2), controller.update(9.0) > 1.0
    (1.0, 1.0, True)
    """

    def __init__(
        self,
        target_kl: float = 1.0,
        kl_tolerance: float = 0.5,
        *,
        beta: float = 1.0,
        gain: float = 0.1,
        limits: tuple[float, float] = (1e-4, 1e4),
    ) -> None:
        self._controller = Controller(target_kl, kl_tolerance, beta, gain=gain, limits=limits)

    @property
    def value(self) -> float:
        """Beta as it is now."""
        return self._controller.value

    def get_beta(self, current_kl: float | None = None) -> float:
        """Beta that answers ``current_kl``, what :meth:`update` would make of it; changes nothing.

        Without a measurement (``None`` or NaN, as before the first epoch) it is beta as it is now.
        """
        if current_kl is None:
            return self.value
        c = self._controller
        return Controller(c.target, c.tolerance, c.value, gain=c.gain, limits=c.limits).update(float(current_kl))

    def update(self, current_kl: float) -> float:
        """Take note of a measurement; returns the new beta."""
        return self._controller.update(float(current_kl))

    def state_dict(self) -> dict[str, Any]:
        """Beta, as a plain value."""
        return self._controller.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._controller.load_state_dict(state)
