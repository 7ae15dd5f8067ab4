"""Loss terms of the ternary VAE against slow versions, their weights, and the two controllers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from astromodal.errors import ConfigError
from astromodal.recipes.ternary import losses
from astromodal.recipes.ternary.config import load_config
from astromodal.recipes.ternary.hyperbolic_vae import TernaryVAE
from astromodal.recipes.ternary.measures import best_hierarchy, measure, ranks, spearman
from astromodal.recipes.ternary.models import CurriculumScheduler, HomeostasisController
from astromodal.recipes.ternary.operations import operation_trits, valuation

N_TRITS, C = 4, 0.7
TERMS = tuple(losses.TERMS)


def outputs(n: int = 12, seed: int = 0, dtype=torch.float64) -> dict:
    """Random outputs of the network for ``n`` operations; ``tangent`` is the leaf that z_mean depends on."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(81, generator=generator)[:n]
    index[0] = 0

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    mean = (0.6 * normal(n, 3)).requires_grad_()
    z = torch.tanh(mean.norm(dim=1, keepdim=True) * C**0.5) * mean / (mean.norm(dim=1, keepdim=True) * C**0.5)
    return {
        "index": index,
        "mean": mean,
        "log_variance": normal(n, 3).requires_grad_(),
        "z": z,
        "z_mean": z,
        "logits": normal(n, N_TRITS, 3).requires_grad_(),
        "curvature": C,
    }


def slow_distance(x: np.ndarray, y: np.ndarray) -> float:
    ratio = 2 * C * ((x - y) ** 2).sum() / ((1 - C * (x**2).sum()) * (1 - C * (y**2).sum()))
    return math.acosh(1 + ratio) / math.sqrt(C)


def arrays(o: dict) -> tuple[np.ndarray, np.ndarray]:
    return o["z_mean"].detach().numpy(), o["index"].numpy()


def test_reconstruction_against_a_loop():
    o = outputs()
    logits, total = o["logits"].detach().numpy(), 0.0
    for row, n in enumerate(o["index"].tolist()):
        for i, trit in enumerate(operation_trits([n], N_TRITS)[0]):
            total -= logits[row, i, trit + 1] - math.log(np.exp(logits[row, i]).sum())
    assert float(losses.reconstruction(o).detach()) == pytest.approx(total / len(logits), rel=1e-5)


def test_kl_against_torch_and_free_bits():
    o = outputs()
    posterior = torch.distributions.Normal(o["mean"], (o["log_variance"] / 2).exp())
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(losses.kl(o), exact.sum())
    threshold = float(exact.detach().sort().values[:2].mean())  # between the least and the second
    value = losses.kl(o, free_bits=threshold)
    torch.testing.assert_close(value, exact.clamp_min(threshold).sum())
    value.backward()
    free = int(exact.argmin())
    assert (o["mean"].grad[:, free] == 0).all()
    assert all((o["mean"].grad[:, d] != 0).all() for d in range(3) if d != free)


def test_ranking_against_a_loop():
    o, margin = outputs(30), 0.3
    z, index = arrays(o)
    first, second = torch.randperm(30), torch.randperm(30)
    hinge, counts = losses.ranking_hinges(o, first, second, margin)
    for a in range(30):
        p, q = int(first[a]), int(second[a])
        near, far = valuation(index[a] - index[p], N_TRITS), valuation(index[a] - index[q], N_TRITS)
        assert float(counts[a]) == float(near != far)
        if near == far:
            continue
        if near < far:
            p, q = q, p
        expected = max(0.0, margin + slow_distance(z[a], z[p]) - slow_distance(z[a], z[q]))
        assert float(hinge[a].detach()) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    torch.manual_seed(5)
    value = losses.ranking(o, margin)
    torch.manual_seed(5)
    hinge, counts = losses.ranking_hinges(o, torch.randperm(30), torch.randperm(30), margin)
    torch.testing.assert_close(value, (hinge * counts).sum() / counts.sum())


def test_ranking_is_zero_on_a_tree_and_not_on_its_mirror():
    """Operations on a line, placed by their digits from the coarsest: 3-adically close ones are close by far."""
    index = torch.arange(81)
    digits = operation_trits(index.numpy(), N_TRITS).astype(float)
    place = torch.tensor((digits * 0.1 ** np.arange(1, N_TRITS + 1)).sum(1))[:, None]
    o = outputs() | {"index": index, "z_mean": place, "logits": torch.zeros(81, N_TRITS, 3), "curvature": 1e-3}
    torch.manual_seed(0)
    assert float(losses.ranking(o, margin=0.0)) == 0.0
    mirrored = torch.tensor((digits * 0.1 ** np.arange(N_TRITS, 0, -1)).sum(1))[:, None]
    assert float(losses.ranking(o | {"z_mean": mirrored}, margin=0.0)) > 0.05


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_radial_against_a_loop(balance):
    o = outputs(20)
    z, index = arrays(o)
    total = weights = 0.0
    for row, n in zip(z, index, strict=True):
        v = int(valuation(n, N_TRITS))
        gap = abs(slow_distance(np.zeros(3), row) - (5.0 - 3.0 * v / N_TRITS))
        total += 3 ** (balance * v) * (0.5 * gap**2 if gap < 1 else gap - 0.5)
        weights += 3 ** (balance * v)
    value = losses.radial(o, outer=5.0, inner=2.0, balance=balance)
    assert float(value.detach()) == pytest.approx(total / weights, rel=1e-6)


def test_repulsion_against_a_loop():
    o = outputs(9)
    z, _ = arrays(o)
    torch.manual_seed(1)
    value = float(losses.repulsion(o, scale=0.5).detach())
    torch.manual_seed(1)
    shift = int(torch.randint(1, 9, ()))
    expected = np.mean([math.exp(-slow_distance(z[a], z[(a - shift) % 9]) / 0.5) for a in range(9)])
    assert value == pytest.approx(expected, rel=1e-9)
    assert float(losses.repulsion(outputs(1)).detach()) == 0.0


def test_entropy_of_even_and_of_collapsed_outputs():
    even = outputs(81) | {
        "logits": 40.0
        * torch.nn.functional.one_hot(torch.from_numpy(operation_trits(np.arange(81), N_TRITS)).long() + 1, 3)
    }
    assert float(losses.entropy(even)) == pytest.approx(0.0, abs=1e-6)
    collapsed = outputs(81) | {"logits": torch.tensor([40.0, 0, 0]).expand(81, N_TRITS, 3)}
    assert float(losses.entropy(collapsed)) == pytest.approx(N_TRITS * math.log(3), rel=1e-6)
    mean = torch.softmax(outputs()["logits"], -1).mean(0)
    expected = N_TRITS * math.log(3) - torch.distributions.Categorical(mean).entropy().sum()
    assert float(losses.entropy(outputs()).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_by_finite_differences(name):
    o = outputs(8)
    leaf = o["logits"] if name in ("reconstruction", "entropy") else o["mean"]

    def value(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)  # the same partners every time
        if leaf is o["logits"]:
            return losses.TERMS[name](o | {"logits": x})
        norm = x.norm(dim=1, keepdim=True) * C**0.5
        return losses.TERMS[name](o | {"mean": x, "z_mean": torch.tanh(norm) * x / norm})

    tolerance = {"atol": 1e-3, "eps": 1e-3} if leaf is o["logits"] else {}  # these two are computed in float32
    assert torch.autograd.gradcheck(value, leaf.detach().clone().requires_grad_(), nondet_tol=1e-6, **tolerance)


# ----------------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_of_0_switches_a_term_and_its_gradient_off(name):
    config = load_config()
    for term in TERMS:
        setattr(config.loss_weights, term, 2.0 if term == name else 0.0)
    registry = losses.create_registry_from_training_config(config)
    o = outputs(20)
    torch.manual_seed(3)
    result = registry.compose(o, None)
    assert list(result.components) == [name]
    torch.testing.assert_close(result.total, 2.0 * result.components[name], check_dtype=False)
    result.total.backward(retain_graph=True)
    touched = o["logits"] if name in ("reconstruction", "entropy") else o["mean"]
    assert (touched.grad != 0).any()
    setattr(config.loss_weights, name, 0.0)  # read at the next call
    for leaf in ("mean", "logits", "log_variance"):
        o[leaf].grad = None
    result = registry.compose(o, None)
    assert not result.components and float(result.total.detach()) == 0.0
    result.total.backward()
    assert all(o[leaf].grad is None or (o[leaf].grad == 0).all() for leaf in ("mean", "logits", "log_variance"))


def test_the_total_is_the_weighted_sum_with_beta_and_difficulty():
    config = load_config()
    registry = losses.create_registry_from_training_config(config)
    registry.beta, registry.difficulty = 3.0, 0.25
    torch.manual_seed(0)
    result = registry.compose(outputs(20), None)
    assert list(result.components) == list(TERMS)
    weights = {name: getattr(config.loss_weights, name) for name in TERMS}
    weights["kl"] *= 3.0
    weights["ranking"] *= 0.25
    expected = sum(weights[name] * float(result.components[name].detach()) for name in TERMS)
    assert float(result.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert {"accuracy", "accuracy_trit", "kl_nats", "total", *TERMS} == set(result.metrics)
    assert not any(value.requires_grad for value in result.metrics.values())


def test_settings_reach_their_terms():
    config = load_config()
    config.losses.margin, config.losses.free_bits, config.losses.outer_radius = 0.0, 2.0, 9.0
    registry = losses.create_registry_from_training_config(config)
    o = outputs(20)
    torch.manual_seed(0)
    components = registry.compose(o).components
    torch.manual_seed(0)
    torch.testing.assert_close(components["kl"], losses.kl(o, 2.0))
    torch.testing.assert_close(components["ranking"], losses.ranking(o, 0.0))
    torch.testing.assert_close(components["radial"], losses.radial(o, 9.0, 2.0, 0.5))


def test_wrong_weights_are_refused():
    config = load_config()
    config.loss_weights.kl = -1.0
    with pytest.raises(ConfigError, match=r"loss_weights\.kl"):
        losses.create_registry_from_training_config(config).compose(outputs())
    with pytest.raises(ConfigError, match="no weight of reconstruction"):
        losses.LossRegistry(object())
    with pytest.raises(ConfigError, match="ranknig"):
        losses.LossRegistry(load_config().loss_weights, {"ranknig": {}})


def test_validate_is_the_mean_over_the_batches():
    torch.manual_seed(0)
    model = TernaryVAE(81, 3, width=8)
    config = load_config()
    config.loss_weights.ranking = config.loss_weights.repulsion = 0.0  # the terms that draw
    registry = losses.create_registry_from_training_config(config)
    batches = list(torch.arange(81).split(30))
    expected = [float(registry.compose(model.eval()(b), b).total.detach()) for b in batches]
    assert losses.validate(model.train(), batches, registry) == pytest.approx(np.mean(expected))
    assert not model.training
    with pytest.raises(ConfigError, match="at least one batch"):
        losses.validate(model, [], registry)


# -------------------------------------------------------------------------------- controllers, measures


def test_curricula():
    linear = CurriculumScheduler(start_difficulty=0.2, end_difficulty=1.0, warmup_epochs=8)
    assert [linear.get_difficulty(e) for e in range(9)] == pytest.approx([0.2 + 0.1 * e for e in range(9)])
    cosine = CurriculumScheduler(0.2, 1.0, 8, shape="cosine")
    expected = [0.2 + 0.8 * (1 - math.cos(math.pi * e / 8)) / 2 for e in range(9)]
    assert [cosine.get_difficulty(e) for e in range(9)] == pytest.approx(expected)
    exponential = CurriculumScheduler(0.1, 1.0, 4, shape="exponential")
    assert [exponential.get_difficulty(e) for e in range(5)] == pytest.approx([10 ** (-1 + e / 4) for e in range(5)])
    assert all(c.get_difficulty(1000) == pytest.approx(1.0) for c in (linear, cosine, exponential))
    for options in ({"shape": "step"}, {"warmup_epochs": 0}, {"shape": "exponential", "start_difficulty": 0.0}):
        with pytest.raises(ConfigError):
            CurriculumScheduler(**options)


def test_homeostasis_holds_a_divergence_and_its_state_survives():
    controller = HomeostasisController(target_kl=1.0, kl_tolerance=0.5)
    kl, trace = 6.0, []
    for _ in range(200):
        expected = controller.get_beta(kl)
        assert controller.get_beta(kl) == expected  # asking changes nothing
        assert controller.update(kl) == expected == controller.value
        kl = 3.0 / controller.value  # a model whose divergence falls with beta
        trace.append(kl)
    assert 0.5 <= trace[-1] <= 1.5 + 1e-9 and trace[-1] == trace[-2]
    again = HomeostasisController(target_kl=1.0, kl_tolerance=0.5)
    again.load_state_dict(controller.state_dict())
    assert again.value == controller.value != 1.0
    assert again.get_beta() == again.get_beta(float("nan")) == controller.value
    assert HomeostasisController(1.0, 0.5).update(0.1) < 1.0 < HomeostasisController(1.0, 0.5).update(9.0)
    with pytest.raises(ConfigError):
        HomeostasisController(1.0, 0.0)


def test_spearman_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 300), rng.normal(size=300)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert ranks(a) == pytest.approx(stats.rankdata(a))
    assert spearman(a, a) == pytest.approx(1.0) and spearman(a, np.ones(300)) == 0.0


def test_the_best_hierarchy_is_that_of_any_order_within_the_ties():
    values = valuation(np.arange(3**6), 6)
    radius = -values + np.random.default_rng(0).uniform(-0.4, 0.4, len(values))
    assert spearman(values, radius) == pytest.approx(best_hierarchy(6), abs=1e-12)
    assert best_hierarchy(9) == pytest.approx(-0.832, abs=5e-4)


def test_measures_against_a_loop():
    torch.manual_seed(0)
    model = TernaryVAE(81, 3, C, width=8).train()
    state = torch.get_rng_state()
    found = measure(model, batch_size=20)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    o = model.eval()(torch.arange(81))
    right = [(model.predict([n])[0].numpy() == operation_trits([n], 4)[0]).all() for n in range(81)]
    assert found.coverage == np.mean(right) and found.right.tolist() == right
    radii = [slow_distance(np.zeros(3), z) for z in o["z_mean"].detach().double().numpy()]
    assert found.radius == pytest.approx(radii, rel=1e-4)
    assert found.hierarchy == pytest.approx(spearman(valuation(np.arange(81), 4), np.array(radii)), abs=1e-3)
