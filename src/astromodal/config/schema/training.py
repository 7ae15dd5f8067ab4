"""The sections ``optimizer``, ``schedule`` and ``training``: the loop, and what moves the weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional

from ..ranges import ranged


class OptimizerName(str, Enum):
    """Optimizer."""

    adamw = "adamw"
    adam = "adam"
    muon = "muon"
    riemannian_adam = "riemannian_adam"  # for geoopt's manifold parameters; needs the package geoopt


class ScheduleName(str, Enum):
    """Learning-rate schedule."""

    cosine = "cosine"
    constant = "constant"
    wsd = "wsd"


class OnNonfinite(str, Enum):
    """What to do with a step whose loss or gradient is NaN or infinite."""

    stop = "stop"  # end the run and say which step, objects and term
    skip = "skip"  # drop the update, as fp16 does on overflow; gives up after 25 in a row


class MonitorMode(str, Enum):
    """Direction in which the monitored metric improves."""

    auto = "auto"  # by its name: accuracies, coverages and R2 rise, everything else falls
    min = "min"
    max = "max"


@dataclass
class OptimizerConfig:
    """Optimizer and its constants."""

    name: OptimizerName = OptimizerName.adamw
    learning_rate: float = ranged(2.0e-4, above=0)
    weight_decay: float = ranged(0.05, least=0)
    beta1: float = ranged(0.9, least=0, below=1)
    beta2: float = ranged(0.95, least=0, below=1)
    eps: float = ranged(1.0e-8, above=0)
    muon_learning_rate: float = ranged(0.02, above=0)  # of the matrices, with name=muon
    muon_momentum: float = ranged(0.95, least=0, below=1)


@dataclass
class ScheduleConfig:
    """Learning rate against step; the horizon is the number of steps the run will take."""

    name: ScheduleName = ScheduleName.cosine
    warmup_steps: int = ranged(2000, least=0)
    min_lr_ratio: float = ranged(0.1, least=0, most=1)
    decay_fraction: float = ranged(0.2, least=0, most=1)  # of the run, with name=wsd


@dataclass
class TrainingConfig:
    """The loop."""

    batch_size: int = ranged(16, least=1)  # sequences per micro-batch
    epochs: int = ranged(5, least=1)
    max_steps: Optional[int] = ranged(None, least=1)  # optimizer steps; null: as the epochs say
    grad_accum_steps: int = ranged(1, least=1)
    grad_clip: Optional[float] = ranged(1.0, above=0)
    log_every: int = ranged(50, least=1)  # steps
    val_every: Optional[int] = ranged(None, least=1)  # steps; null: at the end of each epoch
    max_val_batches: Optional[int] = None  # null: the whole validation split
    save_every: Optional[int] = ranged(5000, least=1)  # steps
    keep_last: int = ranged(3, least=1)  # step checkpoints kept
    checkpoint_async: bool = True  # written in the background; holds one more copy of the state in CPU memory
    monitor: str = "val/score"  # decides what is best; never contains the loss weights
    monitor_mode: MonitorMode = MonitorMode.auto  # whether it is to fall or to rise
    patience: Optional[int] = ranged(None, least=1)  # validations without improvement before stopping
    min_delta: float = ranged(0.0, least=0)  # what an improvement has to exceed to count for patience
    # share of the run before which patience does not count
    early_stop_start_ratio: float = ranged(0.0, least=0, most=1)
    ema_decay: Optional[float] = ranged(None, least=0, below=1)
    on_nonfinite: OnNonfinite = OnNonfinite.stop  # skip waits for the GPU at every step
    # report a logged loss this many MADs above its median; null: off
    spike_factor: Optional[float] = ranged(10.0, above=0)
    num_workers: int = ranged(0, least=0)  # loader processes; 0 is fastest: reading costs little
    pin_memory: bool = True
    persistent_workers: bool = True
    prefetch_factor: int = 2
