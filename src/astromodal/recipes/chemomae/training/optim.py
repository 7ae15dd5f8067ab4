"""Optimizer and schedule under their public names."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ....errors import ConfigError
from ....optim.optimizers import fused_supported, parameter_groups
from ....optim.schedules import cosine_factor, fitted_warmup


def build_optimizer(
    model: nn.Module,
    *,
    lr: float = 1.5e-4,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW, where only matrices decay: biases, norms, positions and the class token do not."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused_supported(groups))


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int = 1,
    min_lr_scale: float = 0.1,
) -> LambdaLR:
    """Linear warm-up, then half a cosine to ``min_lr_scale`` of the learning rate, which the last update uses.

    One step per optimizer update. A warm-up that does not fit the run is shortened to a tenth of it.

    Raises:
        ConfigError: a count below 1, or a negative warm-up.
    """
    for name, value in (("steps_per_epoch", steps_per_epoch), ("epochs", epochs), ("warmup_epochs", warmup_epochs + 1)):
        if value < 1:
            expected = f"{name} of 1 or more" if name != "warmup_epochs" else "warmup_epochs of 0 or more"
            raise ConfigError(expected, got=value if name != "warmup_epochs" else value - 1, where="build_scheduler")
    total = steps_per_epoch * epochs
    warmup = fitted_warmup(steps_per_epoch * warmup_epochs, total)
    return LambdaLR(optimizer, lambda step: cosine_factor(step + 1, warmup, total, min_lr_scale))
