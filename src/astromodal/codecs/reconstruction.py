"""The objective that codecs share: weighted squared error, normalised by the weights of the whole optimizer step.

Shapes: B batch, C channels; ``*space`` is ``S, S`` for cutouts and ``P`` for spectra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..models.trainable import Batch
    from .base import Codec


class ReconstructionObjective(nn.Module):
    """Weighted squared error of the reconstruction.

    A batch holds ``x`` ``(B, C, *space)``, ``valid`` (same, bool), ``weight`` (same, 0 where invalid: a missing band
    weighs nothing) and, in training, may hold ``seen`` (B, C, bool): channels that are hidden from the encoder but
    asked of the decoder, so that missing ones are nothing new to it.
    """

    def __init__(self, model: Codec, channels: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.channels = tuple(channels)

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add ``weight_total``, the sum of the weights over the step's micro-batches (and ranks)."""
        weights = torch.stack([batch["weight"].sum(dtype=torch.float64) for batch in batches])
        total = sum_over_ranks(weights.sum()).clamp_min(1e-6).to(torch.float32)
        for batch in batches:
            batch["weight_total"] = total
        return batches

    @staticmethod
    def shown(batch: Batch) -> tuple[Tensor, Tensor]:
        """What the encoder gets: arrays with 0 where invalid, and which pixels it may trust."""
        valid = batch["valid"]
        if "seen" in batch:
            seen = batch["seen"]
            valid = valid & seen.reshape(*seen.shape, *(1,) * (valid.ndim - 2))
        return torch.where(batch["valid"], batch["x"], 0.0), valid

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean squared error."""
        x, shown = self.shown(batch)
        error = self.model(x, shown).float() - x
        loss = (batch["weight"] * error.square()).sum() / batch["weight_total"]
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Per channel the weighted sums of squared error, value and squared value."""
        x = torch.where(batch["valid"], batch["x"], 0.0)
        weight = batch["weight"]
        error = self.model(x, batch["valid"]).float() - x
        over = (0, *range(2, x.ndim))
        total = weight.sum(over)
        sums = {"error": error.square(), "value": x, "square": x.square()}
        columns = {name: (weight * values).sum(over) for name, values in sums.items()}
        return {
            f"{name}_{channel}": (column[i], total[i])
            for name, column in columns.items()
            for i, channel in enumerate(self.channels)
        }

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Mean squared error and, per channel, its share of the variance (1 = no better than the channel's mean)."""
        metrics, errors, weights, shares = {}, 0.0, 0.0, []
        for channel in self.channels:
            error, weight = totals[f"error_{channel}"]
            if weight <= 0:
                continue
            mean = totals[f"value_{channel}"][0] / weight
            variance = totals[f"square_{channel}"][0] / weight - mean**2
            share = error / weight / variance if variance > 0 else float(error > 0)
            metrics[f"variance_fraction_{channel}"] = share
            shares.append(share)
            errors, weights = errors + error, weights + weight
        metrics["loss"] = errors / weights if weights > 0 else math.nan
        metrics["score"] = sum(shares) / len(shares) if shares else math.nan  # lower is better
        return metrics


def sum_over_ranks(total: Tensor) -> Tensor:
    """Sum of a CPU scalar over all ranks; itself in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    shared = total.to(device)
    torch.distributed.all_reduce(shared)
    return shared.cpu()
