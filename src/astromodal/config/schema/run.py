"""What a run may use and where it writes: ``hardware``, ``paths``, ``tracking``, ``sweep``; and ``encode``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, List, Optional

from ..ranges import ranged

MISSING: Any = "???"  # OmegaConf's mark of a value without default; OmegaConf itself takes a tenth of a second


class Precision(str, Enum):
    """Arithmetic of the forward and backward pass."""

    auto = "auto"  # bf16 where the GPU has it or the CPU is faster in it, float32 elsewhere
    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"


class Parallel(str, Enum):
    """What several processes under torchrun do with the model."""

    auto = "auto"  # ddp under torchrun; a single process otherwise
    ddp = "ddp"  # each holds the whole model and averages gradients
    fsdp = "fsdp"  # each holds a share of weights, gradients and optimizer state: for models that do not fit


class Backend(str, Enum):
    """Who does the work that a stage shares out by fields."""

    loky = "loky"  # processes of this machine
    dask = "dask"  # a Dask cluster; needs the package distributed
    ray = "ray"  # a Ray cluster; needs the package ray


class WandbMode(str, Enum):
    """Weights & Biases: ``auto`` is online with an account configured, offline without one."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class WorkersConfig:
    """Who works, beside this process."""

    backend: Backend = Backend.loky
    n_jobs: int = ranged(1, least=1)  # processes on this machine; a cluster says itself how many it has
    address: Optional[str] = None  # of a scheduler: tcp://host:8786 (dask), auto or ray://host:10001 (ray)


@dataclass
class HardwareConfig:
    """What the run may use."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Precision = Precision.auto
    cpu_bf16: Optional[bool] = None  # bf16 on a CPU; null: if a measurement at the start finds it faster
    tf32: bool = True
    compile: bool = False
    deterministic: bool = False
    parallel: Parallel = Parallel.auto  # several processes, under torchrun
    # a process without a sign of life for so long ends the run; null: off
    rank_timeout_s: Optional[float] = ranged(60.0, above=0)
    n_threads: Optional[int] = ranged(None, least=1)  # null: all that affinity and quota allow
    n_processes: int = ranged(1, least=1)  # worker processes of the stages that map over fields: all but train_lm.py
    workers: WorkersConfig = field(default_factory=WorkersConfig)


@dataclass
class PathsConfig:
    """Where things are read and written."""

    datacube_template: str = MISSING
    store: str = MISSING
    runs: str = "runs"


@dataclass
class TrackingConfig:
    """Weights & Biases and TensorBoard; metrics.jsonl is written in any case."""

    wandb: WandbMode = WandbMode.auto
    tensorboard: bool = False  # event files in <run>/tensorboard/; needs the package tensorboard
    project: str = "astromodal"
    entity: Optional[str] = None
    group: Optional[str] = None  # null: the sweep's id in a sweep
    tags: List[str] = field(default_factory=list)
    notes: Optional[str] = None
    lineage: bool = True  # tokenizers -> tokens -> model as artifacts of W&B: names and fingerprints, no files


@dataclass
class SweepConfig:
    """Sweeps: what ``-m`` runs."""

    resume: Optional[str] = None  # folder of a sweep to go on with; its own command need not be repeated
    retry_failed: bool = False  # also run again what has failed
    fail_fast: bool = False  # begin no further job after one has failed


@dataclass
class EncodeConfig:
    """``encode.py``."""

    overwrite: bool = False  # encode again what is up to date
