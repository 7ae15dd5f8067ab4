"""Denoising variational autoencoder as a codec of cutouts and spectra.

The networks are those of the autoencoder (cutouts) and of :class:`SpectrumTrunk` (spectra), but for a second half of
latent channels that holds the posterior's log-variance. The token is made from the posterior mean: unbounded, with a
variance near 1 where a latent is in use and near 0 where it is not, because the prior is a standard normal; k-means
thus spends its codes where information is.

The likelihood is Gaussian with one learned width per channel (Rybkin et al. 2021, arXiv:2006.13202), so that ``beta=1``
balances error and rate in nats without tuning. A tokenizer does better with less: there the codebook limits the rate,
and 2048 codes carry 7.6 nats per position. Weights of pixels are taken relative to their mean over the step.

Shapes: B batch, C channels, ``*space`` is ``S, S`` or ``P``, Z latent channels, ``*grid`` is ``G, G`` or ``L``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config.schema import Corruption
from ..errors import ConfigError
from .autoencoder import PATCH, Autoencoder
from .base import Codec
from .reconstruction import ReconstructionObjective, sum_over_ranks
from .spectrum_trunk import SpectrumTrunk
from .variational import (
    LOG_VARIANCE,
    LatentUse,
    beta_at,
    check_corruption,
    corrupt,
    gaussian_nats,
    kl_divergence,
    sample_posterior,
)

if TYPE_CHECKING:
    from ..config.schema import VAEConfig
    from ..models.trainable import Batch

FIRST_LOG_VARIANCE = -3.0  # of an untrained posterior: narrow, so that the decoder sees a signal from the start
FIRST_LOG_SIGMA = -1.0  # of an untrained likelihood: about the noise of the sky in arcsinh(flux / 3 sigma)
SIGMA_PACE = 10.0  # the width learns so many times faster than the rest, or short trainings end before it has settled


class VariationalCodec(Codec):
    """The codec ``vae``.

    Args:
        config: ``latent_channels``, ``width``, ``n_blocks``, ``patch_size`` (spectra) and the loss's settings.
        array_shape: ``(C, S, S)``, S a multiple of 4, or ``(C, P)``.

    Raises:
        ConfigError: a size that cannot be had, a weight below 0, or a corruption that suits 0/1 data only.
    """

    name = "vae"

    def __init__(self, config: VAEConfig, array_shape: tuple[int, ...]) -> None:
        super().__init__()
        where = f"tokenizer.{'image' if len(array_shape) == 3 else 'spectrum'}.codec"
        _check(config, where)
        self.config, self.array_shape = config, array_shape
        width, latents = config.width, config.latent_channels
        head: nn.Conv1d | nn.Conv2d
        if len(array_shape) == 3:
            image = Autoencoder(config, array_shape, PATCH)  # type: ignore[arg-type]  # the same three keys
            head = image.to_latents = nn.Conv2d(width, 2 * latents, 1)
            self.trunk: Autoencoder | SpectrumTrunk = image
        else:
            spectrum = SpectrumTrunk(array_shape, config.patch_size, width, latents, config.n_blocks)
            head = spectrum.to_latents = nn.Conv1d(width, 2 * latents, 1)
            self.trunk = spectrum
        self.paced_log_sigma = nn.Parameter(torch.full((array_shape[0],), FIRST_LOG_SIGMA / SIGMA_PACE))
        with torch.no_grad():
            head.weight[latents:].mul_(0.1)
            if head.bias is not None:
                head.bias[latents:].fill_(FIRST_LOG_VARIANCE)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.trunk.latent_shape

    @property
    def log_sigma(self) -> Tensor:
        """Logarithm of the likelihood's width in each channel, ``(C,)``, normalised units."""
        return SIGMA_PACE * self.paced_log_sigma

    def posterior(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``(B, Z, *grid)`` float32 of arrays ``(B, C, *space)``."""
        mean, log_variance = self.trunk.to_latents(self.trunk.features(x, valid)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def encode(self, x: Tensor, valid: Tensor) -> Tensor:
        """Posterior means ``(B, Z, *grid)``."""
        return self.posterior(x, valid)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Means of the likelihood ``(B, C, *space)``."""
        return self.trunk.decode(latents)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Reconstruction: in training through a draw from the posterior, else through its mean."""
        mean, log_variance = self.posterior(x, valid)
        return self.decode(sample_posterior(mean, log_variance) if self.training else mean)

    def corrupted(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder is shown in training: with noise, or with pixels hidden."""
        if Corruption(self.config.corruption) == Corruption.masking:
            return x, valid & (torch.rand(x.shape, device=x.device) >= self.config.corruption_rate)
        return corrupt(x, Corruption.gaussian, self.config.noise_std), valid

    def objective(self, channels: Sequence[str]) -> VariationalObjective:
        return VariationalObjective(self, channels)

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        values["config"]["corruption"] = Corruption(self.config.corruption).value
        return values


def _check(config: VAEConfig, where: str) -> None:
    kind = Corruption(config.corruption)
    if kind == Corruption.flip:
        raise ConfigError("corruption gaussian or masking", got="flip, which is for 0/1 data", where=where)
    key = "corruption_rate" if kind == Corruption.masking else "noise_std"
    check_corruption(kind, getattr(config, key), f"{where}.{key}")
    for key in ("beta", "free_bits", "kl_warmup_steps"):
        if getattr(config, key) < 0:
            raise ConfigError(f"{key} of 0 or more", got=getattr(config, key), where=f"{where}.{key}")


class VariationalObjective(ReconstructionObjective):
    """``(reconstruction + beta * KL) / (numbers of an array)``: nats per number, so that all sizes train alike.

    Reconstruction and KL are tracked apart in nats per object. Validation is at the posterior mean, without corruption,
    and adds ``kl``, ``active_units`` and ``sigma`` to the figures that all codecs have.
    """

    model: VariationalCodec

    def __init__(self, model: VariationalCodec, channels: Sequence[str]) -> None:
        super().__init__(model, channels)
        self.use = LatentUse(model.latent_shape[0])
        self.n_numbers = float(torch.Size(model.array_shape).numel())
        self.warm = model.config.kl_warmup_steps == 0

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add what normalises the step, and the weight of the divergence at it."""
        batches = super().prepare(batches, step)
        n_valid = torch.tensor(float(sum(int(batch["valid"].sum()) for batch in batches)))
        n_objects = torch.tensor(float(sum(len(batch["x"]) for batch in batches)))
        config = self.model.config
        shared = {
            "mean_weight": batches[0]["weight_total"] / sum_over_ranks(n_valid).clamp_min(1.0),
            "n_objects": sum_over_ranks(n_objects),
            "beta": torch.tensor(beta_at(step, config.beta, config.kl_warmup_steps)),
        }
        self.warm = step >= config.kl_warmup_steps
        for batch in batches:
            batch.update(shared)
        return batches

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss in nats per number, and of ``reconstruction`` and ``kl`` in nats per object."""
        x, shown = self.shown(batch)
        seen = x
        if self.training:
            seen, shown = self.model.corrupted(x, shown)
        mean, log_variance = self.model.posterior(seen, shown)
        latents = sample_posterior(mean, log_variance) if self.training else mean
        log_sigma = self.model.log_sigma.reshape(-1, *(1,) * (x.ndim - 2))
        nats = gaussian_nats(self.model.decode(latents).float(), x, log_sigma)
        n_objects = batch["n_objects"]
        reconstruction = (batch["weight"] * nats).sum() / (batch["mean_weight"] * n_objects)
        divergence = kl_divergence(mean, log_variance, self.model.config.free_bits).sum() / n_objects
        loss = (reconstruction + batch["beta"] * divergence) / self.n_numbers
        shares = {"loss": loss, "reconstruction": reconstruction, "kl": divergence}
        return loss, {name: value.detach() for name, value in shares.items()}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Errors at the posterior mean, and how the latents are used."""
        totals = super().evaluate(batch)
        mean, log_variance = self.model.posterior(torch.where(batch["valid"], batch["x"], 0.0), batch["valid"])
        return totals | self.use.sums(mean, kl_divergence(mean, log_variance))

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        metrics = super().summarize(totals) | self.use.figures(totals, watch=self.warm)
        return metrics | {"sigma": float(self.model.log_sigma.detach().exp().mean())}
