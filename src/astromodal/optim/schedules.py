"""Learning-rate schedules: pure functions from the number of a step to a factor of the peak learning rate.

The optimizer's k-th update (k = 1 … total_steps) uses ``factor(k)``, so the first update already learns and
the last one ends at the floor. Warm-up and cosine: Loshchilov & Hutter 2017 (arXiv:1608.03983); warm-up,
stable, decay: Hu et al. 2024 (MiniCPM, arXiv:2404.06395), with the linear tail of Hägele et al. 2024
(arXiv:2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..config.schema import ScheduleConfig, ScheduleName
from ..errors import ConfigError

SHORT_RUN_WARMUP = 0.1  # share of the run that warms up when the configured warm-up does not fit


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Linear from 0 at step 0 to 1 at ``warmup_steps``."""
    return min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0


def cosine_factor(step: int, warmup_steps: int, total_steps: int, min_lr_ratio: float) -> float:
    """Linear warm-up, then half a cosine to ``min_lr_ratio`` at ``total_steps`` (and beyond).

    >>> [round(cosine_factor(k, 2, 10, 0.1), 3) for k in (0, 1, 2, 6, 10, 99)]
    [0.0, 0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup_steps:
        return warmup_factor(step, warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))


def constant_factor(step: int, warmup_steps: int) -> float:
    """Linear warm-up, then 1."""
    return warmup_factor(step, warmup_steps)


def wsd_factor(step: int, warmup_steps: int, total_steps: int, min_lr_ratio: float, decay_fraction: float) -> float:
    """Linear warm-up, 1, then a linear fall to ``min_lr_ratio`` over the last ``decay_fraction`` of the run.

    >>> [round(wsd_factor(k, 2, 10, 0.0, 0.4), 3) for k in (0, 1, 2, 6, 8, 10)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return warmup_factor(step, warmup_steps)
    decay_steps = min(max(1, round(decay_fraction * total_steps)), max(1, total_steps - warmup_steps))
    progress = min(1.0, max(0.0, (step - (total_steps - decay_steps)) / decay_steps))
    return 1.0 - (1.0 - min_lr_ratio) * progress


def fitted_warmup(warmup_steps: int, total_steps: int) -> int:
    """Warm-up that fits the run: as configured, or 10 % of a run that is not longer than it.

    >>> fitted_warmup(20, 100), fitted_warmup(2000, 100), fitted_warmup(5, 3)
    (20, 10, 1)
    """
    if warmup_steps < total_steps or warmup_steps == 0:
        return warmup_steps
    return max(1, round(SHORT_RUN_WARMUP * total_steps))


def build_schedule(config: ScheduleConfig, total_steps: int) -> Callable[[int], float]:
    """Factor of the peak learning rate at each step of a run of ``total_steps``.

    Raises:
        ConfigError: a value that no schedule can have.
    """
    if config.warmup_steps < 0:
        raise ConfigError("schedule.warmup_steps of 0 or more", got=config.warmup_steps)
    if not 0.0 <= config.min_lr_ratio <= 1.0:
        raise ConfigError("schedule.min_lr_ratio between 0 and 1", got=config.min_lr_ratio)
    if not 0.0 < config.decay_fraction <= 1.0:
        raise ConfigError("schedule.decay_fraction above 0 and at most 1", got=config.decay_fraction)
    warmup = fitted_warmup(config.warmup_steps, total_steps)
    floor, decay = config.min_lr_ratio, config.decay_fraction
    builders: dict[str, Callable[[int], float]] = {
        "cosine": lambda step: cosine_factor(step, warmup, total_steps, floor),
        "constant": lambda step: constant_factor(step, warmup),
        "wsd": lambda step: wsd_factor(step, warmup, total_steps, floor, decay),
    }
    return builders[ScheduleName(config.name).value]
