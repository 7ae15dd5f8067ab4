"""The ternary VAE as something that the one training loop can train, and what it measures at validations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...codecs.reconstruction import sum_over_ranks
from ...training.callbacks.hooks import Callback
from .hyperbolic_vae import TernaryVAE
from .losses import LossRegistry
from .measures import measure

Batch = dict[str, Any]


class TernaryObjective(nn.Module):
    """Total loss of the registry; batches are ``{"index": (B,)}``.

    The loss of a step is the mean over its micro-batches, weighted by their sizes. Terms over pairs look for partners
    within a micro-batch.
    """

    def __init__(self, model: TernaryVAE, registry: LossRegistry) -> None:
        super().__init__()
        self.model, self.registry = model, registry

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add ``n_total``, the operations of the whole step."""
        total = sum_over_ranks(torch.tensor(float(sum(len(batch["index"]) for batch in batches))))
        return [{**batch, "n_total": total} for batch in batches]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss and of its terms."""
        result = self.registry(self.model(batch), batch)
        share = len(batch["index"]) / batch["n_total"]
        return result.total * share, {name: value * share for name, value in result.metrics.items()}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums over the operations of the batch."""
        metrics = self.registry(self.model(batch), batch).metrics
        n = torch.tensor(float(len(batch["index"])))
        metrics["loss"] = metrics.pop("total")
        return {name: (value * n, n) for name, value in metrics.items()}

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Means over the operations."""
        return {name: value / n for name, (value, n) in totals.items() if n}


class MeasureGeometry(Callback):
    """Adds ``coverage``, ``hierarchy`` and ``score`` = (1 - coverage) + (1 + hierarchy) to every validation."""

    def on_validation_end(self, loop: Any, metrics: dict[str, float]) -> dict[str, float]:
        found = measure(loop.model)
        score = (1.0 - found.coverage) + (1.0 + found.hierarchy)
        return {"coverage": found.coverage, "hierarchy": found.hierarchy, "score": score}
