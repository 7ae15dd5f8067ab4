"""The contract of codecs, and the autoencoder's own promises about invalid pixels and missing bands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from astromodal.codecs.base import build_codec, codec_from_dict
from astromodal.config.schema import AutoencoderConfig
from astromodal.errors import ArtifactError, ConfigError
from astromodal.models.trainable import Objective

CONFIGS = [AutoencoderConfig(width=16, n_blocks=1), AutoencoderConfig(width=12, n_blocks=2, latent_channels=3)]


def make(config=CONFIGS[0], n_bands=3, size=16, seed=0):
    torch.manual_seed(seed)
    codec = build_codec(config, (n_bands, size, size))
    with torch.no_grad():  # blocks start as the identity: give every path something to say
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return codec


def blobs(n, n_bands=3, size=16, seed=0):
    """Gaussian blobs of random place, width and colour with a little noise, normalised scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    cx, cy = rng.uniform(-size / 4, size / 4, (2, n, 1, 1))
    width = rng.uniform(1.2, 3.0, (n, 1, 1))
    shape = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    colour = rng.uniform(0.5, 4.0, (n, n_bands, 1, 1))
    return torch.tensor(colour * shape[:, None] + 0.05 * rng.normal(size=(n, n_bands, size, size)), dtype=torch.float32)


def as_batch(x, valid=None, inside=None, outside_weight=0.25):
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    inside = torch.ones(len(x), *x.shape[2:], dtype=torch.bool) if inside is None else inside
    return {"x": x, "valid": valid, "weight": valid * torch.where(inside, 1.0, outside_weight)[:, None]}


@pytest.mark.parametrize("config", CONFIGS, ids=["2 channels", "3 channels"])
@pytest.mark.parametrize(("n_bands", "size"), [(1, 8), (9, 24), (12, 96)])
def test_shapes_bounds_and_determinism(config, n_bands, size):
    codec = make(config, n_bands, size).eval()
    x, valid = torch.randn(2, n_bands, size, size), torch.rand(2, n_bands, size, size) > 0.1
    latents = codec.encode(x, valid)
    assert latents.shape == (2, *codec.latent_shape) == (2, config.latent_channels, size // 4, size // 4)
    assert latents.abs().max() <= 1
    assert codec.decode(latents).shape == x.shape
    assert torch.equal(codec.encode(x, valid), latents) and torch.equal(codec.decode(latents), codec.decode(latents))


def test_training_goes_through_noisy_latents_and_evaluation_does_not():
    codec, x = make(), blobs(2)
    valid = torch.ones_like(x, dtype=torch.bool)
    assert not torch.equal(codec.train()(x, valid), codec(x, valid))
    assert torch.equal(codec.eval()(x, valid), codec(x, valid))


def test_what_an_invalid_pixel_holds_never_matters():
    codec, x = make().eval(), blobs(2)
    valid = torch.rand_like(x) > 0.3
    reference = codec.encode(x, valid)
    for value in (0.0, 1e6, float("nan"), float("inf")):
        assert torch.equal(codec.encode(torch.where(valid, x, value), valid), reference)


def test_a_missing_band_is_not_the_same_as_empty_sky():
    codec, x = make().eval(), blobs(2)
    x[:, 1] = 0
    valid = torch.ones_like(x, dtype=torch.bool)
    seen = codec.encode(x, valid)
    valid[:, 1] = False
    assert not torch.allclose(codec.encode(x, valid), seen, atol=1e-3)


def test_invalid_pixels_have_no_gradient_and_no_part_in_the_loss():
    codec = make().eval()
    objective = codec.objective("gri")
    x = blobs(3)
    valid = torch.rand_like(x) > 0.3
    valid[0, 2] = False
    x.requires_grad_()
    batch = objective.prepare([as_batch(x, valid)], 1)[0]
    loss, _ = objective(batch)
    loss.backward()
    assert (x.grad[~valid] == 0).all() and (x.grad[valid] != 0).any()
    other = torch.where(valid, x.detach(), torch.tensor(float("nan")))
    changed, _ = objective(objective.prepare([as_batch(other, valid)], 1)[0])
    assert torch.equal(changed, loss)


def test_the_loss_is_the_weighted_mean_and_pixels_outside_weigh_less():
    codec = make().eval()
    objective = codec.objective("gri")
    x, valid = blobs(2), torch.rand(2, 3, 16, 16) > 0.3
    inside = torch.rand(2, 16, 16) > 0.5
    loss, stats = objective(objective.prepare([as_batch(x, valid, inside)], 1)[0])
    loss = loss.detach()
    reconstruction = codec(x, valid).detach()
    total = weight_sum = 0.0
    for i, c, row, column in np.ndindex(*x.shape):
        weight = float(valid[i, c, row, column]) * (1.0 if inside[i, row, column] else 0.25)
        total += weight * float(reconstruction[i, c, row, column] - x[i, c, row, column]) ** 2
        weight_sum += weight
    assert float(loss) == pytest.approx(total / weight_sum, rel=1e-5) == pytest.approx(float(stats["loss"]))


def test_micro_batches_of_a_step_add_up_to_the_whole_step():
    codec = make().eval()
    objective = codec.objective("gri")
    assert isinstance(objective, Objective)
    x, valid, inside = blobs(6), torch.rand(6, 3, 16, 16) > 0.4, torch.rand(6, 16, 16) > 0.5
    with torch.no_grad():
        whole, _ = objective(objective.prepare([as_batch(x, valid, inside)], 1)[0])
    parts = [as_batch(x[s], valid[s], inside[s]) for s in (slice(0, 1), slice(1, 4), slice(4, 6))]
    shares = [objective(batch)[0].detach() for batch in objective.prepare(parts, 1)]
    assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-5)


def test_a_step_without_valid_pixels_has_loss_zero():
    objective = make().objective("gri")
    batch = as_batch(blobs(2), torch.zeros(2, 3, 16, 16, dtype=torch.bool))
    loss, _ = objective(objective.prepare([batch], 1)[0])
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_evaluation_is_additive_and_predicting_the_mean_scores_one():
    objective = make().objective("gri").eval()
    x = blobs(6)
    means = x.mean((0, 2, 3))

    class Mean(torch.nn.Module):
        def forward(self, image, valid):
            return means[None, :, None, None].expand_as(image)

    objective.model = Mean()
    totals: dict = {}
    for part in (x[:2], x[2:]):
        for name, (value, weight) in objective.evaluate(as_batch(part)).items():
            old = totals.get(name, (0.0, 0.0))
            totals[name] = (old[0] + float(value), old[1] + float(weight))
    metrics = objective.summarize(totals)
    assert metrics["score"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["variance_fraction_r"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["loss"] == pytest.approx(float(x.var((0, 2, 3), unbiased=False).mean()), rel=1e-4)


def test_bands_hidden_from_the_encoder_are_still_asked_of_the_decoder():
    codec = make().eval()
    objective = codec.objective("gri")
    x = blobs(2)
    seen = torch.tensor([[True, False, True], [True, True, True]])
    batch = objective.prepare([as_batch(x) | {"seen": seen}], 1)[0]
    loss, _ = objective(batch)
    shown = torch.ones_like(x, dtype=torch.bool) & seen[:, :, None, None]
    assert float(loss) == pytest.approx(float((codec(x, shown) - x).square().mean()), rel=1e-5)


def test_reconstruction_of_blobs_beats_the_mean_by_a_large_factor():
    torch.manual_seed(0)
    codec = build_codec(AutoencoderConfig(width=24, n_blocks=1), (3, 16, 16))
    objective = codec.objective("gri")
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    x = blobs(512)
    for step in range(500):
        rows = torch.randint(len(x), (32,), generator=torch.Generator().manual_seed(step))
        loss, _ = objective(objective.prepare([as_batch(x[rows])], step)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    objective.eval()
    sums = {name: (float(v), float(w)) for name, (v, w) in objective.evaluate(as_batch(blobs(64, seed=1))).items()}
    assert objective.summarize(sums)["score"] < 0.1


def test_a_codec_survives_saving_as_plain_values(tmp_path):
    codec = make(CONFIGS[1], n_bands=9, size=24).eval()
    torch.save({"codec": codec.to_dict(), "state": codec.state_dict()}, tmp_path / "codec.pt")
    content = torch.load(tmp_path / "codec.pt", weights_only=True)
    again = codec_from_dict(content["codec"])
    again.load_state_dict(content["state"])
    x, valid = torch.randn(2, 9, 24, 24), torch.ones(2, 9, 24, 24, dtype=torch.bool)
    assert torch.equal(again.eval().encode(x, valid), codec.encode(x, valid))


def test_impossible_codecs_are_refused():
    with pytest.raises(ConfigError, match=r"multiple of 4, got 30 \(data\.images\.size\)"):
        build_codec(CONFIGS[0], (3, 30, 30))
    with pytest.raises(ConfigError, match=r"width of 1 or more, got 0"):
        build_codec(AutoencoderConfig(width=0), (3, 32, 32))
    with pytest.raises(ConfigError, match=r"a codec of autoencoder, .*got vq"):
        build_codec(AutoencoderConfig(name="vq"), (3, 32, 32))
    with pytest.raises(ArtifactError, match="saved codec"):
        codec_from_dict({"name": "other"})
