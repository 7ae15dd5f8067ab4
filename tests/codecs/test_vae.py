"""Variational autoencoders: closed forms against sampling and torch's distributions, the two objectives, collapse."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as torch_kl

from astromodal.codecs.base import build_codec
from astromodal.codecs.variational import (
    LatentUse,
    bernoulli_nats,
    beta_at,
    check_corruption,
    corrupt,
    gaussian_nats,
    kl_divergence,
    sample_posterior,
)
from astromodal.codecs.vector_vae import VariationalAutoencoder, VectorObjective
from astromodal.config.schema import Corruption, VAEConfig
from astromodal.errors import ConfigError, DataError
from astromodal.models.trainable import Objective
from astromodal.training import count_parameters


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- closed forms


def test_the_divergence_is_the_mean_log_ratio_of_draws_and_torchs():
    mean, log_variance = torch.tensor([0.0, 0.7, -2.0, 0.1]), torch.tensor([0.0, -1.2, 0.5, -6.0])
    found = kl_divergence(mean, log_variance)
    posterior, prior = Normal(mean, torch.exp(0.5 * log_variance)), Normal(torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(found, torch_kl(posterior, prior))
    torch.manual_seed(0)
    draws = sample_posterior(mean.expand(100_000, 4), log_variance.expand(100_000, 4))
    ratios = posterior.log_prob(draws) - prior.log_prob(draws)
    error = ratios.std(0) / 100_000**0.5
    assert ((ratios.mean(0) - found).abs() < 5 * error + 1e-6).all()


def test_draws_have_the_posteriors_mean_and_width_and_pass_gradients_on():
    mean, log_variance = torch.tensor([1.0, -2.0]).requires_grad_(), torch.tensor([-2.0, 1.0]).requires_grad_()
    torch.manual_seed(1)
    draws = sample_posterior(mean.expand(50_000, 2), log_variance.expand(50_000, 2))
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.std(0), torch.exp(0.5 * log_variance), rtol=0.01, atol=0)
    draws.square().mean(0).sum().backward()  # d/dm = 2 m, d/dlog_variance = variance
    torch.testing.assert_close(mean.grad, 2 * mean.detach(), rtol=0, atol=0.05)
    torch.testing.assert_close(log_variance.grad, log_variance.detach().exp(), rtol=0.02, atol=0.01)


def test_likelihoods_are_torchs():
    logits, target = torch.randn(50, generator=generator()) * 4, torch.rand(50, generator=generator(1))
    hard = (target > 0.5).float()
    torch.testing.assert_close(bernoulli_nats(logits, hard), -Bernoulli(logits=logits).log_prob(hard))
    expected = -Normal(logits, 0.3).log_prob(target)
    torch.testing.assert_close(gaussian_nats(logits, target, float(np.log(0.3))), expected)


def test_free_bits_cost_nothing_and_have_no_gradient():
    mean = torch.tensor([0.1, 1.0, -3.0]).requires_grad_()
    log_variance = torch.zeros(3, requires_grad=True)
    found = kl_divergence(mean, log_variance, free_bits=0.4)
    assert found.tolist() == pytest.approx([0.4, 0.5, 4.5])
    found.sum().backward()
    assert mean.grad.tolist() == pytest.approx([0.0, 1.0, -3.0])
    assert torch.equal(kl_divergence(mean, log_variance), kl_divergence(mean, log_variance, free_bits=0.0))


def test_the_weight_of_the_divergence_rises_on_a_line():
    assert [beta_at(step, 0.5, 10) for step in (1, 5, 10, 1000)] == pytest.approx([0.05, 0.25, 0.5, 0.5])


def test_corruption_does_what_it_says_and_nothing_at_zero():
    x = torch.randint(2, (200, 300), generator=generator()).float()
    torch.manual_seed(0)
    noisy = corrupt(x, Corruption.gaussian, 0.2)
    assert float((noisy - x).std()) == pytest.approx(0.2, rel=0.02) and abs(float((noisy - x).mean())) < 0.005
    masked = corrupt(x, Corruption.masking, 0.3)
    assert float((masked[x == 1] == 0).float().mean()) == pytest.approx(0.3, abs=0.01) and (masked[x == 0] == 0).all()
    flipped = corrupt(x, Corruption.flip, 0.3)
    for value in (0, 1):
        assert float((flipped[x == value] != value).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert all(corrupt(x, kind, 0.0) is x for kind in Corruption)
    with pytest.raises(ConfigError, match=r"between 0 and 1, got 1\.5"):
        check_corruption(Corruption.flip, 1.5, "corruption_rate")
    with pytest.raises(ConfigError, match=r"0 or more, got -0\.1"):
        check_corruption(Corruption.gaussian, -0.1, "noise_std")


def test_active_units_are_those_whose_mean_varies_and_collapse_is_said_once(caplog):
    use = LatentUse(4)
    n = 1000
    mean = torch.randn(n, 4, generator=generator()) * torch.tensor([1.0, 0.05, 0.2, 0.0]) + torch.tensor([0, 0, 3, 2.0])
    parts = [use.sums(part, kl_divergence(part, torch.zeros_like(part))) for part in mean.split(300)]
    totals = {name: tuple(sum(float(part[name][i]) for part in parts) for i in (0, 1)) for name in parts[0]}
    figures = use.figures(totals)
    assert figures["active_units"] == 2 and not caplog.records
    assert figures["kl"] == pytest.approx(float(0.5 * mean.square().sum() / n), rel=1e-4)
    dead = {name: (0.0, float(n)) for name in totals}
    with caplog.at_level(logging.WARNING):
        for watch in (True, True, False, True, True):
            use.figures(dead, watch=watch)
        assert not caplog.records  # it may only be early, or the divergence not count yet
        for _ in range(5):
            use.figures(dead)
    assert len(caplog.records) == 1 and "none of 4 latents" in caplog.text


# ------------------------------------------------------------------------------------ vectors


def vectors(n: int = 64, size: int = 12, seed: int = 0) -> torch.Tensor:
    """Two communities of 0/1 species."""
    home = torch.randint(2, (n, 1), generator=generator(seed))
    p = torch.where(torch.arange(size) < size // 2, 0.1 + 0.8 * home, 0.9 - 0.8 * home)
    return torch.bernoulli(p, generator=generator(seed + 1))


def prepared(objective: VectorObjective, x: torch.Tensor, step: int = 1) -> dict:
    return objective.prepare([{"x": x}], step)[0]


def test_the_documented_size():
    model = VariationalAutoencoder(467, 16, 512)
    assert count_parameters(model) == (1_554_931, 1_554_931)
    assert [name for name, _ in model.named_children()][:2] == ["encoder_network", "latent_mean_layer"]
    assert VariationalAutoencoder(input_dimension=467, latent_dimension=16).hidden_dimension == 512


def test_the_loss_is_summed_over_dimensions_and_averaged_over_vectors():
    torch.manual_seed(0)
    model = VariationalAutoencoder(12, 3, 16)
    objective = VectorObjective(model, beta=0.7, free_bits=0.01).eval()
    assert isinstance(objective, Objective)
    x = vectors(10)
    loss, stats = objective(prepared(objective, x))
    mean, log_variance = model.encode(x)
    p = torch.sigmoid(model.decode(mean))
    reconstruction = kl = 0.0
    for i in range(10):
        reconstruction -= float(Bernoulli(p[i]).log_prob(x[i]).sum().detach())
        for j in range(3):
            kl += max(0.01, float(kl_divergence(mean[i, j], log_variance[i, j]).detach()))
    assert float(stats["reconstruction"]) == pytest.approx(reconstruction / 10, rel=1e-5)
    assert float(stats["kl"]) == pytest.approx(kl / 10, rel=1e-5)
    assert float(loss.detach()) == pytest.approx((reconstruction + 0.7 * kl) / 10, rel=1e-5)
    parts = objective.prepare([{"x": x[:3]}, {"x": x[3:]}], 1)
    assert sum(float(objective(part)[0].detach()) for part in parts) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_training_sees_noise_and_validation_does_not():
    torch.manual_seed(0)
    objective = VectorObjective(VariationalAutoencoder(12, 3, 16), amount=0.3)
    batch = prepared(objective, vectors())
    assert not torch.equal(objective.train()(batch)[0], objective(batch)[0])
    first = objective.eval().evaluate(batch)
    torch.manual_seed(5)
    again = objective.evaluate(batch)
    assert all(torch.equal(first[name][0], again[name][0]) for name in first)
    metrics = objective.summarize({name: (float(v), float(n)) for name, (v, n) in first.items()})
    assert metrics["loss"] == pytest.approx(metrics["reconstruction"] + metrics["kl"])
    assert float(objective(batch)[0].detach()) == pytest.approx(metrics["loss"], rel=1e-5)


def test_the_target_stays_clean():
    torch.manual_seed(0)
    objective = VectorObjective(VariationalAutoencoder(12, 3, 16), corruption="flip", amount=1.0).train()
    seen = []
    objective.model.encoder_network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    targets = []
    nats = objective.model.nats
    objective.model.nats = lambda decoded, target: targets.append(target) or nats(decoded, target)
    x = vectors(4)
    objective(prepared(objective, x))
    assert torch.equal(seen[0], 1 - x) and torch.equal(targets[0], x)


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan"), float("inf")])
def test_bernoulli_input_outside_of_0_to_1_is_refused(bad):
    objective = VectorObjective(VariationalAutoencoder(12, 3, 16))
    x = vectors(4)
    x[2, 5] = bad
    with pytest.raises(DataError, match=r"Bernoulli|finite"):
        prepared(objective, x)
    with pytest.raises(DataError, match=r"Bernoulli|finite"):
        objective.evaluate({"x": x})
    real = VectorObjective(VariationalAutoencoder(12, 3, 16, likelihood="gaussian"))
    if np.isfinite(bad):
        prepared(real, x)
    else:
        with pytest.raises(DataError, match="finite"):
            prepared(real, x)


def test_settings_that_cannot_be():
    model = VariationalAutoencoder(12, 3, 16, likelihood="gaussian")
    for settings, message in (({"beta": -1.0}, "beta"), ({"corruption": "flip"}, "flip"), ({"amount": -1.0}, "amount")):
        with pytest.raises(ConfigError, match=message):
            VectorObjective(model, **settings)
    with pytest.raises(ConfigError, match="latent_dimension of 1"):
        VariationalAutoencoder(12, 0)


def test_one_latent_finds_the_two_communities():
    torch.manual_seed(0)
    objective = VectorObjective(VariationalAutoencoder(12, 2, 32), amount=0.1, kl_warmup_steps=30)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    for step in range(1, 161):
        loss, _ = objective(prepared(objective, vectors(64, seed=10 * step), step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    held_out = vectors(512, seed=7)
    totals = {k: (float(v), float(n)) for k, (v, n) in objective.eval().evaluate({"x": held_out}).items()}
    metrics = objective.summarize(totals)
    entropy = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9)) * 12  # of the species, the community known: 3.90 nats
    assert metrics["active_units"] == 1
    assert entropy < metrics["loss"] < entropy + np.log(2) + 0.4  # without communities: 12 log 2 = 8.3


# ------------------------------------------------------------------------------------ the codec


def batch_of(x: torch.Tensor, valid: torch.Tensor | None = None) -> dict:
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    return {"x": x, "valid": valid, "weight": valid * (0.2 + torch.rand(x.shape, generator=generator(3)))}


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 37)])
def test_the_codecs_loss_from_its_parts(shape):
    torch.manual_seed(0)
    codec = build_codec(VAEConfig(width=8, n_blocks=1, patch_size=8, beta=0.5, kl_warmup_steps=4), shape)
    objective = codec.objective([str(i) for i in range(shape[0])]).eval()
    x = torch.randn(5, *shape, generator=generator())
    valid = torch.rand(x.shape, generator=generator(1)) > 0.3
    batch = batch_of(x, valid)
    loss, stats = objective(objective.prepare([dict(batch)], 2)[0])
    mean, log_variance = codec.posterior(torch.where(valid, x, 0.0), valid)
    sigma = codec.log_sigma.exp().reshape(-1, *(1,) * (len(shape) - 1))
    nats = -Normal(codec.decode(mean), sigma.expand_as(x)).log_prob(torch.where(valid, x, 0.0))
    weight = batch["weight"] / (batch["weight"].sum() / valid.sum())
    reconstruction = float((weight * nats).sum().detach() / 5)
    kl = float(kl_divergence(mean, log_variance).sum().detach() / 5)
    assert float(stats["reconstruction"]) == pytest.approx(reconstruction, rel=1e-4)
    assert float(stats["kl"]) == pytest.approx(kl, rel=1e-4)
    n_numbers = np.prod(shape)
    assert float(loss.detach()) == pytest.approx((reconstruction + 0.25 * kl) / n_numbers, rel=1e-4)


def test_the_scale_of_the_weights_is_without_effect():
    codec = build_codec(VAEConfig(width=8, n_blocks=1), (2, 8, 8))
    objective = codec.objective("gr").eval()
    batch = batch_of(torch.randn(3, 2, 8, 8, generator=generator()))
    losses = [
        float(objective(objective.prepare([batch | {"weight": factor * batch["weight"]}], 1)[0])[0].detach())
        for factor in (1.0, 1e-3, 50.0)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("corruption", ["gaussian", "masking"])
def test_the_codec_denoises_in_training_only(corruption):
    config = VAEConfig(width=8, n_blocks=1, corruption=corruption, noise_std=0.3, corruption_rate=0.4)
    codec = build_codec(config, (2, 8, 8))
    x, valid = torch.randn(3, 2, 8, 8, generator=generator()), torch.ones(3, 2, 8, 8, dtype=torch.bool)
    valid[0, 0] = False
    shown, trusted = codec.corrupted(x, valid)
    assert not trusted[0, 0].any()
    if corruption == "masking":
        assert torch.equal(shown, x) and 0.4 < float(trusted.float().mean()) < 0.65
    else:
        assert torch.equal(trusted, valid) and 0.25 < float((shown - x).std()) < 0.35
    assert torch.equal(codec.eval()(x, valid), codec(x, valid))
    assert codec.to_dict()["config"]["corruption"] == corruption


def test_a_spectrum_shorter_than_a_patch_is_one_patch():
    codec = build_codec(VAEConfig(patch_size=100, latent_channels=3), (1, 37)).eval()
    latents = codec.encode(torch.randn(2, 1, 37), torch.ones(2, 1, 37, dtype=torch.bool))
    assert latents.shape == (2, 3, 1) and codec.decode(latents).shape == (2, 1, 37)


def test_codec_settings_that_cannot_be():
    for settings, message in (
        ({"corruption": "flip"}, "gaussian or masking, got flip"),
        ({"beta": -1.0}, r"beta of 0 or more, got -1.0 \(tokenizer.spectrum.codec.beta\)"),
        ({"patch_size": 0}, "patch_size of 1 or more"),
        ({"width": 0}, "width of 1 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_codec(VAEConfig(**settings), (1, 37))


@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_more_weight_on_the_divergence_means_less_information(beta):
    """Also: latents in use have a spread near that of the prior, on which k-means can work."""
    torch.manual_seed(0)
    codec = build_codec(VAEConfig(width=16, n_blocks=1, patch_size=16, latent_channels=2, beta=beta), (1, 64))
    objective = codec.objective(["flux"])
    optimizer = torch.optim.Adam(objective.parameters(), lr=5e-3)
    line = torch.linspace(0, 6, 64)

    def spectra(n: int, seed: int) -> torch.Tensor:
        phase = 6.28 * torch.rand(n, 1, 1, generator=generator(seed))
        return torch.sin(line + phase) + 0.3 * torch.randn(n, 1, 64, generator=generator(seed + 1))

    for step in range(1, 101):
        loss, _ = objective(objective.prepare([batch_of(spectra(32, 10 * step))], step)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    x = spectra(256, 5)
    totals = {k: (float(v), float(n)) for k, (v, n) in objective.eval().evaluate(batch_of(x)).items()}
    metrics = objective.summarize(totals)
    latents = codec.encode(x, torch.ones_like(x, dtype=torch.bool))
    if beta < 1:
        assert metrics["kl"] > 8 and metrics["score"] < 0.35 and metrics["active_units"] == 2
        assert 0.5 < float(latents.detach().std((0, 2)).max()) < 3
    else:
        assert metrics["kl"] < 8


# ------------------------------------------------------------------------------------ as a tokenizer


def test_cutouts_and_spectra_are_tokenised_by_it_and_the_tokenizers_load_again(tmp_path):
    from astromodal import stages
    from astromodal.tokenizers import TokenizerSet
    from tests.tiny_survey import configuration, undrawn, write_survey

    write_survey(tmp_path, n_fields=1, n=60)
    small = ("width=8", "n_blocks=1", "training.epochs=1", "beta=2")
    options = [f"tokenizer.{part}.codec.{setting}" for part in ("image", "spectrum") for setting in small]
    groups = ("tokenizer.spectrum.groups=[desi_b,gaiaxp_bp]", "tokenizer.scalar=null")
    codecs = ("tokenizer/image/codec=vae", "tokenizer/spectrum/codec=vae")
    with undrawn(tmp_path):
        stages.train_tokenizers(configuration("train_tokenizers", tmp_path, *codecs, *options, *groups))
    tokenizers = TokenizerSet.load(tmp_path / "artifacts/synthetic/default/tokenizers")
    codec = tokenizers.image.codec_
    assert (codec.name, codec.config.beta, codec.latent_shape) == ("vae", 2.0, (2, 8, 8))
    x = torch.randn(2, *codec.array_shape, generator=generator())
    valid = np.ones(x.shape, dtype=bool)
    latents = tokenizers.image.encode_normalized(x, torch.from_numpy(valid))
    assert np.allclose(latents, codec.encode(x, torch.from_numpy(valid)).detach().numpy(), atol=1e-5)
    assert tokenizers.image.quantize(latents).shape == (2, 64)
    assert {group.network.name for group in tokenizers.spectrum.codecs.values()} == {"vae"}
