"""What variational autoencoders share: divergence, likelihoods, corruption, weight over time, units in use.

Kingma & Welling 2014 (arXiv:1312.6114): a posterior N(mean, exp(log_variance)) per latent number, a standard normal
prior, and the loss ``reconstruction + beta * KL`` in nats per object: both are summed over dimensions. ``beta`` is
Higgins et al. 2017; free bits are Kingma et al. 2016 (arXiv:1606.04934), here per object and latent number instead of
per batch, so that the loss stays a sum over objects, whatever micro-batches and processes they are in.

Shapes: B batch, ``*dims`` anything.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.schema import Corruption
from ..errors import ConfigError

LOG_VARIANCE = (-14.0, 6.0)  # limits: beyond them float32 has nothing to tell apart
ACTIVE_VARIANCE = 0.01  # of a posterior mean over the data: Burda et al. 2016 (arXiv:1509.00519), section 5
PATIENCE = 3  # validations without an active unit until it is called a collapse

_log = logging.getLogger("astromodal.codecs")


def sample_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``mean + exp(log_variance / 2) * noise``, differentiable in both."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def kl_divergence(mean: Tensor, log_variance: Tensor, free_bits: float = 0.0) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of every latent number, in nats; never below ``free_bits``.

    Below the threshold it is constant, has no gradient, and a latent may hold so much for nothing.

    >>> float(kl_divergence(torch.tensor(0.0), torch.tensor(0.0)))
    0.0
    """
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return divergence.clamp_min(free_bits) if free_bits > 0 else divergence


def bernoulli_nats(logits: Tensor, target: Tensor) -> Tensor:
    """Minus log-likelihood of 0/1 values (or, between, of a cross-entropy), elementwise."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def gaussian_nats(mean: Tensor, target: Tensor, log_sigma: Tensor | float = 0.0) -> Tensor:
    """Minus log-density of ``target`` under N(mean, sigma^2), elementwise, constant included."""
    log_sigma = torch.as_tensor(log_sigma, dtype=mean.dtype, device=mean.device)
    return 0.5 * ((target - mean) * torch.exp(-log_sigma)).square() + log_sigma + 0.5 * math.log(2.0 * math.pi)


def beta_at(step: int, beta: float, warmup_steps: int) -> float:
    """Weight of the divergence at optimizer step 1, 2, …: a line from 0 to ``beta`` over ``warmup_steps``.

    >>> [beta_at(step, 2.0, 4) for step in (1, 2, 4, 9)], beta_at(1, 2.0, 0)
    ([0.5, 1.0, 2.0, 2.0], 2.0)
    """
    return beta * min(1.0, step / warmup_steps) if warmup_steps > 0 else beta


def corrupt(x: Tensor, kind: Corruption, amount: float) -> Tensor:
    """What the encoder sees in training instead of ``x``; the target stays clean (Vincent et al. 2008).

    Args:
        kind: ``gaussian`` adds noise of standard deviation ``amount``; ``masking`` sets a share ``amount`` of the
            numbers to 0; ``flip`` replaces a share ``amount`` of them by ``1 - x``, for 0/1 data.
    """
    if amount == 0:
        return x
    if kind == Corruption.gaussian:
        return x + amount * torch.randn_like(x)
    chosen = torch.rand_like(x) < amount
    return torch.where(chosen, 0.0, x) if kind == Corruption.masking else torch.where(chosen, 1.0 - x, x)


def check_corruption(kind: Corruption, amount: float, where: str) -> None:
    """Raises ConfigError for a negative amount, or a share above 1."""
    if not (amount >= 0 if kind == Corruption.gaussian else 0 <= amount <= 1):
        bounds = "0 or more" if kind == Corruption.gaussian else "between 0 and 1"
        raise ConfigError(f"an amount of {Corruption(kind).value} corruption {bounds}", got=amount, where=where)


class LatentUse:
    """How many latents carry something: sums over a validation, and the figures that follow from them.

    Args:
        n_units: latents that are counted: numbers of a vector, channels of a grid.
    """

    def __init__(self, n_units: int) -> None:
        self.n_units = n_units
        self.n_collapsed = 0  # validations in a row in which no unit was active

    def sums(self, mean: Tensor, divergence: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Additive sums from posterior means and divergences ``(B, n_units, *grid)``."""
        over = (0, *range(2, mean.ndim))
        count = torch.tensor(float(mean.numel() // self.n_units))
        n_objects = torch.tensor(float(len(mean)))
        mean = mean.float()
        columns = {"mean": mean.sum(over), "square": mean.square().sum(over)}
        found = {f"{name}_{i}": (column[i], count) for name, column in columns.items() for i in range(self.n_units)}
        return found | {f"kl_{i}": (value, n_objects) for i, value in enumerate(divergence.float().sum(over))}

    def figures(self, totals: dict[str, tuple[float, float]], watch: bool = True) -> dict[str, float]:
        """``kl`` (nats per object, free bits not applied) and ``active_units``; says so when none stays active.

        Args:
            watch: False while the divergence does not count fully yet.
        """
        kl, active = 0.0, 0
        for unit in range(self.n_units):
            value, n_objects = totals[f"kl_{unit}"]
            kl += value / n_objects
            (total, count), (square, _) = totals[f"mean_{unit}"], totals[f"square_{unit}"]
            active += square / count - (total / count) ** 2 > ACTIVE_VARIANCE
        self.n_collapsed = self.n_collapsed + 1 if watch and not active else 0
        if self.n_collapsed == PATIENCE:  # before, training may just not have come to it yet
            _log.warning(
                "posterior collapse: none of %d latents depends on the data (KL %.3g nats per object); "
                "lower beta, raise free_bits, or warm the KL term up over more steps",
                self.n_units,
                kl,
            )
        return {"kl": kl, "active_units": float(active)}
