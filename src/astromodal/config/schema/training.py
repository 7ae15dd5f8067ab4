"""The sections ``optimizer``, ``schedule`` and ``training``: the loop, and what moves the weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional


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
    learning_rate: float = 2.0e-4
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1.0e-8
    muon_learning_rate: float = 0.02  # of the matrices, with name=muon
    muon_momentum: float = 0.95


@dataclass
class ScheduleConfig:
    """Learning rate against step; the horizon is the number of steps the run will take."""

    name: ScheduleName = ScheduleName.cosine
    warmup_steps: int = 2000
    min_lr_ratio: float = 0.1
    decay_fraction: float = 0.2  # of the run, with name=wsd


@dataclass
class TrainingConfig:
    """The loop."""

    batch_size: int = 16  # sequences per micro-batch
    epochs: int = 5
    max_steps: Optional[int] = None  # optimizer steps; null: as the epochs say
    grad_accum_steps: int = 1
    grad_clip: Optional[float] = 1.0
    log_every: int = 50  # steps
    val_every: Optional[int] = None  # steps; null: at the end of each epoch
    max_val_batches: Optional[int] = None  # null: the whole validation split
    save_every: Optional[int] = 5000  # steps
    keep_last: int = 3  # step checkpoints kept
    checkpoint_async: bool = True  # written in the background; holds one more copy of the state in CPU memory
    monitor: str = "val/score"  # decides what is best; never contains the loss weights
    monitor_mode: MonitorMode = MonitorMode.auto  # whether it is to fall or to rise
    patience: Optional[int] = None  # validations without improvement before stopping
    min_delta: float = 0.0  # what an improvement has to exceed to count for patience
    early_stop_start_ratio: float = 0.0  # share of the run before which patience does not count
    ema_decay: Optional[float] = None
    on_nonfinite: OnNonfinite = OnNonfinite.stop  # skip waits for the GPU at every step
    spike_factor: Optional[float] = 10.0  # report a logged loss this many MADs above its median; null: off
    num_workers: int = 0  # loader processes; 0 is fastest: reading costs little
    pin_memory: bool = True
    persistent_workers: bool = True
    prefetch_factor: int = 2
