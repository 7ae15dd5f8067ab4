"""What a training run would cost, before it is paid for: a few steps are measured in a process of their own.

The process is new, so that its peak of memory is that of the run, and one that runs out of memory takes nothing with
it. Nothing is written but the packed sequences, which the run itself would use.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import TrainingError
from ..parallel.pools import new_process
from ..provenance.config_record import config_record
from ..provenance.manifest import fingerprint_config
from ..runs.progress import format_seconds
from ..training.callbacks.hooks import Callback
from ..vocabulary.modalities import MODALITIES

if TYPE_CHECKING:
    from ..config.schema import TrainingConfig

N_WARMUP = 2  # steps that are not counted: buffers are allocated, kernels chosen
N_STEPS = 12
MAX_SECONDS = 60.0  # of measured steps; a slow model is judged by fewer
N_VAL_BATCHES = 4
FINAL_PASSES = 4  # over the validation split after training: metrics, physical units, errors by object, baselines


@dataclasses.dataclass(frozen=True)
class Cost:
    """Measured once for all jobs that differ in nothing but weights, rates, seeds and lengths of the run."""

    parameters: int
    steps_per_epoch: int
    tokens_per_epoch: float
    seconds_per_token: float  # of training
    seconds_per_validation: float
    seconds_to_start: float
    memory_mb: float  # peak of the resident size
    memory_gpu_mb: float | None
    device: str

    def n_steps(self, training: TrainingConfig) -> int:
        """Optimizer steps of a run."""
        return training.max_steps or training.epochs * self.steps_per_epoch

    def n_tokens(self, training: TrainingConfig) -> float:
        """Tokens that a run is trained on, repeats included."""
        return self.tokens_per_epoch * self.n_steps(training) / self.steps_per_epoch

    def seconds(self, training: TrainingConfig) -> float:
        """Expected time of a run without early stopping."""
        n_validations = self.n_steps(training) / (training.val_every or self.steps_per_epoch)
        validation = (math.ceil(n_validations) + FINAL_PASSES) * self.seconds_per_validation
        return self.seconds_to_start + self.n_tokens(training) * self.seconds_per_token + validation


def cost_class(config: DictConfig) -> str:
    """Fingerprint of what decides the cost of a step: jobs that share it are measured once."""
    record = config_record(config, "train_lm")
    for key in ("seed", "init_from", "schedule"):
        record.pop(key)
    loss, training = record["loss"], record["training"]
    for name in MODALITIES:  # a term of weight 0 is not computed
        loss[f"weight_{name}"] = bool(loss[f"weight_{name}"])
        loss[f"share_{name}"] = loss[f"share_{name}"] is not None
    record["optimizer"] = record["optimizer"]["name"]
    for key in ("epochs", "max_steps", "val_every", "save_every", "log_every", "patience", "monitor", "min_delta"):
        training.pop(key)
    return fingerprint_config(record)


def preview_jobs(configs: Sequence[DictConfig]) -> Iterator[Cost]:
    """The cost of each resolved configuration of ``train_lm``, in order.

    Raises:
        TrainingError: the process of a measurement died, most likely for want of memory.
        UserError: whatever would stop the run itself (missing tokens, a sequence that does not fit).
    """
    known: dict[str, Cost] = {}
    for config in configs:
        key = cost_class(config)
        if key not in known:
            known[key] = _in_new_process(config)
        yield known[key]


def _in_new_process(config: DictConfig) -> Cost:
    with new_process() as pool:
        try:
            return pool.submit(measure, config).result()
        except pool.died as error:
            raise TrainingError(
                "room in memory for the model and its steps",
                got="a process that was killed while it was measured",
                where=f"d_model={config.model.d_model}, n_layers={config.model.n_layers}, "
                f"batch_size={config.training.batch_size}",
                repair="a smaller training.batch_size or model, or model.activation_checkpointing=true",
            ) from error


def measure(config: DictConfig) -> Cost:
    """Build the run, take some steps, throw everything away; in a process of its own, whose terminal stays silent."""
    start = time.perf_counter()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars and notes of a run that is none
    from ..machine.memory import peak_memory
    from ..runs.run import RunContext
    from .run import LanguageModelRun

    with tempfile.TemporaryDirectory(prefix="preview_") as folder:
        with open_dict(config):
            config.run_dir = str(Path(folder) / "run")
            config.tracking.wandb, config.tracking.tensorboard = "disabled", False
        typed: Any = OmegaConf.to_object(config)
        with RunContext.open(config, "train_lm") as run:
            experiment = LanguageModelRun(typed, run, {})
            steps = StepTimes()
            training = dataclasses.replace(typed.training, max_steps=N_WARMUP + N_STEPS, val_every=None, patience=None)
            loop = experiment.training_loop(training, callbacks=[steps])
            seconds_to_start = time.perf_counter() - start
            loop.fit()
            summary = loop.summary()
            return Cost(
                parameters=summary["parameters"],
                steps_per_epoch=loop.steps_per_epoch,
                tokens_per_epoch=summary["tokens_per_step"] * loop.steps_per_epoch,
                seconds_per_token=steps.seconds_per_token(),
                seconds_per_validation=_validation_seconds(experiment, loop, typed.training.max_val_batches),
                seconds_to_start=seconds_to_start,
                memory_mb=peak_memory()["peak_memory_mb"],
                memory_gpu_mb=peak_memory().get("peak_memory_gpu_mb"),
                device=str(loop.device),
            )


def _validation_seconds(experiment: Any, loop: Any, limit: int | None) -> float:
    """Time of one pass over the validation split, from its first batches."""
    if experiment.packed.n_rows("val") == 0:
        return 0.0
    loader = experiment.loader("val")
    n_batches = len(loader) if limit is None else min(limit, len(loader))
    n_timed = min(N_VAL_BATCHES, n_batches)
    start = time.perf_counter()
    loop.evaluate(list(islice(loader, n_timed)))
    return (time.perf_counter() - start) * n_batches / n_timed


class StepTimes(Callback):
    """Times and tokens of the steps after the first few."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.tokens: list[int] = []

    def on_step_begin(self, loop: Any, batches: list[dict[str, Any]]) -> None:
        self.tokens.append(sum(int(batch["attn_mask"].sum()) for batch in batches))

    def on_step_end(self, loop: Any) -> None:
        if loop.device.type == "cuda":
            import torch

            torch.cuda.synchronize(loop.device)
        self.times.append(time.perf_counter())
        if len(self.times) > N_WARMUP + 2 and self.times[-1] - self.times[N_WARMUP] > MAX_SECONDS:
            loop.stop("measured")

    def seconds_per_token(self) -> float:
        """Of the steps after the warm-up, loading included."""
        first = min(N_WARMUP, len(self.times) - 1)
        return (self.times[-1] - self.times[first - 1]) / max(sum(self.tokens[first:]), 1)


def cost_row(cost: Cost, training: TrainingConfig) -> tuple[str, ...]:
    """Parameters, steps, tokens, memory and time, for a table."""
    gpu = "" if cost.memory_gpu_mb is None else f" + {cost.memory_gpu_mb / 1e3:.1f} GB on {cost.device}"
    return (
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.n_steps(training):,}",
        f"{cost.n_tokens(training):.3g}",
        f"{cost.memory_mb / 1e3:.1f} GB{gpu}",
        format_seconds(cost.seconds(training)),
    )


COLUMNS = ("parameters", "steps", "tokens", "memory", "time")


def preview_run(config: DictConfig) -> str:
    """Text of ``preview=true`` for a single run."""
    resolved = config.copy()
    OmegaConf.resolve(resolved)
    (cost,) = preview_jobs([resolved])
    row = cost_row(cost, resolved.training)
    told = ", ".join(f"{name} {value}" for name, value in zip(COLUMNS, row, strict=True))
    return f"preview ({cost.device}): {told}; nothing was started"
