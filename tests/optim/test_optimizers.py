"""Which parameter gets which update, and that every optimizer option trains, saves and restores."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from astromodal.config.schema import OptimizerConfig, OptimizerName
from astromodal.errors import ConfigError
from astromodal.optim.muon import JointOptimizer, Muon, hidden_matrices, orthogonal
from astromodal.optim.optimizers import build_optimizer


class TinyLM(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 6)
        self.position = nn.Parameter(torch.randn(4, 6))
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 6, bias=False)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.token.weight

    @property
    def head_weight(self) -> Tensor:
        return self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position
        return self.head(self.norm(h + self.down(torch.relu(self.up(h)))))


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)] for p in parameters}


def train(model: nn.Module, optimizer, n_steps: int, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 11, (8, 4), generator=generator)
    for _ in range(n_steps):
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("tied", [True, False])
def test_biases_norms_and_embeddings_do_not_decay(tied: bool) -> None:
    model = TinyLM(tied)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decayed = {n for g in optimizer.param_groups if g["weight_decay"] > 0 for n in names_of(model, g["params"])}
    plain = {n for g in optimizer.param_groups if g["weight_decay"] == 0 for n in names_of(model, g["params"])}
    assert decayed == {"up.weight", "down.weight"} | (set() if tied else {"head.weight"})
    assert decayed | plain == {n for n, _ in model.named_parameters()} and not decayed & plain


@pytest.mark.parametrize("tied", [True, False])
def test_muon_gets_the_hidden_matrices_and_nothing_else(tied: bool) -> None:
    model = TinyLM(tied)
    assert {name for name, _ in hidden_matrices(model)} == {"up.weight", "down.weight"}
    optimizer = build_optimizer(model, OptimizerConfig(name=OptimizerName.muon))
    assert isinstance(optimizer, JointOptimizer)
    covered = [p for g in optimizer.param_groups for p in g["params"]]
    assert len({id(p) for p in covered}) == len(covered) == len(list(model.parameters()))
    assert names_of(model, [p for g in optimizer.parts["muon"].param_groups for p in g["params"]]) == {
        "up.weight",
        "down.weight",
    }


def test_muons_update_is_the_orthogonalised_momentum_scaled_by_the_shape() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24, bias=False), nn.Linear(24, 6, bias=False))
    before = [p.detach().clone() for p in model.parameters()]
    config = OptimizerConfig(name=OptimizerName.muon, weight_decay=0.0, muon_learning_rate=0.1)
    optimizer = build_optimizer(model, config)
    model(torch.randn(32, 6)).square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    for old, new, grad in zip(before, model.parameters(), grads, strict=True):
        rows, columns = old.shape
        update = (old - new.detach()) / (0.1 * math.sqrt(max(1, rows / columns)))
        u, _, vh = torch.linalg.svd(grad, full_matrices=False)  # momentum of a first step is parallel to the gradient
        cosine = (update * (u @ vh)).sum() / (update.norm() * (u @ vh).norm())
        singular = torch.linalg.svdvals(update)
        assert cosine > 0.95 and singular.min() > 0.4 and singular.max() < 1.4


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brought it")
def test_muon_in_bf16_is_torchs_own_to_the_bit() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 24, bias=False), nn.Linear(24, 6, bias=False))
    theirs = deepcopy(ours)
    a = Muon(list(ours.parameters()), 0.02, 0.9, 0.1)
    b = torch.optim.Muon(theirs.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    for _ in range(4):
        x = torch.randn(32, 6)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    a.load_state_dict(b.state_dict())  # a checkpoint from before there was a choice goes on in bf16
    assert a.param_groups[0]["precision"] == "bf16"


@pytest.mark.parametrize("shape", [(24, 6), (6, 24), (16, 16)])
def test_muons_products_in_float32_orthogonalise_as_well(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, rough = orthogonal(matrix, torch.float32), orthogonal(matrix, torch.bfloat16)
    assert exact.dtype == torch.float32 and exact.shape == shape
    values = torch.linalg.svdvals(exact)
    assert values.min() > 0.6 and values.max() < 1.25
    assert (exact - rough.float()).norm() < 0.05 * exact.norm()


class WithTokens(nn.Module):
    """Learned tokens and scales of the shapes that people give them."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 6))
        self.mask_tokens = nn.Parameter(torch.ones(3, 6))
        self.pos = nn.Parameter(torch.ones(1, 9, 6))
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.mixer = nn.Parameter(torch.ones(6, 6))
        self.token_mixer, self.one = nn.Linear(6, 6), nn.Linear(6, 1)
        self.kernel = nn.Conv2d(1, 1, 3)


@pytest.mark.parametrize("name", [OptimizerName.adamw, OptimizerName.adam, OptimizerName.muon])
def test_learned_tokens_and_vectors_of_any_shape_do_not_decay(name: OptimizerName) -> None:
    model = WithTokens()
    optimizer = build_optimizer(model, OptimizerConfig(name=name, weight_decay=0.1))
    decayed = {n for g in optimizer.param_groups if g["weight_decay"] > 0 for n in names_of(model, g["params"])}
    assert decayed == {"mixer", "token_mixer.weight", "one.weight", "kernel.weight"}


@pytest.mark.parametrize("name", [n for n in OptimizerName if n is not OptimizerName.riemannian_adam])
def test_every_optimizer_lowers_the_loss_and_goes_on_exactly_from_its_state(name: OptimizerName) -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(name=name, learning_rate=0.01, muon_learning_rate=0.01)
    model = TinyLM()
    optimizer = build_optimizer(model, config)
    assert all(group["initial_lr"] == group["lr"] for group in optimizer.param_groups)
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 40) < 0.7 * first
    copy = TinyLM()
    copy.load_state_dict(model.state_dict())
    resumed = build_optimizer(copy, config)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    train(model, optimizer, 3, seed=1), train(copy, resumed, 3, seed=1)
    for a, b in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fused_adamw_is_used_where_torch_has_it() -> None:
    assert build_optimizer(TinyLM(), OptimizerConfig()).defaults["fused"] is True


def test_frozen_parameters_are_left_out() -> None:
    model = TinyLM()
    model.up.weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(name=OptimizerName.muon))
    assert "up.weight" not in {n for g in optimizer.param_groups for n in names_of(model, g["params"])}


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.0), ("beta2", 1.0), ("eps", -1.0)])
def test_impossible_constants_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{key}"):
        build_optimizer(TinyLM(), OptimizerConfig(**{key: value}))


def test_muon_without_matrices_and_a_frozen_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="linear hidden layers"):
        build_optimizer(nn.LayerNorm(4), OptimizerConfig(name=OptimizerName.muon))
    with pytest.raises(ConfigError, match="trainable"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimizerConfig())


# ----------------------------------------------------------------------------------- Riemannian Adam


def hyperbolic(seed: int = 0) -> nn.Module:
    """Points in a Poincaré ball and on a sphere, and a linear layer."""
    geoopt = pytest.importorskip("geoopt")
    torch.manual_seed(seed)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ball, self.sphere = geoopt.PoincareBall(c=1.0), geoopt.Sphere()
            self.points = geoopt.ManifoldParameter(0.05 * torch.randn(6, 2), manifold=self.ball)
            self.directions = geoopt.ManifoldParameter(self.sphere.random(4, 3), manifold=self.sphere)
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            target = 0.6 * torch.nn.functional.normalize(torch.arange(12.0).reshape(6, 2) - 5.5, dim=-1)
            away = self.ball.dist(self.points, target).square().mean()
            aim = (self.directions - torch.tensor([0.0, 0.0, 1.0])).square().sum()
            return away + aim + (self.linear(x) - x).square().mean()

    return Model()


RIEMANNIAN = OptimizerConfig(name=OptimizerName.riemannian_adam, learning_rate=0.02)


def descend(model: nn.Module, optimizer, n_steps: int) -> float:
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    for _ in range(n_steps):
        loss = model(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def test_points_stay_on_their_manifold_and_the_rest_gets_adamw() -> None:
    model = hyperbolic()
    optimizer = build_optimizer(model, RIEMANNIAN)
    assert names_of(model, [p for g in optimizer.parts["riemannian"].param_groups for p in g["params"]]) == {
        "points",
        "directions",
    }
    assert all(g["weight_decay"] == 0 for g in optimizer.parts["riemannian"].param_groups)
    assert all(g["initial_lr"] == 0.02 for g in optimizer.param_groups)
    first = descend(model, optimizer, 1)
    assert descend(model, optimizer, 300) < 0.05 * first
    assert model.points.norm(dim=-1).max() < 1
    torch.testing.assert_close(model.directions.norm(dim=-1), torch.ones(4), rtol=0, atol=1e-5)


def test_riemannian_adam_goes_on_exactly_from_a_file(tmp_path) -> None:
    from astromodal.files.io import load_torch, save_torch

    model = hyperbolic()
    optimizer = build_optimizer(model, RIEMANNIAN)
    descend(model, optimizer, 13)
    save_torch(tmp_path / "state.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    state, copy = load_torch(tmp_path / "state.pt"), hyperbolic(seed=1)
    resumed = build_optimizer(copy, RIEMANNIAN)
    copy.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    descend(model, optimizer, 13), descend(copy, resumed, 13)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_the_average_of_points_is_put_back_on_their_manifold() -> None:
    from astromodal.training.ema import ParameterAverage

    model = hyperbolic()
    average = ParameterAverage(model, 0.5)
    with torch.no_grad():
        model.directions.copy_(-model.directions + 0.1).div_(model.directions.norm(dim=-1, keepdim=True))
    average.update()
    own = model.directions.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.directions.norm(dim=-1), torch.ones(4), rtol=0, atol=1e-5)
        assert not torch.equal(model.directions, own)
    assert torch.equal(model.directions, own)


def test_riemannian_adam_without_manifold_parameters_or_without_geoopt_is_refused(monkeypatch) -> None:
    import importlib.util

    if importlib.util.find_spec("geoopt") is not None:
        with pytest.raises(ConfigError, match="ManifoldParameter"):
            build_optimizer(TinyLM(), RIEMANNIAN)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install geoopt, or optimizer=adamw"):
        build_optimizer(TinyLM(), RIEMANNIAN)
