"""Coverage and hierarchy: how much of the operations the latent holds, and whether its radius knows their valuation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...training.validation import evaluation_mode
from . import poincare
from .hyperbolic_vae import TernaryVAE
from .operations import operation_trits, valuation


@dataclass
class Geometry:
    """What all operations look like from their posterior means.

    ``coverage``: share whose trits are all decoded right. ``hierarchy``: Spearman correlation of valuation and
    hyperbolic radius, -1 … 1. ``radius``, ``valuation``, ``right``: ``(N,)`` each.
    """

    coverage: float
    hierarchy: float
    radius: np.ndarray
    valuation: np.ndarray
    right: np.ndarray


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks(np.array([10.0, 30.0, 10.0, 20.0])).tolist()
    [1.5, 4.0, 1.5, 3.0]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, ties by mean ranks; 0 where one side is constant."""
    x, y = ranks(np.asarray(a)), ranks(np.asarray(b))
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def best_hierarchy(n_trits: int) -> float:
    """The lowest Spearman correlation that radii without ties can have with the valuation, whose values have many.

    >>> round(best_hierarchy(9), 3)
    -0.832
    """
    values = np.sort(valuation(np.arange(3**n_trits), n_trits))
    return spearman(values, -np.arange(len(values)))


def measure(model: TernaryVAE, batch_size: int = 8192) -> Geometry:
    """Coverage and hierarchy over all operations of ``model``, which is left in the mode that it was in."""
    device, n = model.trit_table.device, model.input_dim
    radius, right = [], []
    with evaluation_mode(model, 0):
        for index in torch.arange(n, device=device).split(batch_size):
            mean, _ = model.encode(index)
            z = poincare.exp0(mean, model.curvature)
            radius.append(poincare.radius(z, model.curvature).cpu().numpy())
            decoded = model.decode(z).argmax(-1).cpu().numpy() - 1
            right.append((decoded == operation_trits(index.cpu().numpy(), model.n_trits)).all(1))
    radii, values = np.concatenate(radius), valuation(np.arange(n), model.n_trits)
    exact = np.concatenate(right)
    return Geometry(float(exact.mean()), spearman(values, radii), radii, values, exact)
