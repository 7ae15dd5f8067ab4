"""The public geometry: the Poincaré ball in closed form, and ``RiemannianAdam``.

Formulas and their convention are in :mod:`astromodal.recipes.ternary.poincare`, which agrees with geoopt.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import torch

from ...optim.riemannian import build_riemannian_adam
from .poincare import BallPoints, conformal_factor, distance, exp, exp0, log, log0, mobius_add, project, radius

__all__ = [
    "BallPoints",
    "RiemannianAdam",
    "conformal_factor",
    "distance",
    "exp",
    "exp0",
    "log",
    "log0",
    "mobius_add",
    "project",
    "radius",
]


def RiemannianAdam(
    params: Iterable[torch.nn.Parameter],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """geoopt's Riemannian Adam where geoopt is installed, else torch's Adam.

    The two are one and the same update for parameters that lie on no manifold, and without geoopt there are no others:
    ``TernaryVAE(riemannian=True)``, whose points lie on geoopt's ball, needs it.
    """
    if importlib.util.find_spec("geoopt") is not None:
        return build_riemannian_adam(list(params), lr, betas, eps)
    return torch.optim.Adam(params, lr=lr, betas=betas, eps=eps)
