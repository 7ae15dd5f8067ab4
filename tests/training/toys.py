"""Tiny trainables and data for the tests of the training loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from astromodal.config.schema import HardwareConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from astromodal.runs.tracking import NullTracker

CPU = HardwareConfig(device="cpu")


class ToyNet(nn.Module):
    """Embedding, dropout, two layers: every source of state that matters for a resume."""

    def __init__(self, n_in: int = 4, width: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.norm(self.first(x))))).squeeze(-1)


class ToyObjective(nn.Module):
    """Squared error as a share of the step: normalised by the rows of all its micro-batches."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model if model is not None else ToyNet()
        self.n_evaluations = 0

    def prepare(self, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        total = sum(len(b["x"]) for b in batches)
        return [{**b, "total": torch.tensor(float(total))} for b in batches]

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        error = ((self.model(batch["x"]).float() - batch["y"]) ** 2).sum() / batch["total"]
        return error, {"squared": error.detach()}

    def evaluate(self, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        self.n_evaluations += 1
        noise = torch.rand(()) * 0  # validation may draw; it must not disturb training
        error = ((self.model(batch["x"]).float() - batch["y"]) ** 2).sum() + noise
        return {"loss": (error, torch.tensor(float(len(batch["x"]))))}

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        return {name: value / count for name, (value, count) in totals.items()}


class ToyLoader:
    """Shuffled batches that are a function of (seed, epoch); can start at any of them."""

    def __init__(self, n_rows: int = 40, batch_size: int = 4, seed: int = 0, shuffle: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n_rows, 4, generator=generator)
        self.y = (self.x @ torch.tensor([1.0, -2.0, 0.5, 0.0])) + 0.1 * torch.randn(n_rows, generator=generator)
        self.batch_size, self.seed, self.shuffle, self.epoch, self.start = batch_size, seed, shuffle, 0, 0
        self.n_loaded = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, n_batches: int) -> None:
        self.start = n_batches

    def __iter__(self):
        order = torch.arange(len(self.x))
        if self.shuffle:
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed + 1000 * self.epoch))
        start, self.start = self.start, 0
        for rows in order.split(self.batch_size)[start:]:
            self.n_loaded += 1
            yield {"x": self.x[rows], "y": self.y[rows]}


class MemoryTracker(NullTracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.records.append((step, dict(values)))

    def column(self, name: str) -> dict[int, float]:
        return {step: values[name] for step, values in self.records if name in values}


def options(**training: Any) -> dict[str, Any]:
    """Keyword arguments of a small loop on the CPU; ``training`` overrides TrainingConfig."""
    settings = {"epochs": 2, "log_every": 1, "save_every": None, "num_workers": 0} | training
    return {
        "training": TrainingConfig(**settings),
        "optimizer": OptimizerConfig(learning_rate=0.05),
        "schedule": ScheduleConfig(warmup_steps=2),
        "hardware": CPU,
    }
