"""The Poincaré ball in closed form: exponential map, logarithm, distance; and learned points on it.

One convention throughout, that of geoopt (Kochurov et al. 2020, arXiv:2005.02819) and of Ganea et al. 2018
(arXiv:1805.09112): the ball of curvature -c has radius 1 / sqrt(c) and the metric ``lambda_x**2`` times the Euclidean
one, ``lambda_x = 2 / (1 - c |x|**2)``. At the origin lambda is 2, therefore ``exp_0(v)`` lies at hyperbolic distance
``2 |v|``, twice the Euclidean length of v::

    exp_0(v) = tanh(sqrt(c) |v|) v / (sqrt(c) |v|)        log_0 is its inverse
    d(x, y)  = 2 / sqrt(c) asinh( sqrt(c) |x - y| / sqrt((1 - c |x|**2) (1 - c |y|**2)) )

The form with asinh is the usual one with artanh of the Möbius difference, rewritten so that it neither cancels for
points close to each other nor needs a clamp. Shapes: points and tangent vectors ``(..., D)``; c is ``curvature``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...config.checks.packages import require_package
from ...errors import ConfigError

BORDER = {torch.float64: 1e-10}  # points stay this share of the radius away from the border, where rounding rules
BORDER_FLOAT32 = 1e-5
TINY = 1e-15


def check_curvature(curvature: float) -> float:
    """``curvature`` as a float; the space has curvature -c. Raises ConfigError unless it is above 0."""
    if not (math.isfinite(curvature) and curvature > 0):
        raise ConfigError("a curvature c above 0 (the ball has curvature -c)", got=curvature)
    return float(curvature)


def safe_norm(x: Tensor) -> Tensor:
    """Euclidean norm ``(..., 1)`` whose gradient at 0 is 0 and not NaN."""
    return x.square().sum(-1, keepdim=True).clamp_min(TINY).sqrt()


def project(x: Tensor, curvature: float) -> Tensor:
    """Points moved back into the ball, a little away from its border."""
    most = (1.0 - BORDER.get(x.dtype, BORDER_FLOAT32)) / math.sqrt(curvature)
    norm = safe_norm(x)
    return torch.where(norm > most, x / norm * most, x)


def conformal_factor(x: Tensor, curvature: float) -> Tensor:
    """``lambda_x``, ``(..., 1)``."""
    return 2.0 / (1.0 - curvature * x.square().sum(-1, keepdim=True))


def exp0(v: Tensor, curvature: float) -> Tensor:
    """Point that the geodesic from the origin with velocity ``v`` reaches after time 1."""
    root, norm = math.sqrt(curvature), safe_norm(v)
    return project(torch.tanh(root * norm) * v / (root * norm), curvature)


def log0(x: Tensor, curvature: float) -> Tensor:
    """Inverse of :func:`exp0`."""
    root, norm = math.sqrt(curvature), safe_norm(x)
    return torch.atanh(root * norm) * x / (root * norm)


def mobius_add(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    """Möbius sum of x and y (Ganea et al. 2018, equation 4)."""
    c = curvature
    xy, xx, yy = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c * c * xx * yy)


def exp(x: Tensor, v: Tensor, curvature: float) -> Tensor:
    """Exponential map at ``x`` of the tangent vector ``v``."""
    root, norm = math.sqrt(curvature), safe_norm(v)
    step = torch.tanh(root * conformal_factor(x, curvature) * norm / 2) * v / (root * norm)
    return project(mobius_add(x, step, curvature), curvature)


def log(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    """Inverse of :func:`exp`: the tangent vector at ``x`` that leads to ``y``."""
    difference = mobius_add(-x, y, curvature)
    root, norm = math.sqrt(curvature), safe_norm(difference)
    return 2 / (root * conformal_factor(x, curvature)) * torch.atanh(root * norm) * difference / norm


def distance(x: Tensor, y: Tensor, curvature: float) -> Tensor:
    """Hyperbolic distance, ``(...)``."""
    c = curvature
    spread = (1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1))
    return 2 / math.sqrt(c) * torch.asinh(math.sqrt(c) * safe_norm(x - y).squeeze(-1) / spread.sqrt())


def radius(x: Tensor, curvature: float) -> Tensor:
    """Hyperbolic distance from the origin, ``(...)``."""
    root = math.sqrt(curvature)
    return 2 / root * torch.atanh(root * safe_norm(x).squeeze(-1))


class BallPoints(nn.Module):
    """Learned points on the ball, ``(n, D)``.

    By default the parameter is the tangent vector at the origin, which is Euclidean, so that any optimizer may train
    it; ``riemannian`` makes it a ``geoopt.ManifoldParameter``, for ``optimizer=riemannian_adam``.

    Raises:
        ConfigError: ``riemannian`` without geoopt.
    """

    def __init__(self, n: int, dim: int, curvature: float, *, spread: float = 0.5, riemannian: bool = False) -> None:
        super().__init__()
        self.curvature, self.riemannian = check_curvature(curvature), riemannian
        tangent = spread * torch.randn(n, dim)
        if not riemannian:
            self.tangent = nn.Parameter(tangent)
            return
        require_package("geoopt", "riemannian=True", "riemannian=False (optimizer=adamw)")
        import geoopt

        ball = geoopt.PoincareBall(c=curvature)
        self.points = geoopt.ManifoldParameter(exp0(tangent, curvature), manifold=ball)

    def forward(self) -> Tensor:
        """The points, ``(n, D)``."""
        return self.points if self.riemannian else exp0(self.tangent, self.curvature)
