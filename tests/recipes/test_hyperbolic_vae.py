"""The network of ternary operations: forms of a batch, the latent on the ball, its KL divergence, its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from astromodal.errors import ConfigError, DataError
from astromodal.recipes.ternary import poincare
from astromodal.recipes.ternary.hyperbolic_vae import TernaryVAE
from astromodal.recipes.ternary.operations import operation_trits


def small(**options) -> TernaryVAE:
    torch.manual_seed(0)
    return TernaryVAE(**{"input_dim": 81, "latent_dim": 3, "curvature": 0.7, "width": 16, "n_points": 5} | options)


def test_shapes_and_keys():
    model = small().train()
    outputs = model(torch.tensor([0, 5, 80]))
    shapes = {name: tuple(value.shape) for name, value in outputs.items() if name != "curvature"}
    assert shapes == {
        "index": (3,),
        "mean": (3, 3),
        "log_variance": (3, 3),
        "z": (3, 3),
        "z_mean": (3, 3),
        "logits": (3, 4, 3),
    }
    assert outputs["curvature"] == 0.7
    assert (outputs["z"].norm(dim=1) < 1 / math.sqrt(0.7)).all()
    assert not torch.equal(outputs["z"], outputs["z_mean"])
    assert torch.equal(TernaryVAE(input_dim=19683).trit_table, torch.from_numpy(operation_trits(np.arange(19683))))


def test_every_form_of_a_batch_is_the_same_batch():
    model = small().eval()
    index = torch.tensor([7, 0, 80, 7])
    trits = torch.from_numpy(operation_trits(index.numpy(), 4))
    one_hot = torch.nn.functional.one_hot(index, 81).float()
    expected = model(index)
    for batch in (
        trits,
        trits.float(),
        one_hot,
        one_hot.double().float(),
        index.int(),
        {"index": index},
        {"trits": trits},
        {"x": one_hot},
        index.tolist(),
    ):
        outputs = model(batch)
        assert torch.equal(outputs["index"], index)
        torch.testing.assert_close(outputs["logits"], expected["logits"])
    assert torch.equal(model.predict(index), expected["logits"].argmax(-1).to(torch.int8) - 1)


def test_a_one_hot_batch_enters_linearly_and_gets_a_gradient():
    model = small().eval()
    mixture = torch.zeros(1, 81)
    mixture[0, 5], mixture[0, 40] = 0.25, 0.75
    expected = 0.25 * model.digits(torch.tensor([5])) + 0.75 * model.digits(torch.tensor([40]))
    torch.testing.assert_close(model.digits(mixture), expected)
    assert model.index(mixture).tolist() == [40]
    x = torch.nn.functional.one_hot(torch.tensor([3]), 81).float().requires_grad_()
    model(x)["logits"].square().sum().backward()
    assert (x.grad != 0).all()  # every operation that might be mixed in would change the result


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([81]),
        torch.tensor([-1]),
        torch.tensor([0.5]),
        torch.tensor([[0, 1, 2, 0]]),
        torch.zeros(2, 7),
        torch.full((2, 4), 0.5),
        {"y": torch.tensor([1])},
        torch.full((1, 4), float("nan")),
    ],
)
def test_other_batches_are_refused(wrong):
    with pytest.raises(DataError, match="expected"):
        small()(wrong)


@pytest.mark.parametrize(
    "options",
    [{"input_dim": 80}, {"latent_dim": 0}, {"curvature": 0.0}, {"width": 0}, {"n_layers": 0}, {"n_points": -1}],
)
def test_settings_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        small(**options)


def test_evaluation_is_deterministic_and_training_samples_around_the_mean():
    model, index = small(), torch.arange(81)
    assert torch.equal(model.eval()(index)["logits"], model(index)["logits"])
    assert torch.equal(model(index)["z"], model(index)["z_mean"])
    model.train()
    with torch.no_grad():
        draws = torch.stack([poincare.log0(model(index)["z"], 0.7) for _ in range(400)])
        mean, log_variance = model.encode(index)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.25, rtol=0)
    torch.testing.assert_close(draws.var(0).log(), log_variance, atol=0.5, rtol=0)


@pytest.mark.parametrize("n_points", [0, 5])
def test_gradient_reaches_every_parameter(n_points):
    model = small(n_points=n_points).train()
    outputs = model(torch.arange(81))
    (outputs["logits"].logsumexp(-1).sum() + outputs["log_variance"].sum()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad != 0).any() and torch.isfinite(parameter.grad).all(), name


def test_gradients_by_finite_differences():
    model = small().double().eval()
    probe = torch.randn(4, 3, dtype=torch.float64)

    def value() -> torch.Tensor:
        mean, log_variance = (t.double() for t in model.encoder(model.digits(torch.tensor([5])).double()).chunk(2, -1))
        z = poincare.exp0(mean + log_variance.exp() * 0.1, 0.7)
        return (model.decode(z) * probe).sum()

    value().backward()
    for name, parameter in model.named_parameters():
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        i = int(grad.abs().argmax())
        old, step = float(flat[i]), 1e-5
        flat[i] = old + step
        up = float(value().detach())
        flat[i] = old - step
        down = float(value().detach())
        flat[i] = old
        assert (up - down) / (2 * step) == pytest.approx(float(grad[i]), rel=1e-5), name


def test_the_kl_divergence_on_the_ball_is_that_of_the_tangent_space():
    """Monte Carlo over points of the ball, with densities there: each has the volume of exp_0, which must cancel."""
    c, dim = 0.7, 3
    mean = torch.tensor([0.4, -0.6, 0.1], dtype=torch.float64)
    log_variance = torch.tensor([-1.0, 0.3, -2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    tangent = mean + (log_variance / 2).exp() * torch.randn(200_000, dim, generator=generator, dtype=torch.float64)
    z = poincare.exp0(tangent, c)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(dim, dtype=torch.float64), 1.0)
    v = poincare.log0(z, c)
    ratio = posterior.log_prob(v).sum(-1) - log_volume(v, c) - (prior.log_prob(v).sum(-1) - log_volume(v, c))
    exact = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    assert float(ratio.mean()) == pytest.approx(float(exact), abs=4 * float(ratio.std()) / len(ratio) ** 0.5)
    # and the density on the ball, with that volume, is one: its integral over a grid of the disc is 1
    side = torch.linspace(-1, 1, 1201, dtype=torch.float64) / math.sqrt(c)
    points = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    points = points[c * points.square().sum(-1) < 0.999]
    v = poincare.log0(points, c)
    log_density = torch.distributions.Normal(mean[:2], (log_variance[:2] / 2).exp()).log_prob(v).sum(-1)
    log_density = log_density - log_volume(v, c) + 2 * poincare.conformal_factor(points, c)[:, 0].log()
    assert float(log_density.exp().sum() * (side[1] - side[0]) ** 2) == pytest.approx(1.0, abs=2e-3)


def log_volume(v: torch.Tensor, c: float) -> torch.Tensor:
    """log |det d exp_0(v) / dv| in the measure of the ball: 2**D (sinh(2 s) / (2 s))**(D - 1), s = sqrt(c) |v|."""
    s = 2 * math.sqrt(c) * v.norm(dim=-1).clamp_min(1e-12)
    return v.shape[-1] * math.log(2.0) + (v.shape[-1] - 1) * (torch.sinh(s) / s).log()


def test_arguments_survive_saving():
    model = small()
    again = TernaryVAE(**model.to_dict())
    again.load_state_dict(model.state_dict())
    index = torch.arange(81)
    assert torch.equal(again.eval()(index)["logits"], model.eval()(index)["logits"])


def test_half_precision_stays_on_the_ball():
    model = small().train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.arange(81))
    assert outputs["z"].dtype == torch.float32 and torch.isfinite(outputs["logits"]).all()


def test_riemannian_adam_moves_the_points_within_the_ball():
    geoopt = pytest.importorskip("geoopt")
    from astromodal.config.schema import OptimizerConfig, OptimizerName
    from astromodal.optim.optimizers import build_optimizer

    model = small(riemannian=True).train()
    optimizer = build_optimizer(model, OptimizerConfig(name=OptimizerName.riemannian_adam, learning_rate=0.05))
    before = model.points().detach().clone()
    for _ in range(20):
        outputs = model(torch.arange(81))
        loss = torch.nn.functional.cross_entropy(
            outputs["logits"].flatten(0, 1), (model.trit_table.long() + 1).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert isinstance(model.points.points, geoopt.ManifoldParameter)
    assert not torch.equal(model.points().detach(), before)
    assert (model.points().norm(dim=1) < 1 / math.sqrt(0.7)).all()
    assert float(loss.detach()) < math.log(3)
