"""The loss registry of the ternary VAE: named terms with weights, summed by ``compose(outputs, batch)``.

==================  =================================================================================================
``reconstruction``  cross-entropy of the digits, summed over the trits, nats per operation
``kl``              KL divergence from the prior with free bits, nats per operation; its weight is also times ``beta``
``ranking``         of two operations, the one 3-adically closer to a third is hyperbolically closer, by a margin
``radial``          the hyperbolic radius falls with the valuation of the operation's number
``repulsion``       latents keep away from each other
``entropy``         over a batch, each decoded trit takes its three values equally often
==================  =================================================================================================

A term with weight 0 is neither computed nor reported. Weights are read at every call, so that
``config.loss_weights.ranking = …`` in the middle of a training takes effect. Shapes: B operations, T trits, D latent
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConfigError
from . import poincare
from .operations import valuation

Outputs = dict[str, Any]
_tables: dict[tuple[int, str], Tensor] = {}


@dataclass
class LossResult:
    """``total``, the weighted sum; ``components``, each active term before its weight; ``metrics``, detached."""

    total: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


def valuations(difference: Tensor, n_trits: int) -> Tensor:
    """:func:`~astromodal.recipes.ternary.operations.valuation` of whole numbers below 3**n_trits, from a table."""
    key = (n_trits, str(difference.device))
    if key not in _tables:
        _tables[key] = torch.from_numpy(valuation(np.arange(3**n_trits), n_trits)).to(difference.device)
    return _tables[key][difference.abs()]


# --------------------------------------------------------------------------------------------- terms


def reconstruction(outputs: Outputs) -> Tensor:
    """Cross-entropy of the trits of the operation, nats per operation."""
    logits = outputs["logits"]
    return F.cross_entropy(logits.float().flatten(0, 1), true_digits(outputs).flatten()) * logits.shape[1]


def true_digits(outputs: Outputs) -> Tensor:
    """Digits 0, 1, 2 ``(B, T)`` of the operations, int64."""
    index, n_trits = outputs["index"], outputs["logits"].shape[1]
    return index[:, None] // 3 ** torch.arange(n_trits, device=index.device) % 3


def kl_per_dimension(outputs: Outputs) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, 1), ``(B, D)`` nats; exact on the ball too, see the network."""
    mean, log_variance = outputs["mean"], outputs["log_variance"]
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def kl(outputs: Outputs, free_bits: float = 0.0) -> Tensor:
    """KL divergence, nats per operation; a dimension whose mean over the batch is under ``free_bits`` costs that much.

    Kingma et al. 2016, arXiv:1606.04934, equation 15. ``free_bits`` is in nats per dimension.
    """
    return kl_per_dimension(outputs).mean(0).clamp_min(free_bits).sum()


def ranking(outputs: Outputs, margin: float = 0.2) -> Tensor:
    """Triplet loss: of two others, the one that is 3-adically closer to an operation shall be hyperbolically closer.

    Each operation is compared with two drawn from its batch: ``max(0, margin + d(a, near) - d(a, far))``, the mean over
    the triplets whose two valuations ``v3(a - near) > v3(a - far)`` differ; distances are those of posterior means.
    """
    n = len(outputs["index"])
    first, second = torch.randperm(n, device=outputs["mean"].device), torch.randperm(n, device=outputs["mean"].device)
    hinge, counts = ranking_hinges(outputs, first, second, margin)
    return (hinge * counts).sum() / counts.sum().clamp_min(1)


def ranking_hinges(outputs: Outputs, first: Tensor, second: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Hinge ``(B,)`` of every operation with its partners ``first`` and ``second`` (rows), and whether it counts."""
    index, z, c = outputs["index"], outputs["z_mean"], outputs["curvature"]
    n_trits = outputs["logits"].shape[1]
    sign = torch.sign(valuations(index - index[first], n_trits) - valuations(index - index[second], n_trits))
    gap = poincare.distance(z, z[first], c) - poincare.distance(z, z[second], c)
    return F.relu(margin + sign * gap), (sign != 0).to(gap.dtype)


def radial(outputs: Outputs, outer: float = 5.0, inner: float = 2.0, balance: float = 0.0) -> Tensor:
    """Huber distance of the hyperbolic radius from ``outer`` at valuation 0, falling in a line to ``inner`` at T.

    Of valuation v there are about ``3**-v`` of all operations; each weighs ``3**(balance v)``, so that with 0 the many
    rule and with 1 every valuation counts as much as any other. The mean over the batch is weighted by this.
    """
    n_trits = outputs["logits"].shape[1]
    depth = valuations(outputs["index"], n_trits).float()
    target = outer + (inner - outer) * depth / n_trits
    radius = poincare.radius(outputs["z_mean"], outputs["curvature"])
    weight = 3.0 ** (balance * depth)
    return (weight * F.smooth_l1_loss(radius, target, reduction="none")).sum() / weight.sum()


def repulsion(outputs: Outputs, scale: float = 1.0) -> Tensor:
    """Mean of ``exp(-d / scale)`` over the hyperbolic distance d of every operation to another of its batch."""
    z = outputs["z_mean"]
    if len(z) < 2:
        return z.sum() * 0.0
    shift = int(torch.randint(1, len(z), ()))
    return torch.exp(-poincare.distance(z, z.roll(shift, 0), outputs["curvature"]) / scale).mean()


def entropy(outputs: Outputs) -> Tensor:
    """``log 3`` minus the entropy of each trit's mean distribution over the batch, summed over the trits, nats.

    0 if all three values are decoded equally often, as they are among all operations; a collapsed decoder has T log 3.
    """
    mean = outputs["logits"].float().softmax(-1).mean(0)  # (T, 3)
    return (math.log(3.0) + (mean * mean.clamp_min(1e-12).log()).sum(-1)).sum()


TERMS: dict[str, Callable[..., Tensor]] = {
    "reconstruction": reconstruction,
    "kl": kl,
    "ranking": ranking,
    "radial": radial,
    "repulsion": repulsion,
    "entropy": entropy,
}


# ------------------------------------------------------------------------------------------ registry


class LossRegistry(nn.Module):
    """The terms with their settings; ``beta`` is a further factor of the KL divergence, for a controller.

    Args:
        weights: an object with one attribute per term; read at every call.
        settings: keyword arguments of terms, by term.

    Raises:
        ConfigError: ``weights`` lacks a term, or settings of an unknown one.
    """

    def __init__(self, weights: Any, settings: dict[str, dict[str, float]] | None = None) -> None:
        super().__init__()
        missing = [name for name in TERMS if not hasattr(weights, name)]
        unknown = sorted(set(settings or {}) - set(TERMS))
        if missing or unknown:
            raise ConfigError(
                f"weights and settings of {', '.join(TERMS)}",
                where="LossRegistry",
                got=f"no weight of {', '.join(missing)}" if missing else ", ".join(unknown),
            )
        self.weights, self.settings = weights, settings or {}
        self.beta, self.difficulty = 1.0, 1.0

    def weight(self, name: str) -> float:
        """Weight of a term as it is now: times ``beta`` for the KL divergence, ``difficulty`` for the ranking.

        Raises:
            ConfigError: it is negative or not finite.
        """
        weight = float(getattr(self.weights, name))
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"loss_weights.{name} of 0 or more", got=weight)
        return weight * {"kl": self.beta, "ranking": self.difficulty}.get(name, 1.0)

    def compose(self, outputs: Outputs, batch: Any = None) -> LossResult:
        """The weighted sum of the terms.

        Args:
            outputs: of :class:`~astromodal.recipes.ternary.hyperbolic_vae.TernaryVAE`; it holds the numbers of the
            operations.
            batch: not needed; the public loop passes it.
        """
        total = outputs["mean"].sum() * 0.0
        components, metrics = {}, {}
        for name, term in TERMS.items():
            weight = self.weight(name)
            if weight == 0.0:
                continue
            value = term(outputs, **self.settings.get(name, {}))
            components[name] = value
            metrics[name] = value.detach()
            total = total + weight * value
        return LossResult(total, components, metrics | {"total": total.detach(), **measures(outputs)})

    def forward(self, outputs: Outputs, batch: Any = None) -> LossResult:
        """:meth:`compose`."""
        return self.compose(outputs, batch)


@torch.no_grad()
def measures(outputs: Outputs) -> dict[str, Tensor]:
    """Share of trits and of whole operations decoded right, KL divergence in nats without free bits."""
    right = outputs["logits"].argmax(-1) == true_digits(outputs)
    return {
        "accuracy_trit": right.float().mean(),
        "accuracy": right.all(-1).float().mean(),
        "kl_nats": kl_per_dimension(outputs).sum(-1).mean(),
    }


def create_registry_from_training_config(config: Any) -> LossRegistry:
    """The registry of a configuration: its ``loss_weights``, and the settings of the terms in ``losses``.

    The object ``config.loss_weights`` itself is kept, so that later changes to it take effect.
    """
    s = config.losses
    settings = {
        "kl": {"free_bits": s.free_bits},
        "ranking": {"margin": s.margin},
        "radial": {"outer": s.outer_radius, "inner": s.inner_radius, "balance": s.radial_balance},
        "repulsion": {"scale": s.repulsion_scale},
    }
    return LossRegistry(config.loss_weights, settings)


def validate(model: nn.Module, val_loader: Any, loss_registry: LossRegistry) -> float:
    """Mean of the total loss over the batches of ``val_loader``; the model is left in evaluation mode.

    Raises:
        ConfigError: the loader has no batch.
    """
    model.eval()
    losses = []
    with torch.no_grad():
        for batch in val_loader:
            losses.append(float(loss_registry.compose(model(batch), batch).total))
    if not losses:
        raise ConfigError("at least one batch", got="none", where="validate(val_loader=…)")
    return sum(losses) / len(losses)
