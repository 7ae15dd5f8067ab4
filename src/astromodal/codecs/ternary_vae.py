"""Codec whose latents are trits: each of its channels is -1, 0 or 1, so that nine of them are one of 19,683 codes.

Encoder and decoder are those of the autoencoder (cutouts) and of :class:`SpectrumTrunk` (spectra). Between them each
latent number is bounded by tanh and rounded; the gradient passes the rounding as if it were not there (finite scalar
quantization with three levels, Mentzer et al. 2023, arXiv:2309.15505). The quantizer ``fsq`` with as many levels of 3
as there are channels codes these latents without any further loss, and no codebook is learned.

As a variational autoencoder it has a posterior that is certain and a prior that is uniform; the KL divergence is then
``log 3`` nats per trit whatever the weights are, and drops out of the loss (van den Oord et al. 2017, arXiv:1711.00937,
section 3.2). Against trits that are always the same, ``balance`` adds the cross-entropy from the soft trits of a
position to the running usage of the three values: rare values become attractive.

Shapes: B batch, C channels, ``*space`` is ``S, S`` or ``P``, Z trits per position, ``*grid`` is ``G, G`` or ``L``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ConfigError
from .autoencoder import PATCH, Autoencoder
from .base import Codec
from .reconstruction import ReconstructionObjective, sum_over_ranks
from .spectrum_trunk import SpectrumTrunk

if TYPE_CHECKING:
    from ..config.schema import TernaryCodecConfig
    from ..models.trainable import Batch

FIRST_GAIN = 4.0  # of the layer before the rounding: an untrained one of usual size would round nearly everything to 0
USAGE_RATE = 0.05  # share of a step in the running usage
SHARPNESS = 8.0  # of soft trits: exp(-SHARPNESS d**2) at distance d; at 0.5, between two values, exp(-2)


class TernaryCodec(Codec):
    """The codec ``ternary_vae``.

    Args:
        config: ``latent_channels`` (of trits), ``width``, ``n_blocks``, ``patch_size`` for spectra, ``balance``.
        array_shape: ``(C, S, S)``, S a multiple of 4, or ``(C, P)``.

    Raises:
        ConfigError: a size that cannot be had, or a negative ``balance``.
    """

    name = "ternary_vae"
    usage: Tensor

    def __init__(self, config: TernaryCodecConfig, array_shape: tuple[int, ...]) -> None:
        super().__init__()
        if not config.balance >= 0:
            where = "image" if len(array_shape) == 3 else "spectrum"
            raise ConfigError("balance of 0 or more", got=config.balance, where=f"tokenizer.{where}.codec.balance")
        self.config, self.array_shape = config, array_shape
        if len(array_shape) == 3:
            self.trunk: Autoencoder | SpectrumTrunk = Autoencoder(config, array_shape, PATCH)  # type: ignore[arg-type]  # the same three keys
        else:
            sizes = (config.patch_size, config.width, config.latent_channels, config.n_blocks)
            self.trunk = SpectrumTrunk(array_shape, *sizes)
        with torch.no_grad():
            self.trunk.to_latents.weight.mul_(FIRST_GAIN)
        self.register_buffer("usage", torch.full((config.latent_channels, 3), 1 / 3))  # of -1, 0, 1

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.trunk.latent_shape

    def bounded(self, x: Tensor, valid: Tensor) -> Tensor:
        """Latents ``(B, Z, *grid)`` in (-1, 1), before they are rounded."""
        return torch.tanh(self.trunk.to_latents(self.trunk.features(x, valid)).float())

    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """Trits ``(B, Z, *grid)``: -1, 0 or 1."""
        return to_trits(self.bounded(x, valid))

    def decode(self, latents: Tensor) -> Tensor:
        """Arrays ``(B, C, *space)``; latents that are no trits, as centres of a quantizer may be, are rounded first."""
        return self.trunk.decode(to_trits(latents))

    def objective(self, channels: Sequence[str]) -> TernaryCodecObjective:
        return TernaryCodecObjective(self, channels)


def to_trits(latents: Tensor) -> Tensor:
    """The nearest of -1, 0, 1; the gradient is that of the latents themselves (Bengio et al. 2013, arXiv:1308.3432)."""
    return latents + (latents.clamp(-1.0, 1.0).round() - latents).detach()


def soft_trits(bounded: Tensor) -> Tensor:
    """Shares ``(B, Z, *grid, 3)`` of -1, 0 and 1 in each latent, which fall with the squared distance to them."""
    values = torch.tensor([-1.0, 0.0, 1.0], device=bounded.device)
    return torch.softmax(-SHARPNESS * (bounded[..., None] - values).square(), -1)


class TernaryCodecObjective(ReconstructionObjective):
    """Weighted squared error, plus ``balance`` times the cross-entropy to the running usage, in nats per trit.

    Validation adds ``perplexity``, of the three values in the mean over the trits (3: all equally often; 1: collapsed),
    and ``dead_trits``, of which one value is hardly ever (under 1 in 1000) another.
    """

    model: TernaryCodec

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add the number of objects of the step."""
        batches = super().prepare(batches, step)
        n_objects = sum_over_ranks(torch.tensor(float(sum(len(batch["x"]) for batch in batches))))
        for batch in batches:
            batch["n_objects"] = n_objects
        return batches

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss, and of its two parts."""
        x, shown = self.shown(batch)
        bounded = self.model.bounded(x, shown)
        error = self.model.decode(bounded).float() - x
        reconstruction = (batch["weight"] * error.square()).sum() / batch["weight_total"]
        stats = {"reconstruction": reconstruction.detach()}
        loss = reconstruction
        if self.model.config.balance > 0:
            shares = soft_trits(bounded)
            over = (0, *range(2, bounded.ndim))
            excess = math.log(3.0) + torch.log(self.model.usage.clamp_min(1e-3))  # (Z, 3), 0 at equal usage
            mean = shares.mean(over)
            balance = (mean * excess).sum(-1).mean() * (len(x) / batch["n_objects"])
            loss = loss + self.model.config.balance * balance
            stats["balance"] = balance.detach()
            if self.training:
                with torch.no_grad():
                    self.model.usage.lerp_(mean.to(self.model.usage.dtype), USAGE_RATE)
        return loss, {"loss": loss.detach(), **stats}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Errors, and how often each trit has each of its values."""
        totals = super().evaluate(batch)
        trits = self.model.encode(torch.where(batch["valid"], batch["x"], 0.0), batch["valid"])
        n = torch.tensor(float(trits.numel() // trits.shape[1]))
        over = (0, *range(2, trits.ndim))
        for value in (-1, 0, 1):
            counts = (trits.round() == value).sum(over)
            totals |= {f"trit_{i}_{value}": (count.double(), n) for i, count in enumerate(counts)}
        return totals

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """The figures of all codecs, ``perplexity`` and ``dead_trits``."""
        shares = [
            [totals[f"trit_{i}_{v}"][0] / max(totals[f"trit_{i}_{v}"][1], 1.0) for v in (-1, 0, 1)]
            for i in range(self.model.latent_shape[0])
        ]
        perplexities = [math.exp(-sum(p * math.log(p) for p in row if p > 0)) for row in shares]
        figures = {
            "perplexity": sum(perplexities) / len(perplexities),
            "dead_trits": float(sum(max(row) > 0.999 for row in shares)),
        }
        return super().summarize(totals) | figures
