"""The closed forms of the Poincaré ball: against geoopt, against the geometry's own laws, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.recipes.ternary import poincare
from astromodal.recipes.ternary.poincare import (
    BallPoints,
    distance,
    exp,
    exp0,
    log,
    log0,
    mobius_add,
    project,
    radius,
)

CURVATURES = (0.3, 1.0, 2.5)
every_curvature = pytest.mark.parametrize("c", CURVATURES)


def tangents(n: int = 50, dim: int = 4, size: float = 0.7, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return size * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_curvature
def test_maps_and_distances_agree_with_geoopt(c):
    geoopt = pytest.importorskip("geoopt")
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    size = 0.2 / c**0.5  # geoopt clips 1e-5 before the border
    u, v = tangents(size=size, seed=1), tangents(size=size, seed=2)
    x, y = exp0(u, c), exp0(v, c)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(x, ball.expmap0(u), **close)
    torch.testing.assert_close(log0(x, c), ball.logmap0(x), **close)
    torch.testing.assert_close(exp(x, v, c), ball.expmap(x, v), **close)
    torch.testing.assert_close(log(x, y, c), ball.logmap(x, y), **close)
    torch.testing.assert_close(mobius_add(x, y, c), ball.mobius_add(x, y), **close)
    torch.testing.assert_close(distance(x, y, c), ball.dist(x, y), **close)
    torch.testing.assert_close(radius(x, c), ball.dist0(x), **close)
    torch.testing.assert_close(poincare.conformal_factor(x, c)[..., 0], ball.lambda_x(x), **close)


@every_curvature
def test_the_documented_convention(c):
    """exp_0(v) is at distance 2 |v|, in the direction of v; the textbook distance with arcosh is the same number."""
    v = tangents()
    x, y = exp0(v, c), exp0(tangents(seed=5), c)
    torch.testing.assert_close(radius(x, c), 2 * v.norm(dim=-1))
    torch.testing.assert_close(distance(torch.zeros_like(x), x, c), radius(x, c))
    torch.testing.assert_close(x / x.norm(dim=-1, keepdim=True), v / v.norm(dim=-1, keepdim=True))
    ratio = 2 * c * (x - y).square().sum(-1) / ((1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1)))
    torch.testing.assert_close(distance(x, y, c), torch.arccosh(1 + ratio) / math.sqrt(c))


@every_curvature
def test_maps_are_inverse_and_distances_are_lengths_of_geodesics(c):
    x, y = exp0(tangents(seed=1), c), exp0(tangents(seed=2), c)
    v = log(x, y, c)
    torch.testing.assert_close(exp(x, v, c), y)
    torch.testing.assert_close(log0(exp0(v, c), c), v)
    # the Riemannian length of the initial velocity is the distance, and half of it leads half the way
    torch.testing.assert_close(poincare.conformal_factor(x, c)[..., 0] * v.norm(dim=-1), distance(x, y, c))
    middle = exp(x, v / 2, c)
    torch.testing.assert_close(distance(x, middle, c), distance(x, y, c) / 2)
    torch.testing.assert_close(distance(middle, y, c), distance(x, y, c) / 2)
    # an isometry: moving both by a Möbius sum changes nothing
    a = exp0(tangents(1, seed=3), c)
    torch.testing.assert_close(distance(mobius_add(a, x, c), mobius_add(a, y, c), c), distance(x, y, c))


def test_distance_of_a_long_path_is_the_sum_of_small_steps():
    """The metric integrated along a straight chord is never shorter than the distance, and equal through the origin."""
    c, n = 1.0, 20_000
    x, y = torch.tensor([[0.6, 0.2], [-0.3, -0.1]], dtype=torch.float64)
    t = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    length = (poincare.conformal_factor(x + t * (y - x), c)[:, 0] * (y - x).norm() / n).sum()
    assert float(length) == pytest.approx(float(distance(x, y, c)), rel=1e-6)  # this chord goes through the origin
    y = torch.tensor([-0.1, 0.7], dtype=torch.float64)
    length = (poincare.conformal_factor(x + t * (y - x), c)[:, 0] * (y - x).norm() / n).sum()
    assert float(length) > float(distance(x, y, c)) * 1.01


@every_curvature
def test_gradients_by_finite_differences(c):
    u, v = tangents(6, seed=1).requires_grad_(), tangents(6, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: distance(exp0(a, c), exp0(b, c), c), (u, v))
    assert torch.autograd.gradcheck(lambda a, b: exp(exp0(a, c), b, c), (u, v))
    assert torch.autograd.gradcheck(lambda a, b: log(exp0(a, c), exp0(b, c), c), (u, v))
    assert torch.autograd.gradcheck(lambda a: log0(exp0(a, c), c), (u,))


def test_points_that_coincide_and_points_at_the_border_have_finite_values_and_gradients():
    for dtype in (torch.float32, torch.float64):
        v = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
        (exp0(v, 1.0).sum() + distance(exp0(v, 1.0), exp0(v.detach(), 1.0), 1.0).sum()).backward()
        assert torch.isfinite(v.grad).all()
        far = torch.full((1, 4), 50.0, dtype=dtype, requires_grad=True)
        x = exp0(far, 1.0)
        assert float(x.detach().norm()) < 1
        value = radius(x, 1.0) + distance(x, -x, 1.0)
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(far.grad).all()
    outside = project(torch.tensor([[3.0, 4.0]]), 1.0)
    torch.testing.assert_close(outside, torch.tensor([[0.6, 0.8]]), rtol=1e-4, atol=1e-4)


def test_the_form_with_asinh_keeps_what_the_form_with_arcosh_loses():
    x = exp0(torch.tensor([[1.0, 0.5]]), 1.0)
    y = x + 1e-5
    exact = distance(x.double(), y.double(), 1.0)
    torch.testing.assert_close(distance(x, y, 1.0).double(), exact, rtol=1e-3, atol=0)
    spread = (1 - x.square().sum(-1)) * (1 - y.square().sum(-1))
    naive = torch.arccosh(1 + 2 * (x - y).square().sum(-1) / spread)
    assert abs(float(naive) / float(exact) - 1) > 1e-2


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_a_curvature_that_is_not_above_0_is_refused(wrong):
    with pytest.raises(ConfigError, match="curvature c above 0"):
        BallPoints(3, 2, wrong)


def test_points_of_either_kind():
    torch.manual_seed(0)
    points = BallPoints(5, 3, 2.0)
    assert points().shape == (5, 3) and not hasattr(points.tangent, "manifold")
    geoopt = pytest.importorskip("geoopt")
    torch.manual_seed(0)
    on_manifold = BallPoints(5, 3, 2.0, riemannian=True)
    assert isinstance(on_manifold.points, geoopt.ManifoldParameter)
    assert torch.equal(on_manifold(), points())  # the seed decides, not the kind


def test_riemannian_points_without_geoopt_are_refused(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install geoopt"):
        BallPoints(5, 3, 2.0, riemannian=True)
