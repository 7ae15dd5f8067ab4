"""What the training loop adds to forward, backward and step, on a small CPU model whose steps take milliseconds.

The bare loop (the same batches, clipping and schedule included) and :class:`TrainingLoop` run in turn within one
process and on one thread, without and with a run directory (``metrics.jsonl`` every 50 steps, one checkpoint and
the final weights per round, synced to the disk). Wall time is what a user waits for, the disk included; CPU time of
the process is what can be compared on a machine that others use too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astromodal.config.schema import HardwareConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from astromodal.optim.optimizers import build_optimizer
from astromodal.optim.schedules import build_schedule
from astromodal.runs.tracking import Tracker
from astromodal.training.loop import TrainingLoop


class Regression(nn.Module):
    """Objective of the benchmark: a small network's squared error."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def prepare(self, batches: list[dict], step: int) -> list[dict]:
        return batches

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.model(batch["x"]).squeeze(-1) - batch["y"]).square().mean()
        return loss, {"squared": loss.detach()}

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": (self.forward(batch)[0] * len(batch["x"]), torch.tensor(float(len(batch["x"]))))}

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        return {name: total / count for name, (total, count) in totals.items()}


def now() -> np.ndarray:
    """Wall and CPU time, seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def bare(width: int, batches: list[dict]) -> np.ndarray:
    """Seconds (wall, CPU) of the loop that one would write by hand."""
    torch.manual_seed(0)
    objective = Regression(width)
    optimizer = build_optimizer(objective.model, OptimizerConfig())
    schedule = build_schedule(ScheduleConfig(warmup_steps=10), len(batches))
    begin = now()
    for step, batch in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(step)
        loss, _ = objective(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return now() - begin


def looped(width: int, batches: list[dict], folder: Path | None) -> np.ndarray:
    """The same of :class:`TrainingLoop` over the same batches; with a ``folder``, metrics and checkpoints included."""
    if folder is not None:
        folder.mkdir()
    torch.manual_seed(0)
    loop = TrainingLoop(
        Regression(width),
        batches,
        training=TrainingConfig(epochs=1, log_every=50, save_every=None),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(warmup_steps=10),
        hardware=HardwareConfig(device="cpu"),
        tracker=None if folder is None else Tracker(folder),
        output_dir=folder,
    )
    begin = now()
    loop.fit()
    return now() - begin


def overhead(width: int, batch: int, n_steps: int, rounds: int) -> dict[str, Any]:
    """Print and return the overhead without and with a run directory, as fractions of a bare step."""
    x = torch.randn(n_steps, batch, 64)
    batches = [{"x": b, "y": b.sum(1)} for b in x]
    steps, alone, saving = [], [], []
    bare(width, batches)
    with tempfile.TemporaryDirectory() as root:
        for number in range(rounds):
            one = bare(width, batches)
            alone.append(looped(width, batches, None) / one - 1)
            saving.append(looped(width, batches, Path(root) / str(number)) / one - 1)
            steps.append(1e3 * one[1] / n_steps)
    print(
        f"\nThe loop around a small model: bare step {statistics.median(steps):.2f} ms (CPU), {n_steps} steps per round"
    )
    for name, found in (("the loop alone", alone), ("with metrics and one checkpoint", saving)):
        for clock, values in zip(("wall", "CPU"), np.array(found).T, strict=True):
            spread = ", ".join(f"{100 * r:+.1f}" for r in sorted(values))
            print(f"  {name:32s} {clock:4s} {100 * statistics.median(values):+5.1f} %   ({spread})")
    return {"step_ms": statistics.median(steps), "alone": np.array(alone).tolist(), "saving": np.array(saving).tolist()}
