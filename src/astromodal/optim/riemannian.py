"""Riemannian Adam for points on manifolds, AdamW for everything else, as one optimizer.

Riemannian Adam (Becigneul & Ganea 2019, arXiv:1810.00760) follows the gradient within the manifold and carries its
momentum along. Update and manifolds are geoopt's (Kochurov et al. 2020, arXiv:2005.02819), an optional package; this
module decides which parameters it gets. Points do not decay: towards zero is a direction of the space around them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config.checks.packages import require_package
from ..errors import ConfigError

STABILIZE_EVERY = 10  # steps after which points are put back on their manifold, which rounding takes them from


def manifold_points(model: nn.Module) -> list[nn.Parameter]:
    """The trainable ``geoopt.ManifoldParameter`` of a model.

    Raises:
        ConfigError: geoopt is not installed, or there are none.
    """
    require_package("geoopt", "optimizer.name=riemannian_adam", "optimizer=adamw")
    import geoopt

    points = [p for p in model.parameters() if p.requires_grad and isinstance(p, geoopt.ManifoldParameter)]
    if not points:
        raise ConfigError(
            "a model with geoopt.ManifoldParameter for optimizer.name=riemannian_adam",
            got=type(model).__name__,
            repair="optimizer=adamw",
        )
    return points


def build_riemannian_adam(
    points: list[nn.Parameter], learning_rate: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """geoopt's Riemannian Adam over ``points``, which goes on from a saved state to the bit."""
    import geoopt

    class RiemannianAdam(geoopt.optim.RiemannianAdam):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict(state)
            for own in self.state.values():  # torch's Adam makes it a float32 tensor, which rounds the bias correction
                own["step"] = int(own["step"])

    return RiemannianAdam(points, lr=learning_rate, betas=betas, eps=eps, stabilize=STABILIZE_EVERY)
