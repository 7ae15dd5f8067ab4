"""Denoising variational autoencoder of vectors: fully connected, for 0/1 data such as species on a checklist, or reals.

With 467 inputs, 16 latents and hidden layers of 512 it has 1,554,931 parameters. It has no grid and no
tokenizer of its own; its loss is that of the codec ``vae``.

Shapes: B batch, S numbers of a vector, Z latents.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..config.schema import Corruption, Likelihood
from ..errors import ConfigError, DataError
from ..models.trainable import Batch
from .reconstruction import sum_over_ranks
from .variational import (
    LOG_VARIANCE,
    LatentUse,
    bernoulli_nats,
    beta_at,
    check_corruption,
    corrupt,
    gaussian_nats,
    kl_divergence,
    sample_posterior,
)

N_HIDDEN = 3  # layers on each side


class VariationalAutoencoder(nn.Module):
    """Encoder, posterior and decoder; what the decoder returns are logits (Bernoulli) or means (Gaussian).

    Args:
        input_dimension: S; latent_dimension: Z; hidden_dimension: width of the three hidden layers on each side.
        likelihood: ``bernoulli`` for numbers in [0, 1], ``gaussian`` (of variance 1) for others.

    Raises:
        ConfigError: a dimension below 1.
    """

    def __init__(
        self,
        input_dimension: int,
        latent_dimension: int = 16,
        hidden_dimension: int = 512,
        likelihood: Likelihood | str = Likelihood.bernoulli,
    ) -> None:
        super().__init__()
        sizes = {
            "input_dimension": input_dimension,
            "latent_dimension": latent_dimension,
            "hidden_dimension": hidden_dimension,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} of 1 or more", got=value, where="VariationalAutoencoder")
        self.input_dimension, self.latent_dimension = input_dimension, latent_dimension
        self.hidden_dimension, self.likelihood = hidden_dimension, Likelihood(likelihood)
        self.encoder_network = nn.Sequential(*_layers(input_dimension, hidden_dimension))
        self.latent_mean_layer = nn.Linear(hidden_dimension, latent_dimension)
        self.latent_log_variance_layer = nn.Linear(hidden_dimension, latent_dimension)
        self.decoder_network = nn.Sequential(
            *_layers(latent_dimension, hidden_dimension), nn.Linear(hidden_dimension, input_dimension)
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance ``(B, Z)`` of vectors ``(B, S)``."""
        features = self.encoder_network(x)
        return self.latent_mean_layer(features), self.latent_log_variance_layer(features).clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        """Logits or means ``(B, S)`` of latents ``(B, Z)``."""
        return self.decoder_network(latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder's output, posterior mean and log-variance; in training through a draw, else through the mean."""
        mean, log_variance = self.encode(x)
        return self.decode(sample_posterior(mean, log_variance) if self.training else mean), mean, log_variance

    def reconstruct(self, x: Tensor) -> Tensor:
        """Probabilities (Bernoulli) or means (Gaussian) ``(B, S)`` at the posterior mean."""
        decoded = self.decode(self.encode(x)[0])
        return torch.sigmoid(decoded) if self.likelihood == Likelihood.bernoulli else decoded

    def nats(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Minus log-likelihood of ``target``, elementwise, ``(B, S)``."""
        return (bernoulli_nats if self.likelihood == Likelihood.bernoulli else gaussian_nats)(decoded, target)


def _layers(n_in: int, width: int) -> list[nn.Module]:
    sizes = [n_in, *[width] * N_HIDDEN]
    return [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]


class VectorObjective(nn.Module):
    """``reconstruction + beta * KL`` in nats per vector: summed over dimensions, averaged over the vectors of a step.

    A batch holds ``x`` (B, S). Training corrupts what the encoder sees and keeps the target clean; validation does not
    corrupt and decodes the posterior mean, so that it is the same every time.

    Args:
        corruption, amount: see :func:`~astromodal.codecs.variational.corrupt`.
        free_bits: nats per latent and vector that cost nothing.
        kl_warmup_steps: optimizer steps over which the weight of the divergence rises to ``beta``.

    Raises:
        ConfigError: a weight below 0, or a corruption that does not suit the likelihood.
    """

    def __init__(
        self,
        model: VariationalAutoencoder,
        *,
        beta: float = 1.0,
        free_bits: float = 0.0,
        kl_warmup_steps: int = 0,
        corruption: Corruption | str = Corruption.gaussian,
        amount: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("free_bits", free_bits), ("kl_warmup_steps", kl_warmup_steps)):
            if value < 0:
                raise ConfigError(f"{name} of 0 or more", got=value, where="variational autoencoder")
        self.model, self.beta, self.free_bits = model, beta, free_bits
        self.kl_warmup_steps, self.corruption, self.amount = kl_warmup_steps, Corruption(corruption), amount
        check_corruption(self.corruption, amount, "noise_std" if corruption == "gaussian" else "corruption_rate")
        if self.corruption == Corruption.flip and model.likelihood != Likelihood.bernoulli:
            raise ConfigError("corruption gaussian or masking with a Gaussian likelihood", got="flip")
        self.use = LatentUse(model.latent_dimension)
        self.warm = kl_warmup_steps == 0

    def prepare(self, batches: list[Batch], step: int) -> list[Batch]:
        """Add the number of vectors in the step and the weight of the divergence at it.

        Raises:
            DataError: numbers that the likelihood cannot have.
        """
        total = sum_over_ranks(torch.tensor(float(sum(len(batch["x"]) for batch in batches))))
        beta = torch.tensor(beta_at(step, self.beta, self.kl_warmup_steps))
        self.warm = step >= self.kl_warmup_steps
        for batch in batches:
            self.check(batch["x"])
            batch.update(n_objects=total, beta=beta)
        return batches

    def check(self, x: Tensor) -> None:
        """Refuse what has no likelihood: NaN, infinity, and outside of [0, 1] for Bernoulli."""
        low, high = (float(v) for v in torch.aminmax(x))  # NaN comes through
        if self.model.likelihood == Likelihood.bernoulli and not (low >= 0 and high <= 1):
            raise DataError(
                "input in [0, 1] for a Bernoulli likelihood",
                got=f"values from {low:g} to {high:g}",
                repair="scale or binarise the data, or likelihood='gaussian'",
            )
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise DataError("finite input", got=f"values from {low:g} to {high:g}")

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's loss, and of ``reconstruction`` and ``kl``."""
        x = batch["x"]
        seen = corrupt(x, self.corruption, self.amount) if self.training else x
        decoded, mean, log_variance = self.model(seen)
        reconstruction = self.model.nats(decoded.float(), x).sum() / batch["n_objects"]
        divergence = kl_divergence(mean.float(), log_variance.float(), self.free_bits).sum() / batch["n_objects"]
        loss = reconstruction + batch["beta"] * divergence
        shares = {"loss": loss, "reconstruction": reconstruction, "kl": divergence}
        return loss, {name: value.detach() for name, value in shares.items()}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums of the reconstruction at the posterior mean, and of how the latents are used."""
        x = batch["x"]
        self.check(x)
        mean, log_variance = self.model.encode(x)
        nats = self.model.nats(self.model.decode(mean).float(), x).sum(dtype=torch.float32)
        use = self.use.sums(mean, kl_divergence(mean.float(), log_variance.float()))
        return {"reconstruction": (nats, torch.tensor(float(len(x))))} | use

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """``loss`` (with the full ``beta``, without free bits), its two parts, and ``active_units``."""
        value, n = totals["reconstruction"]
        figures = self.use.figures(totals, watch=self.warm)
        return {"loss": value / n + self.beta * figures["kl"], "reconstruction": value / n, **figures}
